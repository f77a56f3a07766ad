"""Why answers end, and answers that are none: from a server's body to the engine's word for it."""

import pytest
from scripted_server import ScriptedServer, chat, error
from test_openai_engine import generate, score

from cai.engines import PromptTooLong, Unanswered
from cai.engines.finish import ENDS, end_of
from cai.errors import CaiError

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

ENDED = ["stop", "STOP", "eos_token", "end_turn", "stop_sequence", None]
CUT_OFF = ["length", "max_tokens", "MAX_TOKENS", "model_length"]
REFUSED = ["content_filter", "SAFETY", "refusal", "PROHIBITED_CONTENT"]
FAILED = ["error", "tool_calls", "function_call", "abort", "insufficient_system_resource", "", "hm"]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("cai.engines.server.FIRST_WAIT", 0.0)
    with ScriptedServer().running() as running:
        yield running


@pytest.mark.parametrize(
    ("reasons", "end"),
    [(ENDED, "ended"), (CUT_OFF, "cut_off"), (REFUSED, "refused"), (FAILED, "failed")],
)
def test_every_reason_has_one_meaning(reasons, end):
    assert {end_of(reason) for reason in reasons} == {end}


def test_the_table_is_in_the_form_in_which_reasons_are_looked_up():
    assert all(end_of(reason) == end for reason, end in ENDS.items())
    with pytest.raises(TypeError):
        end_of({"reason": "stop"})


@pytest.mark.parametrize("reason", ENDED + CUT_OFF)
def test_a_text_ended_or_was_cut_off(server, reason):
    server.answer = chat("It is so.", finish=reason)
    answer, _ = generate(server.settings())
    assert (answer.text, answer.finish) == ("It is so.", "stop" if reason in ENDED else "length")


@pytest.mark.parametrize("text", ["", None, "Half of a"])
@pytest.mark.parametrize("reason", REFUSED + FAILED)
def test_an_answer_that_was_refused_or_failed_is_none(server, reason, text):
    server.answer = chat(text, finish=reason)
    with pytest.raises(Unanswered, match=f"`{reason}`") as caught:
        generate(server.settings())
    assert caught.value.state == ("refused" if reason in REFUSED else "failed")
    assert ("not known" in str(caught.value)) == (reason in ("", "hm"))
    assert len(server.asked) == 1


def body(message, **choice):
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **choice}
    return (200, {"id": "1", "choices": [{**choice, "message": message}], "usage": None}, {})


def test_a_refusal_in_a_field_of_its_own_is_a_refusal(server):
    server.answer = body({"role": "assistant", "content": None, "refusal": "I will not."})
    with pytest.raises(Unanswered, match=r"I will not\.") as caught:
        generate(server.settings())
    assert caught.value.state == "refused"
    with pytest.raises(Unanswered, match=r"I will not\.") as caught:
        score(server.settings())
    assert caught.value.state == "refused"


def test_an_error_beside_the_reason_is_said(server):
    message = {"role": "assistant", "content": ""}
    server.answer = body(message, finish_reason="error", error={"message": "upstream died"})
    with pytest.raises(Unanswered, match="upstream died"):
        generate(server.settings())


def test_thoughts_among_the_parts_of_a_text_are_not_the_text(server):
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]
    server.answer = body({"role": "assistant", "content": parts})
    assert generate(server.settings())[0].text == "Yes."


@pytest.mark.parametrize("reason", REFUSED + FAILED)
def test_log_probabilities_of_an_answer_that_is_none_are_no_evidence(server, reason):
    server.answer = chat("(A)", finish=reason, listed=[("(A", {"(A": -0.1, "(B": -3.0})])
    with pytest.raises(Unanswered, match=f"`{reason}`") as caught:
        score(server.settings())
    assert caught.value.state == ("refused" if reason in REFUSED else "failed")


def test_sampled_verdicts_that_are_none_do_not_count(server):
    server.script = [chat("(A)"), chat("(B)", finish="content_filter")]
    server.answer = chat("(A)")
    a, b = score(server.settings(scores="samples", samples=3)).logprobs
    assert a > b
    server.answer = chat("(B)", finish="content_filter")
    with pytest.raises(Unanswered, match="content_filter") as caught:
        score(server.settings(scores="samples", samples=3))
    assert caught.value.state == "refused"


@pytest.mark.parametrize(
    "told", [{"message": "upstream overloaded", "code": 502}, "upstream overloaded"]
)
def test_an_error_with_status_200_is_waited_for_and_then_said(server, told):
    upstream = (200, {"error": told}, {})
    server.script = [upstream, upstream]
    assert generate(server.settings(retries=2))[0].text == "hello"
    server.answer = upstream
    with pytest.raises(CaiError, match=r"in 3 tries \(upstream overloaded\)"):
        generate(server.settings(retries=2))
    with pytest.raises(CaiError, match="upstream overloaded"):
        score(server.settings(retries=0))


def test_an_error_with_status_200_may_be_that_the_prompt_is_too_long(server):
    server.answer = (200, {"error": {"message": "maximum context length is 9 tokens"}}, {})
    with pytest.raises(PromptTooLong):
        generate(server.settings())


def test_no_error_with_status_200_tells_the_key(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    server.answer = (200, error(401, "bad sk-very-secret")[1], {})
    with pytest.raises(CaiError, match=r"bad \[key\]"):
        generate(server.settings(api_key_env="JUDGE_KEY", retries=0))


def test_a_prompt_that_is_blocked_without_an_answer_is_refused(server):
    body = {"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}
    server.answer = (200, body, {})
    with pytest.raises(Unanswered, match="blocked the request: SAFETY") as caught:
        generate(server.settings())
    assert caught.value.state == "refused"
