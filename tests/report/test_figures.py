"""The paper's figures of models and checkpoints: places, sentences, and what is missing."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from parsed_page import report_on
from synthetic_run import CHECKPOINTS, MODELS, pipeline, ungraded

from cai.data.store import write_json
from cai.evaluate.rates import Rate
from cai.evaluate.results import CheckpointSummary, Elo, Harmfulness, Measures, ModelSummary
from cai.report.checkpoints import checkpoint_figures, checkpoint_series, compared_checkpoints
from cai.report.contents import collect
from cai.report.effects import side_effects
from cai.report.facts import PPOFacts
from cai.report.figures import LABEL_HEIGHT, elo_figure, harmfulness_figure, missing
from cai.report.write import read_report

BASE, FIRST, TUNED = MODELS


def known(value, low=None, high=None, n=300):
    return Rate(value, low, high, n)


def measures(ratings, checkpoints=()):
    elo = ratings and Elo(method="preference", anchor="base", **ratings)
    return Measures(elo=elo, checkpoints=checkpoints)


def checkpoint(policy, step, name, evaluation=None):
    return CheckpointSummary(
        policy=policy, stage="ppo", step=step, name=name, evaluation=evaluation or ModelSummary()
    )


def elo(**changes):
    ratings = {
        "harmless": {
            "base": known(0.0, 0.0, 0.0),
            "ppo-step-5": known(400.0, 380.0, 420.0),
            "tuned": known(800.0, 700.0, 900.0),
        },
        "helpful": {
            "base": known(0.0, 0.0, 0.0),
            "ppo-step-5": known(-4.0, -10.0, 2.0),
            "tuned": known(2.0, -6.0, 10.0),
        },
    }
    for side, rating in changes.items():
        ratings[side]["tuned"] = rating
    return measures(ratings, [checkpoint("tuned", 5, "ppo-step-5")])


def test_models_are_placed_by_their_elo_and_chance_looks_small():
    found = elo_figure(elo(), ["base", "tuned"])
    places = {place.name: place for place in found.plane.places}
    base, way, tuned = (places[name] for name in ("base", "PPO, step 5", "tuned"))
    assert (base.series, way.series, tuned.series) == (0, None, 1)
    assert base.y == 100
    assert way.y == pytest.approx((base.y + tuned.y) / 2)
    assert base.upright == (100, 100)
    assert tuned.upright[0] > tuned.y > tuned.upright[1] >= 0
    # Two points of helpfulness are next to nothing on an axis of at least 200.
    assert 0 < tuned.x - base.x < 2
    assert way.x < base.x < tuned.x
    assert way.across[0] < way.x < way.across[1]
    drawn_last = [place.series is not None for place in found.plane.places]
    assert drawn_last == sorted(drawn_last)
    (path,) = found.plane.paths
    assert path.split() == [f"{place.x:.2f},{place.y:.2f}" for place in (base, way, tuned)]


def test_the_sentence_about_elo_tells_change_from_chance():
    said = elo_figure(elo(), ["base", "tuned"]).said
    assert said == (
        "On red-team prompts, tuned is 800 points (700 to 900) above base: its answer would be "
        "preferred 99.0% of the time. "
        "On benign prompts, there is no clear difference between tuned and base."
    )
    worse = elo_figure(elo(helpful=known(-100.0, -120.0, -80.0)), ["base", "tuned"]).said
    assert worse.endswith(
        "On benign prompts, tuned is 100 points (80 to 120) below base: its answer would be "
        "preferred 36% of the time."
    )


def test_a_model_without_a_rating_has_no_place_and_keeps_its_row():
    never_lost = elo(harmless=known(None))
    found = elo_figure(never_lost, ["base", "tuned"])
    assert [place.name for place in found.plane.places] == ["PPO, step 5", "base"]
    assert [one.name for one in found.rated] == ["base", "PPO, step 5", "tuned"]
    assert "red-team" not in found.said
    assert elo_figure(measures({"helpful": {}, "harmless": {}}), ["base"]).plane is None
    assert elo_figure(measures(None), ["base"]) is None


def test_names_of_models_that_lie_together_do_not():
    models = [f"m{n}" for n in range(4)]
    rating = {model: known(float(n)) for n, model in enumerate(models)}
    found = elo_figure(measures({"harmless": rating, "helpful": rating}), models)
    labels = sorted(place.label for place in found.plane.places)
    gaps = [below - above for above, below in pairwise(labels)]
    assert all(gap >= LABEL_HEIGHT - 1e-9 for gap in gaps)


def test_harmfulness_is_told_with_its_difference():
    models = {"base": known(3.0, 2.8, 3.2), "tuned": known(0.5, 0.4, 0.6)}

    def figure(models):
        rated = Harmfulness(method="model", models=models, states={})
        return harmfulness_figure(Measures(harmfulness=rated), ["base", "tuned"])

    found = figure(models)
    assert found.said.startswith("Answers of tuned are rated 2.50 (2.28 to 2.72) less harmful")
    same = {"base": models["base"], "tuned": known(2.9, 2.7, 3.1)}
    found = figure(same)
    assert found.said == "There is no clear difference between tuned and base."
    assert harmfulness_figure(Measures(), ["base"]) is None


def test_checkpoints_are_followed_from_the_start_of_ppo_to_its_end(run: Path):
    report_on(run)
    report = read_report(run)
    series = checkpoint_series(report)[TUNED]
    points = series["harmful_rate"]
    assert [step for step, _ in points] == [0, *CHECKPOINTS, 60]
    ends = [report.evaluation[name].harmful_rate for name in (FIRST, TUNED)]
    assert [points[0][1], points[-1][1]] == ends
    kept = {one.step: one.evaluation for one in report.measures.checkpoints}
    assert all(value == kept[step].harmful_rate for step, value in points[1:-1])
    assert "harmfulness" in series
    (found,) = checkpoint_figures(report)
    assert found.frame == f"Step 0 is {FIRST}, step 60 is {TUNED}. The dotted line is {BASE}."
    assert found.said.startswith("Harmful answers fall from")
    ((heads, rows),) = found.numbers
    assert len(found.charts) == len(series) == len(heads) - 1 == 6
    assert [name for name, _ in rows] == ["0", *map(str, CHECKPOINTS), "60"]
    assert rows[0][1][0] == (
        f"{ends[0].value:.0%} ({100 * ends[0].low:.0f}–{100 * ends[0].high:.0f})"
    )
    before = report.evaluation[BASE].harmful_rate.value
    assert found.charts[0].reference == pytest.approx(100 - 100 * before)
    # Harmfulness has a scale of its own, in the table and in its chart.
    harm = report.measures.harmfulness.models[FIRST]
    assert rows[0][1][-1] == f"{harm.value:.2f} ({harm.low:.2f} to {harm.high:.2f})"
    assert [text for _, text in found.charts[-1].ticks] == ["0", "1", "2", "3", "4"]
    before = report.measures.harmfulness.models[BASE].value
    assert found.charts[-1].reference == pytest.approx(100 - 25 * before)
    assert [text for _, text in found.charts[0].ticks] == ["0%", "50%", "100%"]
    # A guard that went back to an earlier policy kept that one.
    report.stages["ppo"].metrics["kept_step"] = 40
    assert [step for step, _ in checkpoint_series(report)[TUNED]["harmful_rate"]] == [0, 20, 40]


def test_what_is_told_of_the_fall_follows_the_numbers():
    def rated(value):
        return ModelSummary(harmful_rate=known(value, max(0, value - 0.02), value + 0.02))

    def figure(*values):
        kept = [
            checkpoint("end", 10 * n, f"k{n}", rated(value))
            for n, value in enumerate(values[1:-1], start=1)
        ]
        report = collect(Path("nowhere"), pipeline(), ungraded)
        changes = {
            "evaluation": {"start": rated(values[0]), "end": rated(values[-1])},
            "measures": Measures(checkpoints=kept),
            "ppo": {"ppo": PPOFacts(steps=30)},
        }
        (found,) = checkpoint_figures(report.model_copy(update=changes))
        assert found.frame == "Step 0 is start, step 30 is end."  # No dotted line at the start.
        return found.said

    assert figure(0.5, 0.06, 0.3, 0.02) == (
        "Harmful answers fall from 50% to 2%, nine tenths of it by step 10."
    )
    assert figure(0.5, 0.4, 0.3, 0.02) == "Harmful answers fall from 50% to 2%."
    assert figure(0.5, 0.4, 0.3, 0.49) == ""


def test_a_run_keeps_its_colour_where_the_other_lacks_a_measure():
    points = [(0, known(0.5)), (10, known(0.1))]
    compared = compared_checkpoints(
        ("before", "after"),
        [
            {"rl-cai": {"harmful_rate": points}},
            {"rl-cai": {"harmful_rate": points, "helpful_rate": points}},
        ],
    )
    told = [[(series.place, series.name) for series in chart.series] for chart in compared.charts]
    assert told == [[(0, "before"), (1, "after")], [(1, "after")]]


def test_side_effects_are_those_that_were_measured(run: Path):
    report_on(run)
    report = read_report(run)
    told = dict(side_effects(report))
    tax = report.measures.alignment_tax
    assert told["Perplexity of benign texts"][0].value == f"{tax[BASE].perplexity:.2f}"
    ratio = told["Perplexity, times the first model’s"]
    assert float(ratio[-1].value) == pytest.approx(tax[TUNED].perplexity_ratio.value, abs=0.01)
    assert " to " in ratio[-1].ends
    assert str(ratio[0]) == "1.00"  # The first model is held against itself: no interval.
    assert "Boilerplate" in told
    untaxed = report.measures.model_copy(update={"alignment_tax": {}})
    told = dict(side_effects(report.model_copy(update={"measures": untaxed})))
    assert "Perplexity of benign texts" not in told


def test_the_page_has_the_figures_and_the_numbers_behind_them(run: Path):
    page, report = report_on(run)
    for words in (
        "Harmless and helpful",
        "harmless Elo ↑",
        "Absolute harmfulness",
        "Checkpoints of PPO",
        "PPO, step 20",
        "Side effects",
        "Benign prompts refused",
    ):
        assert words in page.text
    assert "Not measured in this run" not in page.text
    rating = report["measures"]["elo"]["harmless"][TUNED]["value"]
    assert f"{rating:.0f}" in page.text
    assert missing(read_report(run)) == []


def test_what_an_evaluation_lacks_is_named_with_its_setting(run: Path):
    measures = json.loads((run / "evaluate" / "measures.json").read_text())
    write_json(
        run / "evaluate" / "measures.json",
        {**measures, "elo": None, "harmfulness": None, "checkpoints": []},
    )
    page, _ = report_on(run, pipeline(ppo={}))
    for setting in ("evaluate.elo", "section `harmfulness`", "ppo.snapshot_steps"):
        assert setting in page.text
    assert "harmless Elo" not in page.text
    (run / "evaluate" / "measures.json").unlink()  # an older run
    page, report = report_on(run)
    assert report["measures"] == {}
    assert "Side effects" in page.text
