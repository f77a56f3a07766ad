"""Fields of a request that a server does not take: as set, and as learnt from its refusals."""

import logging
import math

import pytest
from scripted_server import ScriptedServer, chat, error
from test_openai_engine import OPTIONS, PROMPT, ask, generate, score

from cai.engines import GenerateRequest, ScoreRequest
from cai.engines.error_bodies import Complaint
from cai.engines.opening import fingerprint_engine
from cai.engines.request_body import RequestBody, complaints_of
from cai.errors import CaiError
from cai.settings import ModelSettings

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

ASKED = {"max_tokens": 9, "temperature": 0.7, "seed": 1, "n": 16, "stop": list("abcd")}
OWN = "the server's own"


@pytest.fixture
def server():
    with ScriptedServer().running() as running:
        yield running


def body(**server):
    options = server.pop("options", {})
    return RequestBody(ModelSettings(path="m", engine="openai", server={**server}, options=options))


def message(words, **more):
    return {"message": words, **more}


def pydantic(field, kind="extra_forbidden", said="Extra inputs are not permitted"):
    return {"detail": [{"type": kind, "loc": ["body", field], "msg": said, "input": 1}]}


LEFT_OUT = [
    ("temperature", 400, message("Unsupported parameter: 'temperature' is not supported.")),
    ("temperature", 400, message("`temperature` is deprecated for this model.")),
    ("seed", 400, message("Unsupported parameter: seed", param="seed")),
    ("seed", 400, message("property 'seed' is unsupported, did you mean 'n'?")),
    ("seed", 501, message("seed is not implemented")),
    ("seed", 400, message("Argument not supported on this model: seed")),
    ("stop", 400, message("Unsupported parameter: 'stop' is not supported with this model.")),
    ("stop", 400, message("Argument not supported on this model: stop")),
    ("stop", 422, pydantic("stop")),
    ("n", 400, message("n must be 1")),
    ("n", 400, message("n > 1 is not supported")),
    ("n", 400, message("Only one completion choice is allowed")),
    ("n", 400, message("'n' : number must be at most 1")),
    ("n", 400, message("Invalid n value (currently only n = 1 is supported)")),
    ("n", 400, [{"error": message("Multiple candidates is not enabled for this model")}]),
    ("n", 422, pydantic("n", "less_than_equal", "Input should be less than or equal to 1")),
    ("n", 422, {"error": "Input validation error: unknown field `n`, expected one of `stop`"}),
]
"""Each is a field, a status and an error's body, as servers word it; the field is left out."""

RENAMED = [
    (
        {"max_tokens": "max_completion_tokens"},
        message(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
    ),
    ({"max_tokens": "max_new_tokens"}, message("max_tokens is unsupported; use max_new_tokens")),
    ({"max_tokens": "max_completion_tokens"}, pydantic("max_tokens")),
    ({"seed": "random_seed"}, pydantic("seed")),
    ({"seed": "random_seed"}, message('json: unknown field "seed"')),
    ({"seed": "random_seed"}, message("invalid request: unknown field: seed")),
    ({"seed": "random_seed"}, message("Unrecognized request argument supplied: seed")),
    ({"seed": "random_seed"}, message("Extra fields: ('seed' was unexpected)")),
    ({"seed": "random_seed"}, {"message": pydantic("seed")["detail"], "object": "error"}),
    ({"seed": "random_seed"}, message(str(pydantic("seed")["detail"]))),
    (
        {"seed": "random_seed"},
        [
            {
                "error": message(
                    'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
                )
            }
        ],
    ),
    (
        {"seed": "random_seed"},
        {"error": "Failed to deserialize: unknown field `seed`, expected one of `n`, `stop`"},
    ),
]

ONE_VALUE = [
    message(
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default "
        "(1) value is supported.",
        param="temperature",
        code="unsupported_value",
    ),
    message("temperature must be 1"),
    message("invalid temperature: only 1 is allowed for this model"),
    message("temperature only supports 1.0"),
    {"error": "Input validation error: `temperature` must be strictly positive"},
    pydantic("temperature", "greater_than", "Input should be greater than 0"),
]

LIMITED = [
    ({"top_logprobs": 5}, "Invalid value for 'top_logprobs': must be less than or equal to 5."),
    ({"top_logprobs": 5}, "Cannot request more than 5 logprobs."),
    ({"top_logprobs": 8}, "top_logprobs must be between 0 and 8"),
    ({"top_logprobs": 3}, "at most 3 logprobs are possible"),
    ({"n": 4}, "'n': must be less than or equal to 4"),
    ({"stop": list("ab")}, "'stop': array too long. Expected one of maximum length 2, got 4."),
]

NOT_LEARNT = [
    message("temperature must be between 0 and 0.5"),
    message("max_tokens is too large: 9. This model supports at most 8 completion tokens."),
    message("Unsupported parameter: 'reasoning_effort'. Remove 'seed' or it."),
    message("Unknown parameter: 'messages[0].name'. Is 'seed' right?", param="messages[0].name"),
    message("Unsupported parameter: 'max_tokens'"),
    message("Invalid 'seed': integer above maximum value."),
    message("The model is overloaded, stop sending"),
    message("n"),
    {"error": None},
    [],
    "it broke",
]


class Refused(Exception):  # noqa: N818 (stands for one of the client)
    def __init__(self, body, status=400):
        super().__init__(str(body))
        self.body, self.status_code = body, status


def learn(one, refusal, status=400, asked=ASKED):
    sent = one.fitted(asked)
    return one.learn(complaints_of(Refused(refusal, status)), asked, sent)


@pytest.mark.parametrize(("field", "status", "refusal"), LEFT_OUT)
def test_a_field_that_a_server_does_not_take_is_left_out_and_said_once(
    caplog, field, status, refusal
):
    one = body()
    assert learn(one, refusal, status)
    assert one.fitted(ASKED) == {k: v for k, v in ASKED.items() if k != field}
    assert len(caplog.records) == 1
    # Others that were under way at that time are refused in the same words.
    assert one.learn(complaints_of(Refused(refusal, status)), ASKED, ASKED)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("names", "refusal"), RENAMED)
