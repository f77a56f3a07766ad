"""A server that speaks OpenAI's API: what it says of a model, requests to it, and its errors.

The key is read from the environment when it is needed. It is in no setting, hash or message.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cai.data.records import content_hash
from cai.engines import PromptTooLong, Unanswered, Unscored
from cai.engines.finish import Said, said_by
from cai.engines.options import Listed, probabilities
from cai.engines.server_errors import (
    TOO_LONG,
    NoLogprobsError,
    explained,
    import_openai,
    key_of,
    one_line,
    server_of,
    where_of,
    words_of,
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
            known = _listed_models(client.get("/models", cast_to=object))
    except openai.APIStatusError as error:
        if error.status_code in UNLISTED:
            return ModelReport()
        raise explained(error, settings.model_copy(update={"server": server})) from error
    except (openai.OpenAIError, ValueError, TypeError) as error:
        raise explained(error, settings.model_copy(update={"server": server})) from error
    if not known:
        return ModelReport()
    model = known.get(settings.path)
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
    return {str(one["id"]): one for one in models if "id" in one}


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
    """An answer with status 200 that is an error: what is behind the server failed."""


async def ask(
    send: Callable[[], Awaitable[Any]],
    use: Callable[[Any], T],
    settings: ModelSettings,
    learn: Callable[[Exception], bool] = lambda _: False,
) -> T:
    """Send a request and return what `use` makes of the answer; unusable answers are asked anew.

    Args:
        send: Sends it. The client waits and tries again after rate limits, errors and timeouts.
        use: Raises a TypeError, ValueError, LookupError or AttributeError if the answer is no good.
        settings: The model's.
        learn: Gets the client's error of a refused request; if it returns true, the request is sent
            again at once, in another form.

    Raises:
        PromptTooLong: The server says so.
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
            if failed > retries:
                raise CaiError(
                    f"{where_of(settings)} answers with an error in place of a text in {failed} "
                    f"tries ({error}). Try again later, or correct what it names; finished rows "
                    "are kept."
                ) from error
            await asyncio.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            broken += 1
            if broken == BROKEN:
                raise CaiError(
                    f"{where_of(settings)} gave {BROKEN} unusable answers to one request "
                    f"({type(error).__name__}: {error}). Check that `server.base_url` is an "
                    "OpenAI-compatible API."
                ) from error


def _check_body(answer: Any, settings: ModelSettings) -> None:  # noqa: ANN401
    """Look for what else than an answer may come with status 200.

    Raises:
        UpstreamError: An error, which those that pass requests on send so.
        PromptTooLong: The same, and it says so.
        ValueError: A text.
    """
    if isinstance(answer, str):
        raise ValueError(f"no JSON but {' '.join(answer.split())[:80]!r}")
    error = getattr(answer, "error", None)
    if not error or getattr(answer, "choices", None):
        return
    said = one_line(words_of(error) or str(error), server_of(settings))
    raise PromptTooLong(said) if TOO_LONG.search(said) else UpstreamError(said)


def _unknown(settings: ModelSettings, known: list[str]) -> CaiError:
    alike = difflib.get_close_matches(settings.path, known, n=3) or known[:5]
    return CaiError(
        f"{where_of(settings)} has no model `{settings.path}`. It has {', '.join(alike) or 'none'}"
        f"{'' if len(alike) == len(known) else ', among others'}. Correct the model's `path`."
    )


def answers_of(answer: Any) -> list[Said]:  # noqa: ANN401
    """Return what each choice says, and how it ended."""
    said = [said_by(choice) for choice in answer.choices]
    if not said:
        raise ValueError("no choices")
    return said


def places_of(answer: Any) -> list[Listed]:  # noqa: ANN401
    """Return the places of an answer with the tokens that are listed there.

    Raises:
        NoLogprobsError: The server lists none.
        Unanswered: The answer is refused or failed.
    """
    said = answers_of(answer)[0]
    if said.end in ("refused", "failed"):
        raise Unanswered(said.end, said.why)
    logprobs = answer.choices[0].logprobs
    if logprobs is None:
        raise NoLogprobsError
    if hasattr(logprobs, "content"):
        return [
            Listed(place.token, _tops(place.top_logprobs or []), place.logprob)
            for place in logprobs.content or []
        ]
    own = logprobs.token_logprobs or [None] * len(logprobs.tokens)
    listed = zip(logprobs.tokens, logprobs.top_logprobs, own, strict=True)
    return [Listed(token, dict(top or {}), logprob) for token, top, logprob in listed]


def _tops(listed: Any) -> dict[str, float]:  # noqa: ANN401
    """Return the tokens of a place; of several with one text, the likeliest."""
    tops: dict[str, float] = {}
    for top in listed:
        if top.token not in tops or not top.logprob or not top.logprob <= tops[top.token]:
            tops[top.token] = top.logprob
    return tops


def echo_of(answer: Any, characters: int, tokens: int | None) -> float:  # noqa: ANN401
    """Return log P of what was said again after the prompt.

    Args:
        answer: The echoed prompt and option, and one token more.
        characters: Of the prompt.
        tokens: Of the option; None if it was sent as text, which must then begin a token.

    Raises:
        Unscored: It does not, or a log-probability cannot be one.
    """
    logprobs = answer.choices[0].logprobs
    values = list(logprobs.token_logprobs)[:-1]
    if tokens is not None:
        first = len(values) - tokens
    else:
        offsets = list(logprobs.text_offset)[:-1]
        if characters not in offsets:
            raise Unscored("the server's tokens do not part where the option begins")
        first = offsets.index(characters)
    for value in values[first:]:
        probabilities({"a token of the option": value})
    return sum(values[first:])
