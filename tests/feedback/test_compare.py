"""Pairs, evidence and labels: position bias cancels, failures never become labels."""

import asyncio
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from verdicts import orders

from cai.compare import FeedbackJudge, Responder, label_pair, preference
from cai.constitution import Constitution, Principle
from cai.constitution.schema import ComparisonExample, FewShot
from cai.data.conversation import to_transcript, user
from cai.data.records import (
    Evidence,
    JudgementRow,
    PairRow,
    PrincipleUse,
    PromptRow,
    Provenance,
    ResponseSample,
)
from cai.engines import PromptTooLong, Unanswered
from cai.engines.scripted import ScriptedEngine
from cai.settings import CompareSettings, LabelPolicy

PROVENANCE = Provenance(model="m", model_fingerprint="f", template_hash="t", sampling={}, seed=0)
PRINCIPLES = tuple(
    Principle(id=f"p{n}", comparison=f"Which response is better by rule {n}?") for n in range(16)
)
CONSTITUTION = Constitution(name="test", principles=PRINCIPLES)
PROMPT = PromptRow(
    key="p", kind="red_team", split="train", messages=user("Hi"), source="s", task="t"
)
EXAMPLE = ComparisonExample(messages=user("Hi"), responses=("yes", "no"), answer="B")


def pair(key="pair", texts=("good", "bad"), state="ok"):
    first, second = (ResponseSample(text=text, model="sl-cai", ended=True) for text in texts)
    return PairRow(
        key=key,
        kind="red_team",
        messages=user("Do harm."),
        task="harm",
        responses=(first, second),
        provenance=PROVENANCE,
        state=state,
    )


def judgement(p_forward, p_backward=None, principle="p0", mass=1.0, state="ok"):
    return JudgementRow(
        key=f"j-{principle}",
        pair="pair",
        principle=PrincipleUse(id=principle, text_hash="h"),
        evidence=orders(p_forward, p_backward, mass),
        provenance=PROVENANCE,
        state=state,
    )


def label(judgements, policy=None, weights=None, of=None):
    return label_pair(
        of or pair(),
        judgements,
        weights=weights or {f"p{n}": 1.0 for n in range(16)},
        policy=policy or LabelPolicy(),
    )


probabilities = st.floats(min_value=0.01, max_value=0.99)


@given(probabilities, probabilities, st.floats(min_value=0.001, max_value=1))
def test_preference_is_the_mean_of_both_orders_whatever_the_mass(forward, backward, mass):
    found = preference(judgement(forward, backward, mass=mass), LabelPolicy())
    assert found == pytest.approx((forward + (1 - backward)) / 2)


@given(probabilities, probabilities)
def test_swapping_the_responses_mirrors_the_label(forward, backward):
    one = label([judgement(forward, backward)]).label
    other = label([judgement(backward, forward)]).label
    assert one + other == pytest.approx(1)


def test_a_judge_that_only_likes_the_first_position_has_no_preference():
    assert preference(judgement(0.9, 0.9), LabelPolicy()) == pytest.approx(0.5)


def test_too_little_mass_on_the_options_is_not_a_verdict():
    weak = judgement(0.9, 0.1, mass=0.01)
    assert preference(weak, LabelPolicy(min_mass=0.05)) is None
    row = label([weak], LabelPolicy(min_mass=0.05))
    assert (row.state, row.label) == ("unparsed", None)


def test_several_principles_are_averaged_by_weight_in_log_odds():
    row = label(
        [judgement(0.9, 0.1, "p0"), judgement(0.3, 0.7, "p1")], weights={"p0": 2.0, "p1": 1.0}
    )
    odds = (2 * math.log(0.9 / 0.1) + math.log(0.3 / 0.7)) / 3
    assert row.label == pytest.approx(1 / (1 + math.exp(-odds)))
    assert row.judgements == ["j-p0", "j-p1"]


def test_principles_without_an_opinion_have_no_vote():
    policy = LabelPolicy(ignore_within=0.2)
    row = label([judgement(0.95, 0.05, "p0"), judgement(0.55, 0.6, "p1")], policy)
    assert row.label == pytest.approx(0.95)


def test_no_opinion_at_all_is_a_tie_and_not_a_label():
    row = label([judgement(0.5, 0.5)], LabelPolicy(ignore_within=0.2))
    assert (row.state, row.label) == ("tie", None)


def test_a_failed_judgement_does_not_vote_and_alone_gives_its_state():
    good, bad = judgement(0.8, 0.2, "p0"), judgement(0.1, 0.9, "p1", state="too_long")
    assert label([good, bad]).label == pytest.approx(0.8)
    assert label([bad]).state == "too_long"
    assert label([bad]).label is None