def test_a_field_that_has_another_name_is_sent_under_it(names, refusal):
    one = body()
    assert learn(one, refusal)
    assert one.fitted(ASKED) == {names.get(k, k): v for k, v in ASKED.items()}
    assert one.sampled_otherwise(ASKED) == {}


def test_a_seed_under_no_name_is_left_out_and_rows_say_so():
    one = body()
    assert learn(one, message("Unknown name: seed"))
    assert learn(one, message("Unknown name: random_seed"))
    assert not {"seed", "random_seed"} & {*one.fitted(ASKED)}
    assert one.sampled_otherwise(ASKED) == {"seed": OWN}


def test_names_that_a_server_sends_in_a_circle_end_in_an_error():
    one = body()
    assert learn(one, message("unknown 'max_tokens', use max_new_tokens"))
    assert learn(one, message("unknown 'max_new_tokens', use max_output_tokens"))
    assert not learn(one, message("unknown 'max_output_tokens', use max_new_tokens"))


@pytest.mark.parametrize("refusal", ONE_VALUE)
def test_a_temperature_is_left_out_alone_and_others_are_still_sent(caplog, refusal):
    one = body()
    assert learn(one, refusal)
    rest = {k: v for k, v in ASKED.items() if k != "temperature"}
    assert one.fitted(ASKED) == rest
    assert one.sampled_otherwise(ASKED) == {"temperature": OWN}
    assert one.fitted({**ASKED, "temperature": 1}) == {**ASKED, "temperature": 1}
    assert one.sampled_otherwise({**ASKED, "temperature": 1}) == {}
    assert "own temperature" in caplog.text


@pytest.mark.parametrize(("limits", "words"), LIMITED)
def test_a_limit_that_a_server_names_is_kept_to(limits, words):
    one, asked = body(), {**ASKED, "logprobs": True, "top_logprobs": 20}
    assert learn(one, message(words), asked=asked)
    assert one.fitted(asked) == {**asked, **limits}
    assert not learn(one, message(words), asked=asked)


@pytest.mark.parametrize("refusal", NOT_LEARNT)
def test_what_is_not_understood_is_not_acted_upon(caplog, refusal):
    one = body(options={"reasoning_effort": "low"})
    assert not learn(one, refusal)
    assert one.fitted(ASKED) == {**ASKED, "reasoning_effort": "low"}
    assert not caplog.records


@pytest.mark.parametrize("status", [401, 404, 429])
def test_other_statuses_refuse_no_field(status):
    assert complaints_of(Refused(message("unknown field seed"), status)) == []


def test_a_field_of_the_users_own_is_not_taken_away():
    one = body(options={"temperature": 0.3})
    assert one.sampled_otherwise(ASKED) == {"temperature": "0.3 (`options`)"}
    assert not learn(one, message("Unsupported parameter: 'temperature'"))
    assert one.fitted(ASKED)["temperature"] == 0.3


