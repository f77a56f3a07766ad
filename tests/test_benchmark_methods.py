"""The table of methods: its pipeline has what the table reads, and costs add up."""

import json

import pytest

from benchmarks.methods.__main__ import PIPELINE
from benchmarks.methods.measures import METHODS, STARTS, cost
from benchmarks.methods.shown import COLUMNS, cell, markdown, percent
from cai.pipeline.load import load_pipeline
from cai.pipeline.stage import POLICY


def test_every_method_has_its_stages_and_its_policy():
    stages = {placed.name: placed for placed in load_pipeline(PIPELINE).stages}
    evaluated = {source.name for source in stages["evaluate"].sources[POLICY]}
    for method in METHODS.values():
        assert {*method.stages} <= {*stages}
        assert method.policy in evaluated
        if method.weights:
            made = stages[method.weights].output
            assert made
            assert made.name == method.policy
    assert {*STARTS.values()} <= evaluated


@pytest.mark.parametrize("name", METHODS)
def test_the_stages_of_a_method_are_all_that_lies_between_sl_cai_and_its_policy(name):
    """What is before the comparisons is shared by all of them."""
    placed = {stage.name: stage for stage in load_pipeline(PIPELINE).stages}
    makers = {stage.output.name: stage.name for stage in placed.values() if stage.output}
    left, found = [makers[METHODS[name].policy]], set()
    while left:
        stage = left.pop()
        if stage not in ("prompts", "revise", "sft", "compare") and stage not in found:
            found.add(stage)
            left += placed[stage].upstream
    assert {*METHODS[name].stages} == found


def test_costs_of_stages_are_added_up(tmp_path):
    def stage(name, metrics, settings=None):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"processor_seconds": 10.5, **metrics})
        )
        manifest = {"settings": settings or {}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))

    stage("preference", {"tokens": 500})
    stage("grpo", {"tokens": 1000, "final_kl": 1.0}, {"epochs": 2})
    found = cost(tmp_path, METHODS["GRPO"])
    assert found == {"processor_seconds": 21, "sampled_tokens": 1000, "gradient_tokens": 2500}


def test_rates_have_the_lowest_and_the_highest_seed():
    assert percent([0.1, 0.26, 0.3]) == "22 (10–30)"
    assert percent([0.25]) == "25"


def test_the_table_says_what_was_not_measured():
    one = dict.fromkeys(COLUMNS, 0.5)
    without = {key: value for key, value in one.items() if key != "kl"}
    assert cell("kl", [without]) == "-"
    assert cell("kl", [without | {"kl_at_most": 1.2}]) == "≤ 1.2"
    assert cell("gradient_tokens", [{"gradient_tokens": 0.0}]) == "-"
    table = markdown({"seeds": {"5": {"DPO": one}, "6": {"DPO": one}}})
    assert table.splitlines()[2].startswith("| DPO | 50 (50–50) |")
