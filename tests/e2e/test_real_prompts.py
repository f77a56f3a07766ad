"""Real prompts, multi-turn ones included, through every stage of a shipped pipeline."""

import json
import math
from pathlib import Path

import pytest
import torch
from command import cai, metrics, rows
from safetensors.torch import load_file

DATA = Path(__file__).parents[2] / "../shared/data"
ADVBENCH = DATA / "prompts/red-team/advbench.csv"
HH_RLHF = DATA / "preferences/hh-rlhf-harmless-base.jsonl"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.untraced,
    pytest.mark.skipif(
        not DATA.exists(), reason="the public data files are not beside the checkout"
    ),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "run"
    settings = ["revise.rounds=1", "sft.max_length=192", "preference.max_length=192"]
    settings += [f"{s}.max_new_tokens=16" for s in ("revise", "compare", "ppo", "evaluate")]
    done = cai(
        "run",
        "real-prompts",
        "--out",
        folder,
        "--set",
        f"prompts.red_team={{path: {ADVBENCH}, limit: 120}}",
        "--set",
        f"prompts.helpful={{path: {HH_RLHF}, limit: 120}}",
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_rows_in_are_rows_out_by_state(run):
    prompts = rows(run / "prompts/rows.jsonl")
    assert sum(row["kind"] == "red_team" for row in prompts) >= 110
    assert sum(row["kind"] == "helpful" for row in prompts) >= 110
    assert any(len(row["messages"]) > 2 for row in prompts)
    train = [row for row in prompts if row["split"] == "train"]
    assert sum(metrics(run, "revise")["states"].values()) == len(train)
    red_team = [row for row in train if row["kind"] == "red_team"]
    assert sum(metrics(run, "compare")["states"].values()) == len(red_team)


def test_chains_come_to_their_end(run):
    chains = [row for row in rows(run / "revise/rows.jsonl") if row["kind"] == "red_team"]
    whole = [row for row in chains if row.get("state", "ok") == "ok" and row["steps"]]
    assert len(whole) > 0.9 * len(chains)


def test_earlier_turns_reach_the_training_data(run):
    import pyarrow.parquet as pq

    examples = pq.read_table(run / "revise/train.parquet").to_pylist()
    assert any(len(example["prompt"]) > 2 for example in examples)


def test_weights_change_in_every_training_stage(run):
    sft, ppo = (load_file(run / s / "model/model.safetensors") for s in ("sft", "ppo"))
    preference = load_file(run / "preference/model/model.safetensors")
    assert any(not torch.equal(sft[name], ppo[name]) for name in sft)
    shared = [name for name in sft if name in preference]
    assert shared
    assert any(not torch.equal(sft[name], preference[name]) for name in shared)


def test_the_preference_models_training_loss_ends_below_chance(run):
    assert metrics(run, "preference")["final_loss"] < math.log(2)


def test_every_number_is_finite(run):
    def check(value):
        if isinstance(value, dict):
            return all(check(inner) for inner in value.values())
        if isinstance(value, list):
            return all(check(inner) for inner in value)
        return not isinstance(value, float) or math.isfinite(value)

    for path in run.glob("*/metrics.json"):
        assert check(json.loads(path.read_text())), path
    assert check(json.loads((run / "report.json").read_text()))
    assert all(check(row) for row in rows(run / "ppo/steps.jsonl"))
