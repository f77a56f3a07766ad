"""`cai constitution stats`: counts over rows whose numbers are known by construction."""

import json

import pytest
from stored_run import CONSTITUTION, pair, write_run
from typer.testing import CliRunner
from verdicts import orders

from cai.cli import app
from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import (
    JudgementRow,
    PrincipleUse,
    Provenance,
    RevisionRow,
    RevisionStep,
)
from cai.settings import LabelPolicy
from cai.workbench.effects import read_run
from cai.workbench.statistics import principle_statistics

MADE = Provenance(model="m", model_fingerprint="f", template_hash="t", sampling={}, seed=0)
THREE = Constitution(
    name="three",
    principles=tuple(
        Principle(id=n, comparison="c", critique="c", revision="r", weight=w)
        for n, w in {"a": 1.0, "b": 1.0, "heavy": 3.0}.items()
    ),
)


def judgement(number, name, forward, backward=None):
    """One pair under one principle; P(response 0) in both orders, the same unless given."""
    return JudgementRow(
        key=f"{number}-{name}",
        pair=f"pair{number}",
        principle=PrincipleUse(id=name, text_hash="h"),
        evidence=orders(forward, 1 - (forward if backward is None else backward)),
        provenance=MADE,
    )


def chain(number, *steps):
    return RevisionRow(
        key=f"chain{number}",
        kind="red_team",
        messages=user("q"),
        task=f"task{number}",
        response="first",
        ended=True,
        steps=[
            RevisionStep(principle=PrincipleUse(id=name, text_hash="h"), revision=text, ended=True)
            for name, text in steps
        ],
        provenance=MADE,
    )


def statistics(judgements=(), chains=(), pairs=40, **policy):
    rows = [pair(number) for number in range(pairs)]
    return principle_statistics(THREE, chains, rows, judgements, LabelPolicy(**policy))


def of(found, name):
    return next(p for p in found.principles if p.id == name)


def test_rounds_and_changes_are_counted_against_the_text_before():
    chains = [
        chain(0, ("a", "second"), ("a", "second"), ("b", "first")),
        chain(1, ("a", "first"), ("b", "other")),
    ]
    found = statistics(chains=chains)
    assert (of(found, "a").rounds, of(found, "a").changed.value) == (3, pytest.approx(1 / 3))
    assert (of(found, "b").rounds, of(found, "b").changed.value) == (2, 1.0)
    assert (of(found, "heavy").rounds, of(found, "heavy").changed.n) == (0, 0)
    assert found.agreements == []


def test_sharpness_votes_and_orders():
    judgements = [
        judgement(0, "a", 0.9),
        judgement(1, "a", 0.45),
        judgement(2, "a", 0.9, 0.2),
    ]
    failed = judgement(3, "a", 0.9)
    failed.state = "too_long"
    a = of(statistics([*judgements, failed], ignore_within=0.2), "a")
    assert a.verdicts == 3
    assert a.sharpness == pytest.approx((0.8 + 0.1 + 0.1) / 3)
    assert a.opinions.value == pytest.approx(1 / 3)
    assert (a.orders.value, a.orders.n) == (0.5, 2)


def test_agreement_is_over_pairs_on_which_both_vote():
    judgements = [judgement(0, "a", 0.9), judgement(0, "b", 0.8), judgement(0, "heavy", 0.5)]
    judgements += [judgement(1, "a", 0.9), judgement(1, "b", 0.1)]
    judgements += [judgement(2, "a", 0.9), judgement(3, "b", 0.1)]
    (agreement,) = statistics(judgements, ignore_within=0.1).agreements
    assert (agreement.first, agreement.second) == ("a", "b")
    assert (agreement.same.value, agreement.same.n) == (0.5, 2)


def test_leaving_one_out_recomputes_labels():
    judgements = [
        # The heavy one decides alone: without it the label flips.
        judgement(0, "a", 0.2),
        judgement(0, "heavy", 0.7),
        # Nobody else votes: without it there is no label.
        judgement(1, "a", 0.5),
        judgement(1, "heavy", 0.9),
        # Everybody agrees.
        judgement(2, "a", 0.9),
        judgement(2, "heavy", 0.9),
        # Judged under one principle alone: not counted.
        judgement(3, "heavy", 0.9),
    ]
    found = statistics(judgements, ignore_within=0.1)
    assert (of(found, "heavy").flipped_without, of(found, "heavy").lost_without) == (1, 1)
    assert (of(found, "a").flipped_without, of(found, "a").lost_without) == (0, 0)
    assert of(found, "b").flipped_without is None


def test_suggestions_need_evidence():
    few = [judgement(n, name, 0.9) for n in range(4) for name in ("a", "b")]
    assert statistics(few).suggestions == []
    many = [judgement(n, name, 0.9) for n in range(40) for name in ("a", "b")]
    (redundant,) = statistics(many).suggestions
    assert redundant.startswith("a and b agree in 100% of 40 pairs")
    opposed = [judgement(n, name, p) for n in range(40) for name, p in {"a": 0.9, "b": 0.1}.items()]
    (against,) = statistics(opposed).suggestions
    assert "check that their weights" in against
    idle = [chain(n, ("a", "first")) for n in range(120)]
    (useless,) = statistics(chains=idle).suggestions
    assert useless.startswith("a changed 0% of the 120 responses")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics") / "run"
    write_run(folder, 12, principles=4)
    return folder


def invoke(*arguments, columns=100):
    command = ["constitution", "stats", *map(str, arguments)]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, command)


def test_the_command_shows_a_matrix_or_the_ends_of_a_list(folder):
    wide, narrow = invoke(folder, columns=140).stdout, invoke(folder, columns=80).stdout
    assert "15 p15" in wide
    assert "15 p15" not in narrow
    assert "(of " in narrow
    assert all(len(line.rstrip()) <= 80 for line in narrow.splitlines())


def test_json_holds_everything(folder):
    found = json.loads(invoke(folder, "--json").stdout)
    assert [p["id"] for p in found["principles"]] == [p.id for p in CONSTITUTION.principles]
    assert sum(p["verdicts"] for p in found["principles"]) == 11 * 4
    run = read_run(folder, write_run(folder.parent / "again", 12, principles=4))
    assert sum(p["rounds"] for p in found["principles"]) == sum(len(c.steps) for c in run.chains)
    assert {"first", "second", "same"} == set(found["agreements"][0])
