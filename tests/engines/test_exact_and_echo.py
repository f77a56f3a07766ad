"""Scores of tokens asked for by id, and of options said again: what a server may do wrong there."""

import math

import pytest
from misbehaviours import place
from scripted_server import ScriptedServer, error
from test_openai_engine import OPTIONS, score

from cai.engines import PromptTooLong, Unanswered, Unscored
from cai.errors import CaiError

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

NAN = float("nan")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("cai.engines.server.FIRST_WAIT", 0.0)
    with ScriptedServer(owner="vllm").running() as running:
        yield running


def completion(logprobs, reason="length"):
    choice = {"index": 0, "text": "x", "finish_reason": reason, "logprobs": logprobs}
    return 200, {"id": "1", "object": "text_completion", "choices": [choice]}, {}


def exactly(logprob=lambda token: math.log(0.5), places=1, leave_out=0, reason="length"):
    """Return a function of a request that lists the tokens it asks for."""

    def answer(body):
        asked = body["logprob_token_ids"][leave_out:]
        top = {f"token_id:{token}": logprob(token) for token in asked}
        listed = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [top]}
        return completion({name: each * places for name, each in listed.items()}, reason)

    return answer


def echo(logprob=-0.5, tokens=None, before=None, reason="length"):
    """Return a function of a request that says its tokens again, and one more."""

    def answer(body):
        count = (len(body["prompt"]) if tokens is None else tokens) + 1
        starts = [min(n, count) for n in range(count)] if before is None else [before] * count
        listed = {"token_logprobs": [logprob] * count, "text_offset": starts}
        return completion({**listed, "tokens": ["x"] * count}, reason)

    return answer


EXACT = {
    "no log-probabilities": (completion(None), CaiError, "no log-probabilities"),
    "empty": (completion({}), CaiError, "no log-probabilities"),
    "none of the likeliest": (
        completion({"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": None}),
        Unscored,
        "does not list the tokens",
    ),
    "others than were asked for": (
        completion({"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}),
        Unscored,
        "does not list the tokens",
    ),
    "as the chat endpoint writes them": (
        completion({"content": [place("x", [("x", -1.0)])]}),
        Unscored,
        "does not list the tokens",
    ),
    "one left out": (exactly(leave_out=1), Unscored, "does not list the tokens"),
    "two places": (exactly(places=2), Unscored, "does not list the tokens"),
    "null": (exactly(lambda token: None), Unscored, "no number"),
    "NaN": (exactly(lambda token: NAN), Unscored, "no number"),
    "positive": (exactly(lambda token: 0.5), Unscored, "more than 0"),
    "filtered": (exactly(reason="content_filter"), Unanswered, "content_filter"),
    "failed": (exactly(reason="abort"), Unanswered, "abort"),
    "too long": (error(400, "maximum context length is 8"), PromptTooLong, "context length"),
}
ECHO = {
    "no log-probabilities": (completion(None), CaiError, "no log-probabilities"),
    "nothing said again": (echo(tokens=0), Unscored, "say the prompt again|do not part"),
    "a longer answer in its place": (echo(tokens=3), Unscored, "say the prompt again|do not part"),
    "NaN": (echo(NAN), Unscored, "no number"),
    "null": (echo(None), Unscored, "no number"),
    "positive": (echo(0.5), Unscored, "more than 0"),
    "more than 1 together": (echo(0.0), Unscored, "more than 1"),
    "filtered": (echo(reason="content_filter"), Unanswered, "content_filter"),
    "failed": (echo(reason="abort"), Unanswered, "abort"),
}


@pytest.mark.parametrize(("answer", "kind", "words"), EXACT.values(), ids=EXACT)
def test_exact(server, answer, kind, words):
    server.answer = answer
    with pytest.raises(kind, match=words):
        score(server.settings(tokenizer="playground"))


@pytest.mark.parametrize(("answer", "kind", "words"), ECHO.values(), ids=ECHO)
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_echo(server, answer, kind, words, ids):
    server.answer = answer
    more = {"tokenizer": "playground"} if ids else {"format": "transcript"}
    with pytest.raises(kind, match=words):
        score(server.settings(scores="echo", **more))


def test_of_one_option_alone_nothing_is_made_up_where_the_prompt_is_not_said_again(server):
    for tokens in (0, 1, 3):
        server.answer = echo(tokens=tokens)
        with pytest.raises(Unscored, match="say the prompt again"):
            score(server.settings(scores="echo", tokenizer="playground"), OPTIONS[:1])


def test_what_is_well_is_a_score(server):
    server.answer = exactly()
    exact = score(server.settings(tokenizer="playground")).logprobs
    server.answer = echo()
    echoed = score(server.settings(scores="echo", tokenizer="playground")).logprobs
    assert all(-20 < logprob < 0 for logprob in (*exact, *echoed))
