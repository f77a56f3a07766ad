"""A server that speaks OpenAI's API: what it says of a model, requests to it, and its errors.

The key is read from the environment when it is needed. It is in no setting, hash or message.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from cai.data.records import content_hash
from cai.engines import Unanswered
from cai.engines.error_bodies import words_of
from cai.engines.server_errors import (
    BLOCKED,
    explained,
    import_openai,
    key_of,
    of_request,
    one_line,
    said_by_error,
    server_of,
    where_of,
)
from cai.errors import CaiError
from cai.settings import ModelSettings, ServerSettings

T = TypeVar("T")

UNLISTED = (404, 405, 501)
"""Statuses of servers that do not list their models; they are used all the same."""
BROKEN = 3
"""So many unusable answers to one request (no JSON, no choices) are one too many."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
"""Seconds before an answer that is an error is asked for again, and again."""
MOST_PAGES = 100
"""Of a list of models; a server that has more of them is used as one that does not list its own."""
FIRST_RETRIES = 2
"""Before anything is done, a server that is down is better said soon than waited for."""


@dataclass(frozen=True)
class ModelReport:
    """What a server says of a model; empty where it says nothing.

    Attributes:
        owner: `vllm` for vLLM.
        root: What the name stands for.
        parent: The model that an adapter is on.
        context: The most tokens of a prompt and its answer.
    """

    owner: str = ""
    root: str = ""
    parent: str = ""
    context: int | None = None


def fingerprint_server(settings: ModelSettings, report: ModelReport) -> str:
    """Name a model behind a server: where and how it is asked, and what the server reports."""
    server = server_of(settings)
    return content_hash(
        "server",
        server.base_url,
        settings.path,
        settings.format,
        settings.options,
        [server.kind, server.tokenizer, server.scores, server.samples],
        [report.owner, report.root, report.parent],
        *([[server.omit, server.rename]] if server.omit or server.rename else []),
    )


def report_of(settings: ModelSettings) -> ModelReport:
    """Ask a server about a model.

    Raises:
        CaiError: The `openai` package or the key is missing, the server is down or refuses the key,
            or it does not know the model.
    """
    openai, server = import_openai(), server_of(settings)
    server = server.model_copy(update={"retries": min(server.retries, FIRST_RETRIES)})
    try:
        with openai.OpenAI(**_client_settings(server)) as client:
            known, is_whole = _listed(client, _names(settings.path))
    except openai.APIStatusError as error:
        unlisted = error.status_code == 403 and "scope" in said_by_error(error, server)
        if unlisted or error.status_code in UNLISTED:
            return ModelReport()
        raise explained(error, settings.model_copy(update={"server": server})) from error
    except (openai.OpenAIError, ValueError, TypeError) as error:
        raise explained(error, settings.model_copy(update={"server": server})) from error
    if not known:
        return ModelReport()
    model = next((known[name] for name in _names(settings.path) if name in known), None)
    if model is None and (not is_whole or ".azure.com" in server.base_url):
        return ModelReport()  # on another page, or a deployment, which Azure does not list
    if model is None:
        raise _unknown(settings, sorted(known))
    context = model.get("max_model_len")
    return ModelReport(
        owner=str(model.get("owned_by") or ""),
        root=str(model.get("root") or ""),
        parent=str(model.get("parent") or ""),
        context=context if isinstance(context, int) else None,
    )


def _listed_models(answer: object) -> dict[str, Mapping[str, Any]]:
    """Return the models that a server lists, by name: as OpenAI does, or as a bare list.

    Raises:
        TypeError: It is no list of models.
    """
    listed: Any = answer.get("data") if isinstance(answer, dict) else answer  # pyright: ignore
    if listed is None:
        return {}
    if not isinstance(listed, list):
        raise TypeError("what it gives is no list of models")
    models: list[Any] = [one for one in listed if isinstance(one, dict)]  # pyright: ignore
    return {one["id"]: one for one in models if isinstance(one.get("id"), str)}


def _names(path: str) -> list[str]:
    """Return what a list may call a model: Gemini and Ollama list longer names than they accept.

    OpenRouter accepts variants (`NAME:nitro`) that it does not list.
    """
    return [path, f"models/{path}", f"{path}:latest", path.rpartition(":")[0]]


def _listed(client: Any, wanted: Sequence[str]) -> tuple[dict[str, Mapping[str, Any]], bool]:  # noqa: ANN401
    """Read the list of a server's models, page after page, until one of those wanted is on it.

    Returns:
        The models by name, and whether the list was read to its end.

    Raises:
        openai.OpenAIError, TypeError: The first page cannot be read.
    """
    openai = import_openai()
    known: dict[str, Mapping[str, Any]] = {}
    page: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        try:
            answer = client.get("/models", cast_to=object, options={"params": page})
        except openai.APIStatusError:
            if not page:
                raise
            return known, False  # it does not take the name of the next page
        found = _listed_models(answer)
        is_new = bool({*found} - {*known})
        known |= found
        page = _next_page(answer, found)
        if not page:
            return known, True
        if not is_new or any(name in known for name in wanted):
            return known, False
    return known, False


