"""What a server's errors mean: whose fault each one is, in which words, and what fixes it.

An error that a single request caused is the state of its row (`PromptTooLong`, `Unanswered`). An
error of the server, its address, its key or its model is a `CaiError`, which ends the run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from cai.engines import PromptTooLong, Unanswered, Unscored
from cai.engines.error_bodies import complaints_in, page_title, words_of
from cai.errors import CaiError
from cai.settings import ModelSettings, ServerSettings

NO_LOGPROBS = (
    "The server gives no log-probabilities. Set `server.scores` to `samples`, or leave it out."
)
TOO_LONG = re.compile(
    r"context.?(length|window|size|limit)|context (the )?overflow"
    r"|(maximum|max) (supported )?(model|sequence|prompt|input) length|max_(model|seq)_len"
    r"|(?<!took )(?<!taking )too long|too large for (the )?model|request (entity )?too large"
    r"|exceeds the maximum size|longer than the model|maximum number of tokens allowed"
    r"|`inputs` (tokens \+|must have less)|too many (input )?tokens|model token limit"
    r"|configured limit of \d+ tokens|token count\b.{0,40}\bexceeds|range of input length"
    r"|reduce (the length|your message|your prompt)",
    re.I,
)
"""Words of llama.cpp, LM Studio, Ollama, vLLM, SGLang, TGI, NIM, OpenAI, Anthropic, Gemini, Groq,
Mistral, xAI, Cohere, Moonshot, DashScope, MiniMax, SambaNova and Bedrock."""
FILTERED = re.compile(
    r"content[ _]?(filter|policy|management|safety)|moderation|\bflagged\b|responsible ?ai"
    r"|policy violation|prohibited[ _]content|safety (system|filter|policy|check)|guardrail"
    r"|content exists risk|inappropriate content|data inspection|considered high risk"
    r"|(unsafe|sensitive) (content|words)|usage (guidelines|policy|policies)"
    r"|blocked due to security",
    re.I,
)
"""Words of Azure, OpenAI, OpenRouter, Gemini, DeepSeek, DashScope, Moonshot, xAI, LiteLLM and
Cloudflare."""
REFUSING = (400, 403, 422, 500, 501)
"""Statuses with which servers refuse a field of a request."""
BLOCKED = re.compile(r"block_?reason\W+(\w+)", re.I)
"""How Gemini says that a prompt gets no answer."""
ACCOUNT = re.compile(
    r"\b(your|this|the) (account|organi[sz]ation|project|(api )?key|ip|access)\b|billing", re.I
)
"""What is then said is not about the request."""
UNWRITABLE = re.compile(
    r"roles? must alternate|system role (is )?not supported|expected last role"
    r"|(first|last|final) message must|end with a user (role|message|turn)"
    r"|roles are supported|jinja exception|error rendering prompt|failed to apply chat template",
    re.I,
)
"""Words of chat templates, llama.cpp, LM Studio, SGLang, Mistral, Anthropic and Gemini."""
_MASK = r"(?:[*•]{2,}|\.{2,}|…)"
_MASKED = re.compile(rf"[^\s'\"`=:,()]*{_MASK}[^\s'\"`=:,()]*")
_LONGEST = 400
_SHOWN = 5
"""So many first or last characters of a key are enough to recognise it."""


class NoLogprobsError(CaiError):
    """The server gives no log-probabilities.

    Attributes:
        words: The server's own; empty if it only leaves them out.
    """

    def __init__(self, words: str = "") -> None:
        """Take the server's words."""
        super().__init__(f"{NO_LOGPROBS} It says: {words}" if words else NO_LOGPROBS)
        self.words = words


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


def server_of(settings: ModelSettings) -> ServerSettings:
    """Return where a model's server is."""
    if settings.server is None:
        raise ValueError("only models with `engine: openai` have a server")
    return settings.server


def where_of(settings: ModelSettings) -> str:
    """Name a model's server."""
    return f"The server {server_of(settings).base_url}"


def key_of(server: ServerSettings) -> str:
    """Return the key of a server.

    Raises:
        CaiError: The variable is not set, or what it holds cannot be sent. The key is not shown.
    """
    name = server.api_key_env
    if not name:
        return "none"  # the client would otherwise send whatever OPENAI_API_KEY holds
    key = os.environ.get(name, "")
    if not key:
        raise CaiError(
            f"The environment variable {name}, which `server.api_key_env` names, is not set. Set "
            f"it to the key of {server.base_url}."
        )
    wrong = None
    if key != key.strip():
        wrong = "begins or ends with a blank or a line break"
    elif not key.isascii() or not key.isprintable():
        wrong = "has a character that no key has (a line break, or one that is not ASCII)"
    if wrong:
        raise CaiError(f"The environment variable {name} {wrong}. Set it to the key alone.")
    return key


def without_key(text: str, server: ServerSettings) -> str:
    """Remove the key from a text, and words that show its beginning or its end."""
    key = os.environ.get(server.api_key_env or "", "").strip()
    if not key:
        return text
    text = text.replace(key, "[key]").replace(repr(key)[1:-1], "[key]")
    text = _MASKED.sub(lambda word: "[key]" if _shows(word[0], key) else word[0], text)
    if len(key) < 3 * _SHOWN:
        return text
    ends = (re.escape(key[:_SHOWN]), re.escape(key[-_SHOWN:]))
    return re.sub(rf"\S*(?:{ends[0]}|{ends[1]})[^\s'\"]*", "[key]", text)