def test_fields_are_left_out_and_renamed_as_set():
    one = body(omit=["seed", "n"], rename={"max_tokens": "max_completion_tokens"})
    assert one.fitted(ASKED) == {
        "max_completion_tokens": 9,
        "temperature": 0.7,
        "stop": list("abcd"),
    }
    assert one.sampled_otherwise(ASKED) == {"seed": OWN}
    assert body(omit="max_tokens").sampled_otherwise(ASKED) == {"max_new_tokens": OWN}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"omit": ["sed"]}, "seed"),
        ({"omit": ["seed"], "rename": {"seed": "random_seed"}}, "both name `seed`"),
        ({"rename": {"seed": "n"}}, "`n`"),
        ({"rename": {"seed": "x", "n": "x"}}, "two fields"),
        ({"rename": {"seed": ""}}, "empty"),
        ({"omit": ["logprobs"], "scores": "top"}, "needs `logprobs`"),
    ],
)
def test_names_of_fields_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ModelSettings(path="m", engine="openai", server=wrong)


def test_fields_that_are_set_are_part_of_the_fingerprint(server):
    plain = fingerprint_engine(server.settings())
    assert plain == fingerprint_engine(server.settings(omit=[], rename={}))
    assert plain != fingerprint_engine(server.settings(omit=["temperature"]))
    assert plain != fingerprint_engine(server.settings(rename={"seed": "random_seed"}))


def strict(body):
    """Take no seed, one temperature, one answer, and `max_tokens` under another name."""
    if "max_tokens" in body:
        return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
    if body.get("temperature", 1) != 1:
        return error(400, "'temperature' does not support this. Only the default (1) is possible")
    if "seed" in body or "random_seed" in body:
        return error(422, f"unknown field {'seed' if 'seed' in body else 'random_seed'}")
    if body.get("logprobs"):
        return error(400, "Unsupported parameter: 'logprobs'")
    return error(400, "n > 1 is not supported") if body.get("n", 1) > 1 else chat("(A)")


def test_a_run_goes_on_with_what_a_strict_server_takes_and_says_each_thing_once(server, caplog):
    server.answer = strict
    requests = [GenerateRequest(PROMPT, seed=n, max_tokens=9, temperature=0.5) for n in range(20)]
    answers, _ = ask(server.settings(), *requests)
    assert {answer.text for answer in answers} == {"(A)"}
    assert {tuple(a.sampling.items()) for a in answers} == {(("temperature", OWN), ("seed", OWN))}
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens"}
    server.asked.clear()
    (scores,), _ = ask(server.settings(), ScoreRequest(PROMPT, OPTIONS))
    assert math.exp(scores.logprobs[0]) == pytest.approx(16.5 / 17)
    assert scores.sampling == {}  # sampled at a temperature of 1, as asked for
    # What another engine has learnt is not asked again: two fields that only scores have, then 16.
    assert len(server.asked) == 1 + 1 + 1 + 16
    texts = [record.getMessage() for record in caplog.records]
    for words in ("`max_tokens`", "`seed`", "`random_seed`", "0.5 as `temp", "0 as `temp", "`n`"):
        assert sum(f"does not take {words}" in text for text in texts) == 1, words
    assert sum("gives no log-probabilities" in text for text in texts) == 1
    assert "counted from 16 sampled answers" in caplog.text
    assert "in 16 requests" in caplog.text
    assert "is a request" in caplog.text
    assert "cannot be repeated" in caplog.text


def test_a_server_that_ignores_n_is_asked_one_by_one_and_it_is_said_once(server, caplog):
    server.answer = chat("(B)")
    settings = server.settings(scores="samples", samples=4)
    for _ in range(2):
        assert score(settings).logprobs[1] > math.log(0.8)
    assert [body.get("n") for body in server.asked] == [4, *[None] * 7]
    assert caplog.text.count("gives one answer to a request for several") == 1


def test_log_probabilities_that_are_left_out_are_never_asked_for(server):
    server.answer = lambda body: chat(*["(A)"] * body["n"])
    score(server.settings(omit=["logprobs", "top_logprobs"], samples=3))
    assert [body.get("n") for body in server.asked] == [3]
    assert "logprobs" not in server.asked[0]


def test_a_refusal_that_is_not_understood_names_the_settings(server):
    server.answer = error(400, "I do not like your request")
    with pytest.raises(CaiError, match=r"do not like.*`server\.omit` or `server\.rename`"):
        generate(server.settings())
    assert len(server.asked) == 1


def test_the_key_is_in_no_message_about_a_field(server, monkeypatch, caplog):
    key = "sk-proj-0123456789abcdefghij"
    monkeypatch.setenv("A_KEY", key)
    server.script = [error(400, f"seed is not supported for {key}")]
    with caplog.at_level(logging.WARNING):
        generate(server.settings(api_key_env="A_KEY"))
    assert "seed" in caplog.text
    assert key[:6] not in caplog.text


def test_complaints_are_found_in_every_shape():
    found = complaints_of(Refused({"detail": [*pydantic("seed")["detail"], "and more"]}))
    assert found[0].field == "seed"
    assert found[1] == Complaint("", "and more", "and more")