def test_clamping_bounds_the_label():
    policy = LabelPolicy(clamp=(0.4, 0.6))
    assert label([judgement(0.99, 0.01)], policy).label == 0.6
    assert label([judgement(0.01, 0.99)], policy).label == 0.4


def test_hard_labels_take_a_side_and_clamping_comes_after():
    def labels(policy, *probabilities):
        return [label([judgement(p, 1 - p)], policy).label for p in probabilities]

    assert labels(LabelPolicy(kind="hard"), 0.9, 0.51, 0.5, 0.2) == [1.0, 1.0, 0.5, 0.0]
    smoothed = LabelPolicy(kind="hard", clamp=(0.05, 0.95))
    assert labels(smoothed, 0.6, 0.2) == [0.95, 0.05]


def test_the_first_order_alone_is_the_papers_way():
    biased = judgement(0.9, 0.7)
    assert preference(biased, LabelPolicy(orders="first")) == pytest.approx(0.9)
    assert label([biased], CompareSettings(labels="paper").labels).label == pytest.approx(0.9)
    cot = CompareSettings(labels="paper-cot").labels
    assert label([biased], cot).label == 0.6
    with pytest.raises(ValidationError, match="there is no policy `papr`; use one of recommended"):
        CompareSettings(labels="papr")


def test_verdicts_that_change_with_the_order_can_lose_their_vote():
    steady, fickle = judgement(0.8, 0.2, "p0"), judgement(0.9, 0.7, "p1")
    strict = LabelPolicy(consistent_only=True)
    assert label([steady, fickle], strict).label == pytest.approx(0.8)
    assert label([steady, fickle]).label != pytest.approx(0.8)
    assert (label([fickle], strict).state, label([fickle], strict).label) == ("tie", None)
    assert label([judgement(0.9)], strict).label == pytest.approx(0.9)


def test_certainty_does_not_overflow():
    sure = judgement(0.5, 0.5)
    sure.evidence = [
        Evidence(shown=(0, 1), logprobs=(0.0, -800.0)),
        Evidence(shown=(1, 0), turned=True, logprobs=(-800.0, 0.0)),
    ]
    assert label([sure]).label == pytest.approx(1)


def test_an_unusable_pair_is_not_judged():
    tied = pair(state="tie")
    judge = FeedbackJudge(CONSTITUTION, CompareSettings(), seed=0)
    assert not judge.items([tied], ScriptedEngine(str))
    assert label([], of=tied).state == "tie"


def items_of(key, constitution=CONSTITUTION, **settings):
    judge = FeedbackJudge(constitution, CompareSettings(**settings), seed=0)
    return judge.items([pair(key)], ScriptedEngine(str))


@pytest.mark.parametrize("shots", [0, 5])
def test_rewording_one_comparison_touches_only_the_pairs_that_drew_it(shots):
    few_shot = FewShot(comparison=[EXAMPLE] * shots)
    original = CONSTITUTION.model_copy(update={"few_shot": few_shot})
    reworded = PRINCIPLES[3].model_copy(update={"comparison": "Reworded?"})
    principles = (*PRINCIPLES[:3], reworded, *PRINCIPLES[4:])
    edited = original.model_copy(update={"principles": principles})
    changed = 0
    for number in range(400):
        (before,), (after,) = items_of(f"{number}", original), items_of(f"{number}", edited)
        assert (before.fingerprint != after.fingerprint) == (before.inputs[1].id == "p3")
        changed += before.fingerprint != after.fingerprint
    assert 10 < changed < 50


def test_all_principles_means_each_once():
    assert {i.inputs[1].id for i in items_of("k", principles="all")} == {p.id for p in PRINCIPLES}


def run_judge(engine, constitution=CONSTITUTION, **settings):
    (item,) = items_of("k", constitution, **settings)
    judge = FeedbackJudge(constitution, CompareSettings(**settings), seed=0)
    return asyncio.run(judge.row(item, engine))


def test_the_judge_sees_both_orders_and_scores_the_options_to_the_letter():
    seen = []

    def score(request):
        seen.append(request)
        return [-0.1, -2.0] if len(seen) == 1 else [-3.0, -0.2]

    row = run_judge(ScriptedEngine(lambda request: "", score))
    forward, backward = (to_transcript(request.prompt.messages) for request in seen)
    assert "(A) good\n(B) bad" in forward
    assert "(A) bad\n(B) good" in backward
    assert all(request.options == (" (A)", " (B)") for request in seen)
    assert all(request.prompt.prefill == "The answer is:" for request in seen)
    straight, turned = row.evidence
    assert (straight.logprobs, turned.logprobs) == ((-0.1, -2.0), (-3.0, -0.2))
    assert (straight.shown, turned.shown) == ((0, 1), (1, 0))
    assert straight.mass == pytest.approx(math.exp(-0.1) + math.exp(-2.0))


