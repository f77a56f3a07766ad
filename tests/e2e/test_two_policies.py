"""A pipeline in which a stage stands twice: two fine-tunings, two policies of one SL-CAI."""

import json

import pytest
from command import cai, metrics, rows, write_inputs, write_pipeline
from safetensors.torch import load_file
from tiny_models import make_tiny_model

from cai.evaluate.rates import rate

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

MORE = """\
second-sft: {stage: sft, from: sl-cai, learning_rate: 1.0e-3, batch_size: 8, max_length: 4096}
gentle: {stage: ppo, from: sl-cai, steps: 2, batch_size: 8, max_new_tokens: 8, snapshot_steps: 1}
"""
POLICIES = ["helpful-only", "sl-cai", "second-sft", "rl-cai", "gentle"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    model = make_tiny_model("llama", folder / "model")
    pipeline = write_pipeline(folder, model)
    pipeline.write_text(pipeline.read_text() + MORE)
    arguments = ["run", pipeline, *write_inputs(folder), "--out", folder / "run"]
    done = cai(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run", arguments


def manifest(run, stage):
    return json.loads((run / stage / "manifest.json").read_text())


def test_each_has_its_own_folder_manifest_settings_and_start(finished):
    run, _ = finished
    assert set(manifest(run, "second-sft")["inputs"]) == {"revise", "sft"}
    assert set(manifest(run, "gentle")["inputs"]) == {"prompts", "sft", "preference"}
    assert manifest(run, "gentle")["settings"]["kl_coef"] == 0.05
    weights = [
        load_file(run / stage / "model" / "model.safetensors")
        for stage in ("sft", "second-sft", "ppo", "gentle")
    ]
    for one in weights[1:]:
        assert one.keys() == weights[0].keys()
        assert any((one[name] != weights[0][name]).any() for name in one)


def test_the_evaluation_compares_all_of_them(finished):
    run, _ = finished
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    assert list(summary) == POLICIES
    answers = rows(run / "evaluate" / "rows.jsonl")
    for name in POLICIES:
        own = [row for row in answers if row["model"] == name and row["kind"] == "helpful"]
        refused = [row["verdict"]["refused"] for row in own]
        expected = rate(refused, [row["task"] for row in own])
        assert summary[name]["over_refusal_rate"]["value"] == pytest.approx(expected.value)
    measures = json.loads((run / "evaluate" / "measures.json").read_text())
    assert measures["starts"] == {
        "sl-cai": "helpful-only",
        "second-sft": "sl-cai",
        "rl-cai": "sl-cai",
        "gentle": "sl-cai",
    }
    kept = [(one["policy"], one["step"], one["name"]) for one in measures["checkpoints"]]
    assert kept == [("rl-cai", 1, "ppo-step-1"), ("gentle", 1, "gentle-step-1")]
    assert any("rl-cai and gentle were trained on" in flag for flag in measures["flags"])


def test_the_report_shows_all_of_them(finished):
    run, _ = finished
    report = json.loads((run / "report.json").read_text())
    assert list(report["evaluation"]) == POLICIES
    assert {name: found["steps"] for name, found in report["ppo"].items()} == {
        "ppo": 2,
        "gentle": 2,
    }
    assert report["stages"]["second-sft"]["stage"] == "sft"
    page = (run / "report.html").read_text()
    assert "Fine-tuning on revisions: second-sft" in page
    assert "Reinforcement learning: gentle" in page


def test_a_setting_of_one_leaves_the_other_alone(finished):
    run, arguments = finished
    planned = cai(*arguments, "--set", "gentle.kl_coef=0.5", "--dry-run").stdout
    will_run = [line.split()[0] for line in planned.splitlines() if " run " in line]
    assert will_run == ["gentle", "evaluate", "report"]
    planned = cai(*arguments, "--set", "gentle.from=second-sft", "--dry-run").stdout
    assert "second-sft was added; sft was removed" in planned.replace("\n", " ")
    assert metrics(run, "evaluate")["rows"] % len(POLICIES) == 0


def test_models_are_asked_by_name(finished):
    run, _ = finished
    done = cai("export", run, "second-sft", "--out", run / "x.jsonl")
    assert done.returncode == 2
    assert "revise or compare" in done.stderr
