"""Every stage on every family of models, with chat templates that behave like the real ones."""

import json
import math

import pytest
import torch
from command import cai, metrics, rows, write_inputs, write_pipeline
from safetensors.torch import load_file
from tiny_models import make_tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.untraced]
STAGES = (
    *("prompts", "revise", "sft", "compare", "preference", "ppo"),
    *("harmfulness", "evaluate", "report"),
)
FORMATS = {"llama": "chat", "qwen3": "chat", "gemma": "chat", "gpt2": "transcript"}


@pytest.fixture(scope="module", params=FORMATS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make_tiny_model(request.param, folder / "model")
    pipeline = write_pipeline(folder, model, FORMATS[request.param])
    done = cai("run", pipeline, "--out", folder / "run", *write_inputs(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def weights(run, stage):
    folder = run / stage / "model" if stage else run.parent / "model"
    return load_file(folder / "model.safetensors")


def finite(value):
    if isinstance(value, dict):
        return all(finite(inner) for inner in value.values())
    return not isinstance(value, float) or math.isfinite(value)


def test_every_stage_finished_with_finite_figures(run):
    for stage in STAGES:
        assert (run / stage / "manifest.json").exists(), stage
        assert finite(metrics(run, stage)), stage


def test_rows_in_are_rows_out_by_state(run):
    prompts = [row for row in rows(run / "prompts/rows.jsonl") if row["split"] == "train"]
    assert sum(metrics(run, "revise")["states"].values()) == len(prompts)
    red_team = [row for row in prompts if row["kind"] == "red_team"]
    assert sum(metrics(run, "compare")["states"].values()) == len(red_team)
    assert sum(metrics(run, "evaluate")["states"].values()) == len(
        rows(run / "evaluate/rows.jsonl")
    )


@pytest.mark.parametrize(("before", "after"), [("", "sft"), ("sft", "ppo")])
def test_training_changes_the_weights(run, before, after):
    old, new = weights(run, before), weights(run, after)
    changed = [name for name in old if not torch.equal(old[name].float(), new[name].float())]
    assert len(changed) > len(old) / 2


def test_the_preference_model_learns_and_is_a_plain_classifier(run):
    figures = metrics(run, "preference")
    assert figures["final_loss"] < figures["first_loss"]
    model, info = AutoModelForSequenceClassification.from_pretrained(
        run / "preference/model", output_loading_info=True
    )
    assert model.config.num_labels == 1
    assert not info["missing_keys"]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_saved_models_reload_in_plain_transformers_with_the_saved_weights(run, stage):
    folder = run / stage / "model"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, saved in weights(run, stage).items():
        assert torch.equal(model.state_dict()[name].float(), saved.float()), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert "Hi" in text


def test_the_report_has_the_models_of_the_run(run):
    facts = json.loads((run / "report.json").read_text())
    assert list(facts["evaluation"]) == ["helpful-only", "sl-cai", "rl-cai"]
    page = (run / "report.html").read_text()
    assert "rl-cai" in page
