"""What labels are worth, held against sums written out by hand and with numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import grade, orders

from cai.compare.calibration import calibration_error
from cai.compare.quality import gold_pair, measure_quality, misses
from cai.data.conversation import user
from cai.data.prompts import load_comparisons
from cai.data.records import ComparisonRow, JudgementRow, PrincipleUse, Provenance
from cai.playground.documents import RANK
from cai.playground.grader import grade as truth
from cai.settings import GateSettings, LabelPolicy, SourceSettings

PROVENANCE = Provenance(model="m", model_fingerprint="f", template_hash="t", sampling={}, seed=0)


def known(number, label, texts=("one two three", "one")):
    return ComparisonRow(
        key=f"k{number:03}",
        state="tie" if label is None else "ok",
        kind="helpful",
        source="human",
        messages=user(f"{number}?"),
        task=f"task{number}",
        responses=texts,
        label=label,
    )


def judgement(row, evidence, principle="p"):
    return JudgementRow(
        key=f"{row.key}-{principle}",
        pair=row.key,
        principle=PrincipleUse(id=principle, text_hash="h"),
        evidence=evidence,
        provenance=PROVENANCE,
    )


def quality(gold, judgements, **policy):
    return measure_quality(
        gold, judgements, weights={"p": 1.0, "q": 1.0}, policy=LabelPolicy(**policy)
    )


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_numpys(labels):
    confidence, right = map(np.array, zip(*labels, strict=True))
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    assert calibration_error(labels, lowest=0.5) == pytest.approx(sum(gaps))


def test_accuracy_stands_beside_trivial_baselines():
    gold = [known(0, 1.0), known(1, 1.0), known(2, 0.0), known(3, 0.9), known(4, None)]
    said = [0.9, 0.8, 0.3, 0.2]
    rows = [judgement(row, orders(p, 1 - p)) for row, p in zip(gold, said, strict=False)]
    found = quality(gold, rows)
    assert found.comparisons == {"ok": 4, "tie": 1}
    assert found.labels == {"ok": 4}
    assert (found.accuracy.value, found.accuracy.n) == (0.75, 4)
    assert found.always_first.value == found.longer_wins.value == 0.75
    # The first is longer: its mean label is 0.55, and it is better 3 times of 4.
    assert found.length_bias.value == pytest.approx(0.55 - 0.75)
    assert sum(one.right.n for one in found.reliability) == 4
    assert found.calibration_error.value == pytest.approx(
        (abs(0.9 - 1) + abs(0.8 + 0.8 - 1) + abs(0.7 - 1)) / 4
    )
    assert found.calibration_error.low <= found.calibration_error.value


def test_a_liking_for_a_position_shows_and_so_do_flips_and_mass():
    gold = [known(n, 1.0) for n in range(4)]
    rows = [
        judgement(gold[0], orders(0.9, 0.7, 0.5)),  # flips: 0.9, then 0.3
        judgement(gold[1], orders(0.9, 0.1, 0.5)),  # keeps
        judgement(gold[2], orders(0.55, 0.5, 0.5)),  # no opinion
        judgement(gold[3], orders(0.8, None, 0.5)),  # asked once
    ]
    found = quality(gold, rows)
    assert (found.swap_flips.value, found.swap_flips.n) == (0.5, 2)
    bias = (0.8 + 0.5 + 0.525 + 0.8) / 4 - 0.5
    assert found.position_bias.value == pytest.approx(bias)
    assert found.option_mass.value == pytest.approx(0.5)
    graded = [judgement(row, [grade(0, 0.5, 0.5), grade(1, 0.5, 0.5)]) for row in gold]
    assert quality(gold, graded).position_bias.value is None


def test_principles_agree_where_both_have_an_opinion():
    gold = [known(n, 1.0) for n in range(3)]
    pairs = [(0.9, 0.8), (0.9, 0.1), (0.9, 0.5)]
    rows = [
        judgement(row, orders(p, 1 - p), name)
        for row, both in zip(gold, pairs, strict=True)
        for name, p in zip("pq", both, strict=True)
    ]
    agreement = quality(gold, rows).principle_agreement
    assert (agreement.value, agreement.n) == (0.5, 2)


def test_what_was_not_measured_misses_its_bound():
    found = quality([known(0, 1.0)], [])
    assert found.labels == {"unparsed": 1}
    gate = GateSettings(comparisons="x", accuracy=0.1, swap_flips=0.9)
    assert [text.split(" ")[0] for text in misses(found, gate)] == ["accuracy", "swap_flips"]


def test_the_playgrounds_comparisons_are_right_by_the_grader(tmp_path):
    source = SourceSettings(path="playground:feedback", limit=120)
    gold = load_comparisons([source], "feedback", seed=3, base_dir=tmp_path)
    assert len({row.key for row in gold}) == 120
    names = {"harmful": "helps", "helpful": "helps", "explained_refusal": "explains"}
    for row in gold:
        labels = [truth(row.messages, text) for text in row.responses]
        kinds = [names.get(label, "evades") for label in labels]
        rank = RANK["category" if row.kind == "red_team" else "usefulness"]
        assert (row.label > 0.5) == (rank.index(kinds[0]) < rank.index(kinds[1]))
    assert 0.4 < sum(row.label for row in gold) / 120 < 0.6
    assert gold_pair(gold[0]).responses[1].text == gold[0].responses[1]
