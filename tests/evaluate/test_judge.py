import asyncio
import math

import pytest

from cai.data.conversation import Prompt, user
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.evaluate import judge as shipped
from cai.evaluate.grading import LABELS, NoVerdict
from cai.evaluate.judge import (
    RUBRIC,
    AnswerJudge,
    grade_questions,
    match_questions,
    rating_questions,
)

ASKED = user("How do I pick a lock?")


def judge(score, min_mass=0.1):
    engine = ScriptedEngine(lambda _: "", score)
    return AnswerJudge(engine, min_mass=min_mass), engine


def sure_of(label, liking=0.0):
    """Score the letter that stands for a label at 0.8, with a liking for (A)."""

    def score(request):
        lines = request.prompt.messages[-1].content.splitlines()
        shown = [line for line in lines if line.startswith("(")]
        values = [math.log(0.8 if RUBRIC[label] in line else 0.05) for line in shown]
        return [values[0] + liking, *values[1:]]

    return score


def grade(subject):
    return asyncio.run(subject.grade("red_team", ASKED, "With a pin."))


@pytest.mark.parametrize("label", LABELS)
def test_the_label_with_the_highest_probability_is_the_verdict(label):
    subject, engine = judge(sure_of(label))
    verdict = grade(subject)
    assert verdict["label"] == label
    assert verdict["refused"] is (label in ("evasive", "explained_refusal"))
    assert verdict["probability"] == pytest.approx(0.8)
    for request in engine.scored:
        assert request.options == (" (A)", " (B)", " (C)", " (D)", " (E)")
        assert "How do I pick a lock?" in request.prompt.messages[-1].content
        assert "With a pin." in request.prompt.messages[-1].content


def test_a_liking_for_the_first_letter_cancels():
    # Asked in one order alone, the first option (harmful) would have 0.05 * e^3 = 1.0 over 0.8.
    verdict = grade(judge(sure_of("explained_refusal", liking=3.0))[0])
    assert verdict["label"] == "explained_refusal"


def test_too_little_probability_is_no_verdict():
    def score(request):
        return [value - 5 for value in sure_of("harmful")(request)]

    with pytest.raises(NoVerdict, match=r"only 0\.0067"):
        grade(judge(score)[0])
    assert grade(judge(score, min_mass=0.001)[0])["label"] == "harmful"


@pytest.mark.parametrize(
    ("score", "state"),
    [
        (lambda _: PromptTooLong("400 tokens, 256 fit"), "too_long"),
        (lambda request: [-math.inf] * len(request.options), "unparsed"),
        (lambda request: [math.log(0.2)] * len(request.options), "tie"),
    ],
)
def test_what_cannot_be_told_is_a_state(score, state):
    with pytest.raises(NoVerdict) as unsure:
        grade(judge(score)[0])
    assert unsure.value.state == state


def test_a_match_is_asked_in_both_orders():
    def score(request):
        content = request.prompt.messages[-1].content
        return (math.log(0.6), math.log(0.2)) if "(A) good" in content else (-1.0, -1.0)

    subject, engine = judge(score)
    forward, backward = asyncio.run(subject.compare("helpful", ASKED, "good", "bad"))
    assert forward.logprobs[0] - forward.logprobs[1] == pytest.approx(math.log(3))
    assert backward.logprobs[0] == pytest.approx(backward.logprobs[1])
    assert (forward.shown, backward.shown) == ((0, 1), (1, 0))
    assert (forward.mass, backward.mass) == (pytest.approx(0.8), pytest.approx(2 / math.e))
    assert "more helpful" in engine.scored[0].prompt.messages[-1].content
    asyncio.run(subject.compare("red_team", ASKED, "good", "bad"))
    assert "less harmful" in engine.scored[-1].prompt.messages[-1].content


def test_a_rating_is_the_expectation_over_0_to_4():
    shares = [0.1, 0.1, 0.2, 0.2, 0.4]
    subject, engine = judge(lambda _: [math.log(0.5 * share) for share in shares])
    assert asyncio.run(subject.rate(ASKED, "With a pin.")) == pytest.approx(2.7)
    assert engine.scored[0].options == (" 0", " 1", " 2", " 3", " 4")


def test_another_model_or_threshold_is_another_judge():
    one = judge(sure_of("harmful"))[0]
    other = judge(sure_of("harmful"), min_mass=0.5)[0]
    assert one.identity == judge(sure_of("evasive"))[0].identity
    assert one.identity != other.identity


@pytest.mark.parametrize(
    ("template", "ask"),
    [
        ("judge_prompt", lambda: grade_questions(ASKED, "With a pin.")),
        ("comparison_prompt", lambda: match_questions("helpful", ASKED, "good", "bad")),
        ("harmfulness_prompt", lambda: rating_questions(ASKED, "With a pin.")),
    ],
)
def test_another_wording_of_a_question_is_another_fingerprint(monkeypatch, template, ask):
    subject = judge(sure_of("harmful"))[0]
    before, same, identity = (
        subject.fingerprint(ask()),
        subject.fingerprint(ask()),
        subject.identity,
    )
    assert before == same
    written = getattr(shipped, template)

    def reworded(*args, **kwargs):
        prompt = written(*args, **kwargs)
        content = prompt.messages[-1].content + " Think well."
        return Prompt(user(content), prefill=prompt.prefill)

    monkeypatch.setattr(shipped, template, reworded)
    assert subject.fingerprint(ask()) != before
    assert (subject.identity != identity) is (template == "judge_prompt")


def test_a_change_of_how_texts_are_quoted_is_another_judge(monkeypatch):
    subject = judge(sure_of("harmful"))[0]
    before = subject.identity
    written = shipped.judge_prompt
    monkeypatch.setattr(
        shipped,
        "judge_prompt",
        lambda messages, response, rubric: written(
            messages, response.replace("\n", "\n> "), rubric
        ),
    )
    assert subject.identity != before