def _next_page(answer: object, found: Mapping[str, object]) -> dict[str, str]:
    """Return the parameters of the next page, as OpenAI, Anthropic, Gemini or Cohere have them.

    Of an address, the parameters alone are used: requests go to no other server.
    """
    if not isinstance(answer, dict):
        return {}
    told = cast("dict[str, Any]", answer)
    for key, name in (("nextPageToken", "pageToken"), ("next_page_token", "page_token")):
        if told.get(key):
            return {name: str(told[key])}
    address = told.get("next") or told.get("next_page")
    if isinstance(address, str) and (asked := parse_qsl(urlsplit(address).query)):
        return dict(asked)
    if not (told.get("has_more") or address):
        return {}
    name = "after_id" if told.get("last_id") and "first_id" in told else "after"
    return {name: str(told.get("last_id") or next(reversed([*found]), ""))}


def open_client(settings: ModelSettings) -> Any:  # noqa: ANN401 (openai.AsyncOpenAI)
    """Return an asynchronous client, which waits and tries again by itself.

    Raises:
        CaiError: The `openai` package or the key is missing.
    """
    return import_openai().AsyncOpenAI(**_client_settings(server_of(settings)))


def _client_settings(server: ServerSettings) -> dict[str, Any]:
    return {
        "base_url": server.base_url,
        "api_key": key_of(server),
        "max_retries": server.retries,
        "timeout": server.timeout,
    }


class UpstreamError(Exception):
    """An answer with status 200 that is an error: what is behind the server failed.

    Attributes:
        stays: Asking again would not help.
    """

    def __init__(self, words: str, *, stays: bool) -> None:
        """Take the server's words."""
        super().__init__(words)
        self.stays = stays


async def ask(
    send: Callable[[], Awaitable[Any]],
    use: Callable[[Any], T],
    settings: ModelSettings,
    learn: Callable[[Exception], bool],
    has_answered: Callable[[], bool],
) -> T:
    """Send a request and return what `use` makes of the answer; unusable answers are asked anew.

    Args:
        send: Sends it. The client waits and tries again after rate limits, errors and timeouts.
        use: Raises a TypeError, ValueError, LookupError or AttributeError if the answer is no good.
        settings: The model's.
        learn: Gets the client's error of a refused request; if it returns true, the request is sent
            again at once, in another form.
        has_answered: Whether the server has answered another request: if it then gives nothing that
            can be used, this request is at fault and not the address.

    Raises:
        PromptTooLong: The server says so.
        Unanswered: The server refuses the request, or failed.
        CaiError: Whatever else goes wrong, in words.
    """
    openai, retries = import_openai(), server_of(settings).retries
    broken = failed = 0
    while True:
        try:
            answer = await send()
            _check_body(answer, settings)
            return use(answer)
        except openai.OpenAIError as error:
            meant = explained(error, settings)
            if not (isinstance(meant, CaiError) and learn(error)):
                raise meant from error
        except UpstreamError as error:
            failed += 1
            if error.stays or failed > retries:
                tries = "1 try" if failed == 1 else f"{failed} tries"
                raise CaiError(
                    f"{where_of(settings)} answers with an error in place of a text in {tries} "
                    f"({error}). Try again later, or correct what it names; finished rows "
                    "are kept."
                ) from error
            await asyncio.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            broken += 1
            if broken == BROKEN:
                said = (
                    f"{where_of(settings)} gave {BROKEN} unusable answers to one request "
                    f"({type(error).__name__}: {error})."
                )
                if has_answered():
                    raise Unanswered("failed", said) from error
                fix = "Check that `server.base_url` is an OpenAI-compatible API."
                raise CaiError(f"{said} {fix}") from error


def _check_body(answer: Any, settings: ModelSettings) -> None:  # noqa: ANN401
    """Look for what else than an answer may come with status 200.

    Raises:
        UpstreamError: An error, which those that pass requests on send so.
        PromptTooLong, Unanswered, NoLogprobsError: The same, and the request alone is guilty of it.
        ValueError: A text, or nothing.
    """
    if isinstance(answer, str):
        raise ValueError(f"no JSON but {' '.join(answer.split())[:80]!r}")
    if getattr(answer, "choices", None):
        return
    body: Any = (
        answer.model_dump(exclude_none=True, warnings=False)
        if hasattr(answer, "model_dump")
        else answer
    )
    said = one_line(words_of(body), server_of(settings)) if isinstance(body, dict) else ""
    if not said and (blocked := BLOCKED.search(str(body))):
        raise Unanswered("refused", f"the server blocked the request: {blocked.group(1)}")
    if not said:
        raise ValueError(f"no choices in {str(body)[:80]!r}")
    error: Any = body.get("error")
    code = str((error if isinstance(error, dict) else body).get("code"))  # pyright: ignore
    status = int(code) if code.isdecimal() else 0
    own = of_request(status if 400 <= status < 600 else 400, said, body)
    raise own or UpstreamError(said, stays=status in (401, 402, 403, 404))


def _unknown(settings: ModelSettings, known: list[str]) -> CaiError:
    alike = difflib.get_close_matches(settings.path, known, n=3) or known[:5]
    return CaiError(
        f"{where_of(settings)} has no model `{settings.path}`. It has {', '.join(alike) or 'none'}"
        f"{'' if len(alike) == len(known) else ', among others'}. Correct the model's `path`."
    )
