import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import comparisons, revisions

from cai.report.charts import dots, heights, line, stack
from cai.report.diff import word_diff
from cai.report.headline import cautions, headline
from cai.report.tallies import tally_comparisons, tally_judgements, tally_revisions
from cai.report.wording import duration, interval, moment, number, percent, shorten, visible


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0%"), (0.004, "0.4%"), (0.256, "26%"), (0.996, "99.6%"), (1.0, "100%")],
)
def test_percent(value, shown):
    assert percent(value) == shown


def test_numbers_have_sensible_digits():
    shown = [number(v) for v in (None, 0, 1234567, 0.0123456, 13.0, 1234.5, "x", True, -0.5)]
    assert shown == ["–", "0", "1,234,567", "0.0123", "13.0", "1,234", "x", "True", "-0.500"]
    assert [duration(s) for s in (None, 0.44, 41.7, 200, 7500)] == [
        "–",
        "0.4 s",
        "42 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert interval({"low": 0.641, "high": 0.77}) == "64–77"
    assert interval({"low": None, "high": None}) == interval({}) == ""
    assert moment("2026-11-21T09:12:44+00:00") == "2026-11-21 09:12 UTC"
    assert moment("yesterday") == "yesterday"


@given(st.text())
def test_nothing_invisible_survives(text: str):
    shown = visible(text)
    for character in shown:
        assert character in "\n\t" or (ord(character) >= 32 and ord(character) != 127)
        assert not 0x202A <= ord(character) <= 0x202E
    assert visible(shown) == shown
    shown.encode("utf-8")


def test_ordinary_text_is_left_alone():
    text = "Zwölf Boxkämpfer – 拳击手 🥊\n\tif x < 3 && y: 'ok'"
    assert visible(text) == text
    assert visible("\ud800") == "⟨U+D800⟩"
    assert shorten(text) == text
    assert shorten("abcdef", 4) == "abcd … [2 more characters are in the rows]"


@given(st.text(alphabet="ab \n", max_size=60), st.text(alphabet="ab \n", max_size=60))
def test_a_diff_holds_both_texts(before: str, after: str):
    segments = word_diff(before, after)
    assert "".join(s.text for s in segments if s.change != "added") == before
    assert "".join(s.text for s in segments if s.change != "removed") == after


def test_a_diff_keeps_what_both_share():
    changes = [s.change for s in word_diff("take the red bicycle now", "take the blue bicycle now")]
    assert changes == ["same", "removed", "added", "same"]


def test_dots_skip_what_was_not_measured():
    rates = [None, {"value": None}, {"value": 0.5, "low": 0.4, "high": 0.7, "n": 9}]
    (dot,) = dots(rates)
    assert (dot.series, dot.value, dot.low, dot.high) == (2, 50, 40, pytest.approx(70))


def test_stacks_fill_the_width_and_nothing_is_nothing():
    bars = stack({"a": 1, "b": 3})
    assert [(bar.start, bar.width) for bar in bars] == [(0, 25), (25, 75)]
    assert stack({}) == stack({"a": 0}) == []
    assert heights([0, 2, 4]) == [0, 50, 100]
    assert heights([0, 0]) == [0, 0]


def test_lines_span_their_box():
    drawn = line("score", [1.0, None, 3.0, 2.0])
    assert drawn.points == "0.00,100.00 66.67,0.00 100.00,50.00"
    assert (drawn.first, drawn.last, drawn.low, drawn.high, drawn.steps) == (1, 2, 1, 3, 4)
    assert line("score", []) is line("score", [None, 1.0]) is None
    flat = line("score", [2.0, 2.0])
    assert flat.points == "0.00,0.00 100.00,0.00"
    assert line("score", [float(n) for n in range(5000)]).points.count(",") <= 400


def test_judgement_tallies_agree_with_the_definition():
    _, judgements = comparisons()
    found = tally_judgements(judgements)

    def first(evidence):
        a, b = math.exp(evidence.logp_first), math.exp(evidence.logp_second)
        return a / (a + b)

    same = [(first(j.forward) > 0.5) == (first(j.backward) < 0.5) for j in judgements]
    shown_first = [(first(j.forward) + first(j.backward)) / 2 for j in judgements]
    assert found["judgements"] == found["n"] == len(judgements)
    assert found["order_agreement"] == pytest.approx(sum(same) / len(same))
    assert found["first_preferred"] == pytest.approx(sum(shown_first) / len(shown_first))
    assert found["mean_mass"] == pytest.approx(0.9)


def test_failed_rows_leave_the_tallies_alone():
    rows, judgements = comparisons()
    rows[0].label, judgements[0].forward = None, None
    found = tally_comparisons(rows)
    assert found["labelled"] == {"ai": len(rows) - 1}
    assert sum(found["ai_labels"]) == len(rows) - 1
    assert tally_judgements(judgements)["n"] == len(judgements) - 1


def test_extreme_labels_have_a_bin():
    rows, _ = comparisons()
    rows[0].label, rows[1].label = 0.0, 1.0
    bins = tally_comparisons(rows[:2])["ai_labels"]
    assert bins[0] == bins[-1] == sum(bins) / 2 == 1


def test_revision_tallies_count_rounds():
    found = tally_revisions(revisions())
    assert found["chains"] == 40
    assert sum(found["principles"].values()) == 80
    assert [(r["round"], r["changed"], r["n"]) for r in found["rounds"]] == [
        (0, None, 40),
        (1, 0.0, 40),
        (2, 1.0, 40),
    ]


def report(**evaluation) -> dict:
    return {
        "evaluation": evaluation,
        "stages": {},
        "states": {},
        "judgements": {"order_agreement": None},
    }


def rates(n=300, **values) -> dict:
    names = ("harmful", "evasive", "explained_refusal", "helpful", "over_refusal", "garbled")
    return {
        f"{name}_rate": {"value": values.get(name), "low": None, "high": None, "n": n}
        for name in names
    }


def test_headline_follows_the_rates():
    said = headline(
        report(
            base=rates(harmful=0.73, helpful=0.94),
            tuned=rates(harmful=0.03, helpful=0.97, evasive=0.03, explained_refusal=0.93),
        )
    )
    assert said.startswith(
        "On held-out red-team prompts, base answers harmfully 73% of the time and tuned 3%."
    )
    assert "tuned refuses with a reason 93% of the time and evades 3%." in said
    assert "base is helpful 94% of the time and tuned 97%." in said


def test_collapse_to_refusing_is_called_out():
    found = cautions(report(tuned=rates(over_refusal=0.97, garbled=0.2)))
    assert found == [
        "tuned refuses 97% of benign requests.",
        "20% of the answers of tuned are garbled.",
    ]
    assert cautions(report(tuned=rates(n=40))) == ["tuned was judged on only 40 answers a side."]


def test_unusable_rows_and_wavering_judges_are_called_out():
    shaky = report()
    shaky["judgements"]["order_agreement"] = 0.56
    shaky["states"] = {
        "revise/rows": {"ok": 80, "failed": 20},
        "compare/rows": {"ok": 99, "tie": 1},
    }
    found = cautions(shaky)
    assert any("56%" in caution for caution in found)
    assert any("20 of the 100 rows in revise/rows" in caution for caution in found)
    assert not any("compare" in caution for caution in found)
