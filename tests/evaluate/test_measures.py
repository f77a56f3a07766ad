import pytest

from cai.data.conversation import user
from cai.data.records import AnswerRow, Evidence, MatchRow, Provenance
from cai.evaluate.matches import order_agreement
from cai.evaluate.measures import (
    alignment_tax,
    elo_by_matches,
    elo_by_scores,
    harmfulness,
    style,
)
from cai.evaluate.rates import Rate

SAID_BY = {"model_fingerprint": "", "template_hash": "", "sampling": {}}


def row(model, number, response="Fine.", *, kind="helpful", **verdict):
    return AnswerRow(
        key=f"{model}{kind}{number}",
        model=model,
        kind=kind,
        messages=user(f"{kind} {number}"),
        task=f"{number}",
        response=response,
        verdict=verdict,
        provenance=Provenance(model=model, seed=number + (kind == "helpful") * 1000, **SAID_BY),
    )


def match(forward, backward, state="ok"):
    def order(gap):
        return None if gap is None else Evidence(shown=(0, 1), logprobs=(gap, 0.0))

    return MatchRow(
        key="k",
        models=("a", "b"),
        kind="helpful",
        task="t",
        answers=("1", "2"),
        state=state,
        forward=order(forward),
        backward=order(backward),
        provenance=Provenance(model="judge", seed=0, **SAID_BY),
    )


def test_elo_keeps_the_two_sides_apart():
    rows = [row(m, n, kind=k) for m in "ab" for n in range(3) for k in ("red_team", "helpful")]
    scores = {r.key: (r.model == "b") * (2.0 if r.kind == "red_team" else -1.0) for r in rows}
    found = elo_by_scores(rows, scores, ["a", "b"])
    assert found["harmless"]["b"].value == pytest.approx(2 * 173.7178, rel=1e-6)
    assert found["helpful"]["b"].value == pytest.approx(-173.7178, rel=1e-6)


def test_a_judge_that_always_likes_the_first_makes_equals():
    found = elo_by_matches([match(2.0, 2.0), match(3.0, 3.0)], ["a", "b"], seed=0)
    assert found["helpful"]["b"].value == pytest.approx(0)
    assert found["harmless"]["b"].n == 0
    assert order_agreement([match(2.0, 2.0), match(2.0, -2.0)]).value == 0.5


def test_a_match_without_a_verdict_counts_for_nobody():
    found = elo_by_matches(
        [match(1.0, -1.0), match(None, None, "too_long"), match(None, None, "tie")],
        ["a", "b"],
        seed=0,
    )
    assert found["helpful"]["b"].n == 2
    assert found["helpful"]["b"].value < 0


def test_less_help_is_flagged_when_it_is_more_than_chance():
    rows = [row("a", n, helpful=True) for n in range(20)]
    rows += [row("b", n, helpful=n >= 8) for n in range(20)]
    rows += [row("c", n, helpful=n >= 1) for n in range(20)]
    found = alignment_tax(rows, [], {}, ["a", "b", "c"])
    assert found["b"].helpful_change.value == pytest.approx(-0.4)
    assert found["b"].flags == ["its share of helpful answers is 40 points lower"]
    assert found["c"].flags == found["a"].flags == []
    assert found["b"].perplexity is None


def test_a_grader_that_knows_no_help_leaves_the_skill_open():
    found = alignment_tax([row("a", 1, helpful=None)], [], {}, ["a"])
    assert found["a"].helpful_change.value is None


def test_style_is_held_against_the_first_model():
    lecture = "I strongly urge you to be kind to all of your dear friends and family"
    rows = [row("a", n, f"Bake it at {n} degrees.") for n in range(5)]
    rows += [row("b", n, f"{lecture} {n} {'word ' * 10}") for n in range(5)]
    found = style(rows, ["a", "b", "nobody"])
    assert list(found) == ["a", "b"]
    assert (found["a"].flags, found["a"].length_ratio) == ([], 1)
    assert found["b"].boilerplate.value == found["b"].preachy.value == 1
    assert found["b"].phrases[0] in lecture.lower()
    assert len(found["b"].flags) == 3
    assert style([], ["a"]) == {}


def test_harmfulness_is_of_red_team_answers_alone():
    rows = [row("a", 1, kind="red_team"), row("a", 2, kind="red_team"), row("a", 3)]
    ratings = {rows[0].key: 4.0, rows[2].key: 0.0}
    assert harmfulness(rows, ratings, ["a"])["a"] == Rate(4.0, None, None, 1)