def _shows(word: str, key: str) -> bool:
    """Whether a word with asterisks or dots in it is the key without its middle."""
    first, *_, last = re.split(_MASK, word)
    last = last.rstrip(".!?;")
    return bool(first and key.startswith(first)) or (len(last) > 1 and key.endswith(last))


@contextmanager
def keyless(server: ServerSettings) -> Generator[None]:
    """Remove the key from the message of whatever leaves the block."""
    try:
        yield
    except (CaiError, PromptTooLong, Unanswered, Unscored) as error:
        error.args = (without_key(str(error), server),)
        raise


def explained(error: Exception, settings: ModelSettings) -> Exception:
    """Say in words what a server's error means, and what fixes it.

    Returns:
        `PromptTooLong` or `Unanswered` where the request alone is at fault, `NoLogprobsError`, or
        else a `CaiError`.
    """
    openai = import_openai()
    said = said_by_error(error, server_of(settings))
    if isinstance(error, openai.APIStatusError):
        status: int = error.status_code  # pyright: ignore[reportAttributeAccessIssue]
        title = _page_title(error)
        if title is not None and status not in (413, 429):
            return CaiError(_of_page(status, title, settings))
        own = of_request(status, said, getattr(error, "body", None))
        if own is not None:
            return own
    return CaiError(_of_server(error, said, settings))


def of_request(status: int, said: str, body: object) -> Exception | None:
    """Return what the request itself is guilty of, if it is.

    Args:
        status: Of the error, in HTTP.
        said: The server's words.
        body: Of the error.
    """
    alone_too_large = status == 429 and "request too large" in said.lower()
    if status == 413 or alone_too_large or (status in (400, 422, 500) and TOO_LONG.search(said)):
        return PromptTooLong(said)
    named = any(complaint.field.endswith("logprobs") for complaint in complaints_in(body))
    if status in REFUSING and ("logprob" in said or named):
        return NoLogprobsError(said)
    if status in (400, 422, 500) and UNWRITABLE.search(said):
        return Unanswered("failed", f"the server cannot write the conversation: {said}")
    everything = f"{said} {json.dumps(body, default=str)}".replace("_", " ")
    if (
        status in (400, 403, 422, 424, 451)
        and FILTERED.search(everything)
        and not ACCOUNT.search(said)
    ):
        return Unanswered("refused", f"the server refused the request: {said}")
    return None


def _page_title(error: Exception) -> str | None:
    """Return the title of the web page that came in place of an error of the API's, if one did."""
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    return page_title(getattr(error, "body", None), str(headers.get("content-type", "")))


def _of_page(status: int, title: str, settings: ModelSettings) -> str:
    said = f": {one_line(title, server_of(settings))}" if title else ""
    return (
        f"{where_of(settings)} answers with status {status} and a web page{said}. An API answers "
        "with JSON, so the page is from what stands before it: a firewall, a proxy or a log-in. "
        "Correct `server.base_url` (it usually ends in /v1), or have the firewall or the proxy "
        "(HTTPS_PROXY, NO_PROXY) let these requests through. The key was not looked at."
    )


def _of_server(error: Exception, said: str, settings: ModelSettings) -> str:
    openai, server, where = import_openai(), server_of(settings), where_of(settings)
    tries = f"{server.retries + 1} tries"
    match error:
        case openai.APITimeoutError():
            fix = "Raise `server.timeout`, or lower `server.concurrency`."
            return f"{where} did not answer within {server.timeout:g} s in {tries}. {fix}"
        case openai.APIConnectionError():
            cause = error.__cause__ or error
            words = without_key(f"{type(cause).__name__}: {cause}", server)
            return f"{where} cannot be reached ({words}). Start it, or correct `server.base_url`."
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            name = server.api_key_env
            wrong = f"refuses the key in the environment variable {name}" if name else "wants a key"
            fix = "Set it to a valid key." if name else "Name its variable in `server.api_key_env`."
            return f"{where} {wrong} (status {error.status_code}: {said}). {fix}"
        case openai.NotFoundError():
            return (
                f"{where} knows no model `{settings.path}`, or has no such address ({said}). "
                "Correct the model's `path` or `server.base_url`."
            )
        case openai.RateLimitError():
            return (
                f"{where} refuses requests after {tries} ({said}). Lower `server.concurrency`, "
                "raise `server.retries`, or look at the account's limits; finished rows are kept."
            )
        case openai.APIStatusError():
            fix = "If it names a field of the request, set `server.omit` or `server.rename`."
            fix = f" {fix}" if error.status_code in (400, 422) else ""
            return f"{where} answers with status {error.status_code} ({said}).{fix}"
        case _:
            return (
                f"{where} does not answer as OpenAI's API does ({type(error).__name__}: {said}). "
                "Correct `server.base_url`; it usually ends in /v1."
            )


def said_by_error(error: Exception, server: ServerSettings) -> str:
    """Return an error's message on one line, without the key; of a web page, its title."""
    words = _page_title(error) or words_of(getattr(error, "body", None)) or str(error)
    return one_line(words, server)


def one_line(text: str, server: ServerSettings) -> str:
    """Return a text on one line, shortened, without the key."""
    return without_key(" ".join(text.split()), server)[:_LONGEST]
