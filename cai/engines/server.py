"""A server that speaks OpenAI's API: what it says of a model, requests to it, and its errors.

The key is read from the environment when it is needed. It is in no setting, hash or message.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cai.data.records import content_hash
from cai.engines import PromptTooLong, Unscored
from cai.engines.finish import Said, said_by
from cai.engines.options import Listed, probabilities
from cai.errors import CaiError
from cai.settings import ModelSettings, ServerSettings

T = TypeVar("T")

BROKEN = 3
"""So many unusable answers to one request (no JSON, no choices) are one too many."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
"""Seconds before an answer that is an error is asked for again, and again."""
FIRST_RETRIES = 2
"""Before anything is done, a server that is down is better said soon than waited for."""
_NO_LOGPROBS = (
    "The server gives no log-probabilities. Set `server.scores` to `samples`, or leave it out."
)
_TOO_LONG = re.compile(
    r"context.?length|context window|maximum (model|sequence) length|max_model_len|too long", re.I
)


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


def server_of(settings: ModelSettings) -> ServerSettings:
    """Return where a model's server is."""
    if settings.server is None:
        raise ValueError("only models with `engine: openai` have a server")
    return settings.server


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
            listed = list(client.models.list())
            known = {model.id: model for model in listed}
    except openai.NotFoundError:
        return ModelReport()  # some servers do not list their models
    except (openai.OpenAIError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise explained(error, settings.model_copy(update={"server": server})) from error
    if settings.path not in known:
        raise _unknown(settings, sorted(known))
    model = known[settings.path]
    more = model.model_extra or {}
    context = more.get("max_model_len")
    return ModelReport(
        owner=str(model.owned_by or ""),
        root=str(more.get("root") or ""),
        parent=str(more.get("parent") or ""),
        context=context if isinstance(context, int) else None,
    )


def import_openai() -> Any:  # noqa: ANN401 (a module)
    """Return the client library.

    Raises:
        CaiError: It is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise CaiError(
            "`engine: openai` needs the openai package: pip install 'cai[openai]'"
        ) from error
    return openai


def open_client(settings: ModelSettings) -> Any:  # noqa: ANN401 (openai.AsyncOpenAI)
    """Return an asynchronous client, which waits and tries again by itself.

    Raises:
        CaiError: The `openai` package or the key is missing.
    """
    return import_openai().AsyncOpenAI(**_client_settings(server_of(settings)))


def _client_settings(server: ServerSettings) -> dict[str, Any]:
    key = "none"  # the client would otherwise send whatever OPENAI_API_KEY holds
    if server.api_key_env:
        key = os.environ.get(server.api_key_env, "")
        if not key:
            raise CaiError(
                f"The environment variable {server.api_key_env}, which `server.api_key_env` names, "
                f"is not set. Set it to the key of {server.base_url}."
            )
    return {
        "base_url": server.base_url,
        "api_key": key,
        "max_retries": server.retries,
        "timeout": server.timeout,
    }


class NoLogprobsError(CaiError):
    """The server gives no log-probabilities."""


class UpstreamError(Exception):
    """An answer with status 200 that is an error: what is behind the server failed."""


async def ask(
    send: Callable[[], Awaitable[Any]], use: Callable[[Any], T], settings: ModelSettings
) -> T:
    """Send a request and return what `use` makes of the answer; unusable answers are asked anew.

    Args:
        send: Sends it. The client waits and tries again after rate limits, errors and timeouts.
        use: Raises a TypeError, ValueError, LookupError or AttributeError if the answer is no good.
        settings: The model's.

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
            raise explained(error, settings) from error
        except UpstreamError as error:
            failed += 1
            if failed > retries:
                raise CaiError(
                    f"{_where(settings)} answers with an error in place of a text in {failed} "
                    f"tries ({error}). Try again later, or correct what it names; finished rows "
                    "are kept."
                ) from error
            await asyncio.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            broken += 1
            if broken == BROKEN:
                raise CaiError(
                    f"{_where(settings)} gave {BROKEN} unusable answers to one request "
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
    inner: object = error.get("message") if isinstance(error, dict) else error  # pyright: ignore
    said = _without_key(" ".join(str(inner or error).split())[:400], server_of(settings))
    raise PromptTooLong(said) if _TOO_LONG.search(said) else UpstreamError(said)


def explained(error: Exception, settings: ModelSettings) -> CaiError | PromptTooLong:
    """Say in words what a server's error means, and what fixes it."""
    openai, server, where = import_openai(), server_of(settings), _where(settings)
    said = _said(error, server)
    tries = f"{server.retries + 1} tries"
    match error:
        case openai.APITimeoutError():
            fix = "Raise `server.timeout`, or lower `server.concurrency`."
            text = f"{where} did not answer within {server.timeout:g} s in {tries}. {fix}"
        case openai.APIConnectionError():
            cause = error.__cause__ or error
            text = (
                f"{where} cannot be reached ({type(cause).__name__}: {cause}). Start it, or "
                "correct `server.base_url`."
            )
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            name = server.api_key_env
            wrong = f"refuses the key in the environment variable {name}" if name else "wants a key"
            fix = "Set it to a valid key." if name else "Name its variable in `server.api_key_env`."
            text = f"{where} {wrong} (status {error.status_code}). {fix}"
        case openai.NotFoundError():
            text = (
                f"{where} knows no model `{settings.path}`, or has no such address ({said}). "
                "Correct the model's `path` or `server.base_url`."
            )
        case openai.RateLimitError():
            text = (
                f"{where} refuses requests after {tries} ({said}). Lower `server.concurrency`, "
                "raise `server.retries`, or look at the account's limits; finished rows are kept."
            )
        case openai.APIStatusError() if error.status_code in (400, 413, 422) and (
            _TOO_LONG.search(said)
        ):
            return PromptTooLong(said)
        case openai.APIStatusError() if error.status_code in (400, 422) and "logprob" in said:
            return NoLogprobsError(f"{_NO_LOGPROBS} It says: {said}")
        case openai.APIStatusError():
            text = f"{where} answers with status {error.status_code} ({said})."
        case _:
            text = (
                f"{where} does not answer as OpenAI's API does ({type(error).__name__}: {said}). "
                "Correct `server.base_url`; it usually ends in /v1."
            )
    return CaiError(text)


def _said(error: Exception, server: ServerSettings) -> str:
    """Return an error's message on one line, without the key."""
    body = getattr(error, "body", None)
    inner = body.get("message") if isinstance(body, dict) else None  # pyright: ignore
    return _without_key(" ".join(str(inner or error).split())[:400], server)


def _without_key(text: str, server: ServerSettings) -> str:
    key = os.environ.get(server.api_key_env or "", "")
    return text.replace(key, "[key]") if key else text


def _where(settings: ModelSettings) -> str:
    return f"The server {server_of(settings).base_url}"


def _unknown(settings: ModelSettings, known: list[str]) -> CaiError:
    alike = difflib.get_close_matches(settings.path, known, n=3) or known[:5]
    return CaiError(
        f"{_where(settings)} has no model `{settings.path}`. It has {', '.join(alike) or 'none'}"
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
        Unscored: The answer is refused or failed.
    """
    said = answers_of(answer)[0]
    if said.why:
        raise Unscored(said.why)
    logprobs = answer.choices[0].logprobs
    if logprobs is None:
        raise NoLogprobsError(_NO_LOGPROBS)
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