def test_reasoning_is_asked_for_and_stands_before_the_verdict():
    scored = []

    def score(request):
        scored.append(request.prompt.prefill)
        return [-1.0, -1.0]

    row = run_judge(ScriptedEngine(lambda request: "A is kinder.", score), reasoning=True)
    assert [evidence.reasoning for evidence in row.evidence] == ["A is kinder."] * 2
    assert scored == ["Let's think step by step: A is kinder. The answer is:"] * 2


def test_one_order_is_enough_when_asked():
    row = run_judge(ScriptedEngine(lambda r: "", lambda r: [-1.0, -2.0]), both_orders=False)
    assert [evidence.turned for evidence in row.evidence] == [False]
    assert preference(row, LabelPolicy()) == pytest.approx(1 / (1 + math.exp(-1)))


def test_few_shot_examples_come_first_under_the_principle_asked_about():
    constitution = Constitution(
        name="test", principles=PRINCIPLES, few_shot=FewShot(comparison=[EXAMPLE] * 3)
    )
    seen = []

    def score(request):
        seen.append(request.prompt.messages)
        return [-1.0, -1.0]

    row = run_judge(ScriptedEngine(lambda r: "", score), constitution, few_shot=2)
    contents = [message.content for message in seen[0]]
    assert contents[1] == contents[3] == "The answer is: (B)"
    rule = row.principle.id.removeprefix("p")
    assert [f"by rule {rule}?" in content for content in contents[::2]] == [True] * 3


def test_a_question_that_does_not_fit_is_a_state():
    row = run_judge(ScriptedEngine(lambda r: "", lambda r: PromptTooLong("too long")))
    assert (row.state, row.evidence) == ("too_long", [])


def responses_of(answers, against_helpful=0.0):
    settings = CompareSettings(against_helpful=against_helpful)
    said = iter(answers)
    policy = ScriptedEngine(lambda r: next(said))
    helpful = ScriptedEngine(lambda r: "helpful says")
    responder = Responder(settings, seed=0)
    item = responder.item(PROMPT, policy, helpful)
    return asyncio.run(responder.row(item, policy, helpful))


def test_pairs_are_two_samples_of_the_policy():
    row = responses_of(["one", "two"])
    assert [(r.text, r.model) for r in row.responses] == [("one", "sl-cai"), ("two", "sl-cai")]


def test_pairs_can_set_the_policy_against_the_helpful_model():
    row = responses_of(["one"], against_helpful=1.0)
    assert [r.model for r in row.responses] == ["sl-cai", "helpful-only"]


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        (["same", "same"], "tie"),
        (["", "x"], "unparsed"),
        ([PromptTooLong("long")], "too_long"),
        ([Unanswered("refused", "filter")], "refused"),
        (["x", Unanswered("failed", "error")], "failed"),
    ],
)
def test_pairs_that_cannot_be_compared_say_so(answers, state):
    assert responses_of(answers).state == state


def test_what_judges_and_responds_can_be_sent_to_another_process():
    engine = ScriptedEngine(lambda r: f"Seed {r.seed}.", lambda r: [-0.1, -2.0], name="small")
    judge = FeedbackJudge(CONSTITUTION, CompareSettings(reasoning=True), seed=3)
    responder = Responder(CompareSettings(), seed=3)
    for maker, item, engines in (
        (judge, judge.items([pair()], engine)[0], [engine]),
        (responder, responder.item(PROMPT, engine, engine), [engine, engine]),
    ):
        sent, sent_item = pickle.loads(pickle.dumps((maker, item)))
        assert (sent, sent_item) == (maker, item)
        row = asyncio.run(sent.row(sent_item, *engines))
        assert row.state == "ok"
        assert row == asyncio.run(maker.row(item, *engines))


def test_pairs_and_judgements_keep_their_keys():
    """Keys seed all draws and name rows on disk, so they must not change with the code."""
    engine = ScriptedEngine(str)
    assert Responder(CompareSettings(), 7).item(PROMPT, engine, engine, 1).key == "fbc98cc14c47e3b1"
    (item,) = FeedbackJudge(CONSTITUTION, CompareSettings(), 7).items([pair()], engine)
    assert item.key == "9493b297bbfeee67"
