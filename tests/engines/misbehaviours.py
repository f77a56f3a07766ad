"""What servers do wrong, as a table: their answer, and what becomes of the row that it is for.

The words of errors are those of servers of the kind named; some are shortened.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scripted_server import RESET, SOON, chat, error


@dataclass(frozen=True)
class Expected:
    """What becomes of the row.

    Attributes:
        state: Of the row; `ends` if the run ends at it with an error.
        words: Some of the message.
    """

    state: str
    words: str = ""


OK = Expected("ok")
LONG, REFUSED, EMPTY, FAILED, ENDS = (
    lambda words, state=state: Expected(state, words)
    for state in ("too_long", "refused", "unparsed", "failed", "ends")
)


@dataclass(frozen=True)
class Case:
    """One thing that a server does wrong.

    Attributes:
        name: Of the test.
        wrong: The answer, or a function of body, right and wrong option that returns it.
        say: What becomes of a row that asked for a text; None if the answer is none to that.
        score: What becomes of a row that asked for a verdict.
        times: How often the server does so before it does well; None for always.
    """

    name: str
    wrong: Any
    say: Expected | None = None
    score: Expected | None = None
    times: int | None = None


def both(name, wrong, expected, times=None):
    return Case(name, wrong, expected, expected, times)


def once(name, wrong):
    return both(f"{name}, once", wrong, OK, times=1)


def always(name, wrong, words):
    return both(f"{name}, always", wrong, ENDS(words))


def choice(message, **more):
    """Return an answer of one choice, as JSON says it."""
    one = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message, **more}
    one = {name: value for name, value in one.items() if value is not ...}
    return 200, {"id": "1", "object": "chat.completion", "choices": [one], "usage": None}, {}


def says(content, **more):
    return choice({"role": "assistant", "content": content}, **more)


def body_of(**fields):
    return 200, {"id": "1", "object": "chat.completion", **fields}, {}


def listing(text, *places):
    """Return an answer with its listed tokens; ✓ and ✗ stand for the right and a wrong option.

    A place is a token and its likeliest ones with their probabilities.
    """

    def answer(body, good, bad):
        def put(words):
            return _put(words, good, bad)

        listed = [
            (put(token), {put(t): math.log(p) if p > 0 else -math.inf for t, p in top.items()})
            for token, top in places
        ]
        return chat(put(text), listed=listed)

    return answer


def raw(text, content):
    """Return an answer whose log-probabilities are as they are; ✓ and ✗ as in `listing`."""

    def answer(body, good, bad):
        written = json.dumps(says(text, logprobs=content)[1], ensure_ascii=False)
        return 200, _put(written, good, bad), {}

    return answer


def place(token, top, logprob=-0.1):
    """Return one place as the chat endpoint writes it; `top` is a list of (token, logprob)."""
    listed = [{"token": t, "logprob": value, "bytes": None} for t, value in top]
    return {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": listed}


def _put(words, good, bad):
    return words.replace("✓", good).replace("✗", bad)


OPEN = place("(", [("(", -0.01)])


def at_letter(*top):
    """Return an answer (✓) that lists this at the place of the letter."""
    return raw("(✓)", {"content": [OPEN, place("✓", top)]})


def told(text):
    """Return a sampled verdict: the server gives no log-probabilities."""

    def answer(body, good, bad):
        return chat(*[_put(text, good, bad)] * (body.get("n") or 1))

    return answer


REASONS = [
    *(Case(f"finish {r!r}", says("(G)", finish_reason=r), say=OK) for r in ("stop", "STOP")),
    *(
        Case(f"finish {r!r}", says("A text.", finish_reason=r), say=OK)
        for r in ("eos_token", "end_turn", "stop_sequence", "COMPLETE", None, ...)
    ),
    *(
        Case(f"finish {r!r}", says("A text", finish_reason=r), say=OK)
        for r in ("length", "MAX_TOKENS", "model_length", "model_context_window_exceeded")
    ),
    *(
        both(f"finish {r!r}", says("A text (G)", finish_reason=r), REFUSED(f"`{r}`"))
        for r in (
            "content_filter",
            "SAFETY",
            "PROHIBITED_CONTENT",
            "content_filter: RECITATION",
            "refusal",
            "guardrail_intervened",
            "IMAGE_SAFETY",
            "sensitive",
        )
    ),
    *(
        both(f"finish {r!r}", says("A text (G)", finish_reason=r), FAILED(f"`{r}`"))
        for r in ("error", "abort", "tool_calls", "function_call", "pause_turn", "OTHER", "hm", "")
    ),
]
TEXTS = [
    Case("content empty", says(""), say=EMPTY("")),
    Case("content null", says(None), say=EMPTY("")),
    Case("content left out", choice({"role": "assistant"}), say=EMPTY("")),
    Case("content blanks", says(" \n\t\u00a0 "), say=EMPTY("")),
    Case("content thoughts alone", says("<think>I should not.</think>"), say=EMPTY("")),
    Case("content thoughts cut off", says("<think>I", finish_reason="length"), say=EMPTY("")),
    Case(
        "reasoning_content and nothing else, cut off (vLLM, DeepSeek)",
        choice(
            {"role": "assistant", "content": "", "reasoning_content": "Hm"}, finish_reason="length"
        ),
        say=EMPTY(""),
    ),
    Case(
        "reasoning and null (OpenRouter)",
        choice({"role": "assistant", "content": None, "reasoning": "The user wants"}),
        say=EMPTY(""),
    ),
    both(
        "refusal in its own field (OpenAI)",
        choice({"role": "assistant", "content": None, "refusal": "I can't help with that."}),
        REFUSED("I can't help with that."),
    ),
    Case(
        "tool calls and stop (Ollama)",
        choice({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}),
        say=EMPTY(""),
    ),
    Case("content in parts (Mistral)", says([{"type": "text", "text": "Yes."}]), say=OK),
    Case(
        "content in parts, thoughts alone",
        says([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
        say=EMPTY(""),
    ),
    Case("content no parts", says([]), say=EMPTY("")),
    both("content a number", says(42), FAILED("unusable")),
    both("content a mapping", says({"text": "Yes."}), FAILED("unusable")),
    both("message null", choice(None), FAILED("unusable")),
    both("message left out", choice(...), FAILED("unusable")),
    Case("more choices than asked for", chat("One.", "Two."), say=OK),
    both(
        "error beside the text (OpenRouter)",
        says("A", finish_reason="error", error={"code": 502, "message": "Upstream died"}),
        FAILED("Upstream died"),
    ),
    both(
        "error beside no text, and stop",
        says("", error={"code": 502, "message": "Upstream died"}),
        FAILED("Upstream died"),
    ),
    Case("usage empty", (200, {**says("Yes.")[1], "usage": {}}, {}), say=OK),
    Case("usage text", (200, {**says("Yes.")[1], "usage": "none"}, {}), say=OK),
    Case(
        "usage of texts",
        (200, {**says("Yes.")[1], "usage": {"prompt_tokens": "9", "completion_tokens": None}}, {}),
        say=OK,
    ),
    Case("wrong content type", (200, says("Yes.")[1], {"content-type": "text/plain"}), say=OK),
]
NOTHING = {
    "choices empty": body_of(choices=[]),
    "choices left out": body_of(),
    "choices null": body_of(choices=None),
    "choices a mapping": body_of(choices={"text": "hi"}),
    "a list": (200, [1, 2], {}),
    "null": (200, "null", {}),
    "a text": (200, '"hello"', {}),
    "HTML": (200, "<html><body>Please log in</body></html>", {"content-type": "text/html"}),
    "HTML that is called JSON": (200, "<html>Please log in</html>", {}),
    "truncated JSON": (200, '{"id": "1", "choices": [{"mess', {}),
    "no body": (200, "", {}),
    "not UTF-8": (200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}', {}),
    "a stream": (
        200,
        'data: {"id": "1"}\n\ndata: [DONE]\n\n',
        {"content-type": "text/event-stream"},
    ),
}
CUT = {
    "half an answer": ((200, None, {}), "cannot be reached"),
    "connection reset": (RESET, "cannot be reached"),
}
UPSTREAM = {
    "error in a 200 (OpenRouter)": body_of(
        error={"message": "Provider returned error: overloaded", "code": 502}
    ),
    "error text in a 200": (200, {"error": "Provider returned error: overloaded"}, {}),
    "detail in a 200": (200, {"detail": "Provider returned error: overloaded"}, {}),
    "vLLM's error in a 200": (
        200,
        {"object": "error", "message": "Provider returned error: overloaded", "code": 500},
        {},
    ),
}
BUSY = {
    "429": error(429, "Rate limit reached"),
    "429, wait a second": error(429, "Rate limit reached", retry_after="1"),
    "429, wait 75 s": error(429, "Rate limit reached", retry_after="75"),
    "429, text": (429, "Too many requests", {"content-type": "text/plain"}),
    "500": error(500, "The server had an error"),
    "502, HTML": (502, "<html><h1>502 Bad Gateway</h1></html>", {"content-type": "text/html"}),
    "503, loading (llama.cpp)": error(503, "Loading model"),
    "504, no body": (504, "", {}),
    "529 (Anthropic)": (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {},
    ),
    "408": error(408, "Request timeout"),
    "500, took too long": error(500, "The upstream took too long to respond"),
}
BUSY_WORDS = {
    "429": "Rate limit reached",
    "429, text": "Too many requests",
    "500": "The server had an error",
    "502, HTML": "502 Bad Gateway",
    "503, loading (llama.cpp)": "Loading model",
    "504, no body": "504",
    "529 (Anthropic)": "Overloaded",
    "408": "Request timeout",
    "500, took too long": "took too long to respond",
}
PASSING = [
    *(once(name, wrong) for name, wrong in {**NOTHING, **UPSTREAM, **BUSY}.items()),
    *(once(name, wrong) for name, (wrong, _) in CUT.items()),
    *(both(f"{name}, always", wrong, FAILED("unusable")) for name, wrong in NOTHING.items()),
    *(
        always(name, wrong, "Provider returned error: overloaded")
        for name, wrong in UPSTREAM.items()
    ),
    *(always(name, BUSY[name], words) for name, words in BUSY_WORDS.items()),
    *(always(name, wrong, words) for name, (wrong, words) in CUT.items()),
]


def _in_words():
    """Yield a case for each row of `server_words.yaml`."""
    table = yaml.safe_load(Path(__file__).with_name("server_words.yaml").read_text("utf-8"))
    for state, errors in table.items():
        for server, status, words, *body in errors:
            shown = json.dumps(body[0]).replace(json.dumps("…"), json.dumps(words)) if body else ""
            wrong = (status, shown, SOON) if body else error(status, words)
            yield both(f"{state}: {server}", wrong, Expected(state, words))


WORDS = list(_in_words())
