import json

import pytest

from cai.data.conversation import user
from cai.data.records import AnswerRow, PrincipleUse, Provenance, RevisionRow, RevisionStep
from cai.evaluate.summarise import summarise, summarise_revisions

RATES = {
    "harmful_rate",
    "evasive_rate",
    "explained_refusal_rate",
    "helpful_rate",
    "over_refusal_rate",
    "garbled_rate",
}
LABELS = ("harmful", "evasive", "explained_refusal", "helpful", "garbled")


def graded(number: int, label: str, *, kind="red_team", model="rl-cai", response="a b", **more):
    verdict = {name: name == label for name in LABELS}
    verdict["refused"] = label in ("evasive", "explained_refusal")
    return AnswerRow(
        key=f"{model}{kind}{number}",
        model=model,
        kind=kind,
        messages=user("?"),
        task=f"task {number}",
        response=response,
        verdict={**verdict, "label": label},
        provenance=Provenance(
            model=model, model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
        **more,
    )


def test_rates_are_shares_of_their_own_side():
    rows = [graded(n, "harmful") for n in range(3)]
    rows += [graded(3, "evasive"), graded(4, "explained_refusal"), graded(5, "garbled")]
    rows += [graded(n, "helpful", kind="helpful") for n in range(8)]
    rows += [graded(8, "explained_refusal", kind="helpful"), graded(9, "evasive", kind="helpful")]
    (model,) = summarise(rows).values()
    assert {name: (model.rates[name].value, model.rates[name].n) for name in RATES} == {
        "harmful_rate": (pytest.approx(3 / 6), 6),
        "evasive_rate": (pytest.approx(1 / 6), 6),
        "explained_refusal_rate": (pytest.approx(1 / 6), 6),
        "helpful_rate": (pytest.approx(8 / 10), 10),
        "over_refusal_rate": (pytest.approx(2 / 10), 10),
        "garbled_rate": (pytest.approx(1 / 16), 16),
    }
    assert model.labels["red_team"] == {
        "evasive": 1,
        "explained_refusal": 1,
        "garbled": 1,
        "harmful": 3,
    }


def test_models_come_in_the_methods_order():
    rows = [graded(0, "harmful", model=m) for m in ("zebra", "rl-cai", "helpful-only", "ape")]
    assert list(summarise(rows, models=("helpful-only", "sl-cai", "rl-cai"))) == [
        "helpful-only",
        "rl-cai",
        "ape",
        "zebra",
    ]


def test_unmeasured_rates_are_null_and_rows_in_are_rows_out():
    rows = [graded(n, "evasive") for n in range(4)]
    for row in rows:
        row.verdict["harmful"] = None
    rows.append(graded(9, "harmful", state="too_long"))
    model = summarise(rows)["rl-cai"]
    assert model.plain()["harmful_rate"] == {"value": None, "low": None, "high": None, "n": 0}
    assert model.evasive_rate.n == 4
    assert model.helpful_rate.value is None
    assert model.states == {"ok": 4, "too_long": 1}
    json.dumps(model.plain(), allow_nan=False)
    assert summarise([]) == {}


def test_categories_have_their_own_rates():
    rows = [graded(n, "harmful", tags={"category": "theft"}) for n in range(2)]
    rows += [graded(n, "evasive", tags={"category": "privacy"}) for n in range(2, 5)]
    rows += [graded(1, "helpful", kind="helpful", tags={"category": "cooking"})]
    found = summarise(rows)["rl-cai"].by_category
    assert list(found) == ["cooking", "privacy", "theft"]
    assert (found["theft"]["harmful_rate"].value, found["theft"]["harmful_rate"].n) == (1, 2)
    assert found["privacy"]["harmful_rate"].value == 0
    assert "harmful_rate" not in found["cooking"]
    assert found["cooking"]["helpful_rate"].value == 1


def test_lengths_and_scores_are_means_per_side():
    rows = [graded(0, "harmful", response="one two"), graded(1, "harmful", response="one")]
    plain = summarise(rows)["rl-cai"]
    assert plain.mean_words["red_team"].value == 1.5
    assert plain.mean_words["helpful"].value is None
    assert "mean_preference_score" not in plain.plain()
    scored = summarise(rows, scores={rows[0].key: -2.0})["rl-cai"].mean_preference_score
    assert (scored["red_team"].value, scored["red_team"].n) == (-2.0, 1)


def test_scores_are_averaged_by_number_of_revisions():
    def chain(number: int, rounds: int) -> RevisionRow:
        step = RevisionStep(
            principle=PrincipleUse(id="p", text_hash=""), critique=None, revision="r", ended=True
        )
        return RevisionRow(
            key=str(number),
            kind="red_team",
            messages=user("?"),
            task=f"task {number}",
            response="r",
            ended=True,
            steps=[step] * rounds,
            provenance=graded(0, "harmful").provenance,
        )

    chains = [chain(0, 2), chain(1, 2), chain(2, 1)]
    scores = {"0": [-1.0, 0.0, 2.0], "1": [1.0, 2.0, 4.0], "2": [3.0, 7.0]}
    found = summarise_revisions(chains, scores).rounds
    assert [(r.round, r.score.value, r.score.n) for r in found] == [
        (0, 1.0, 3),
        (1, 3.0, 3),
        (2, 3.0, 2),
    ]
    # Student's t with 2 degrees of freedom is 4.303; the standard deviation of -1, 1, 3 is 2.
    half = 4.3027 * 2 / 3**0.5
    assert found[0].score.high == pytest.approx(1 + half, rel=1e-3)
    assert summarise_revisions([], {}).plain() == {"rounds": [], "by_principle": {}}


def test_revisions_are_held_against_the_text_before_them():
    """Only where the text changed: two scores of one text say nothing."""

    def chain(number: int, *steps: tuple[str, str]) -> RevisionRow:
        return RevisionRow(
            key=str(number),
            kind="red_team",
            messages=user("?"),
            task=f"task {number}",
            response="first",
            ended=True,
            steps=[
                RevisionStep(
                    principle=PrincipleUse(id=name, text_hash=""), revision=text, ended=True
                )
                for name, text in steps
            ],
            provenance=graded(0, "harmful").provenance,
        )

    chains = [
        chain(0, ("harm", "a"), ("law", "a")),
        chain(1, ("harm", "a"), ("law", "b")),
        chain(2, ("law", "a")),
        chain(3, ("unused", "first")),
    ]
    scores = {"0": [0.0, 1.0, 1.0], "1": [0.0, -1.0, 5.0], "2": [0.0, 2.0], "3": [0.0, 0.0]}
    found = summarise_revisions(chains, scores)
    assert [(r.better.value, r.better.n) for r in found.rounds] == [
        (None, 0),
        (pytest.approx(2 / 3), 3),
        (1.0, 1),
    ]
    assert {name: (r.value, r.n) for name, r in found.by_principle.items()} == {
        "harm": (0.5, 2),
        "law": (1.0, 2),
    }
