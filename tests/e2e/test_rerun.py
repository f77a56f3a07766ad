"""Running again: nothing is done twice, an edit redoes what it touches, a kill loses nothing."""

import json
import math
import random
import shutil
import signal
import sys
import time
from multiprocessing import get_context

import pytest
import yaml
from command import RATINGS, cai, metrics, rows, write_inputs, write_pipeline
from tiny_models import make_tiny_model

pytestmark = pytest.mark.slow
EXACT = ["revise/rows.jsonl", "revise/train.parquet", "sft/model/model.safetensors"]
CLOSE = ["compare/pairs.jsonl", "compare/judgements.jsonl", "compare/rows.jsonl"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Its folder, the arguments that made it, and how much processor time it took, in seconds."""
    folder = tmp_path_factory.mktemp("rerun")
    model = make_tiny_model("llama", folder / "model")
    pipeline = write_pipeline(folder, model)
    arguments = ["run", pipeline, *write_inputs(folder)]
    began = time.process_time()
    done = cai(*arguments, "--out", folder / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, arguments, time.process_time() - began


@pytest.fixture(scope="module")
def finished(first_run):
    return first_run[:2]


def run_again(finished, tmp_path, *more):
    folder, arguments = finished
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    done = cai(*arguments, "--out", copy, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy, [line.split(":")[0] for line in done.stdout.splitlines() if ": done in" in line]


def test_a_second_run_does_nothing(finished, tmp_path):
    copy, ran = run_again(finished, tmp_path)
    assert ran == []
    before = (finished[0] / "run/report.html").read_bytes()
    assert (copy / "report.html").read_bytes() == before


def test_a_setting_of_ppo_reruns_ppo_and_what_follows(finished, tmp_path):
    copy, ran = run_again(finished, tmp_path, "--set", "ppo.learning_rate=5e-4")
    assert ran == ["ppo", "evaluate", "report"]
    figures = metrics(copy, "evaluate")
    assert figures["rows_reused"] == figures["rows"] * 2 / 3


def test_new_ratings_train_the_model_of_harm_and_keep_the_answers(finished, tmp_path):
    figures = metrics(finished[0] / "run", "harmfulness")
    assert figures["ratings_of_held_out_prompts"] > 0
    assert figures["rows"] + figures["ratings_of_held_out_prompts"] == len(RATINGS)
    copy, ran = run_again(finished, tmp_path, "--set", "harmfulness.ratings.limit=8")
    assert ran == ["harmfulness", "evaluate", "report"]
    figures = metrics(copy, "evaluate")
    assert figures["rows_reused"] == figures["rows"]


def test_the_policies_on_the_way_are_kept_and_evaluated(finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0] / "run", copy)
    measures = json.loads((copy / "evaluate/measures.json").read_text())
    assert [one["step"] for one in measures["checkpoints"]] == [1]
    assert {row["model"] for row in rows(copy / "evaluate/checkpoints.jsonl")} == {"ppo-step-1"}
    order = ["helpful-only", "sl-cai", "ppo-step-1", "rl-cai"]
    assert list(measures["elo"]["harmless"]) == list(measures["elo"]["helpful"]) == order
    assert measures["harmfulness"]["method"] == "model"
    assert list(measures["harmfulness"]["models"]) == order
    assert all(0 <= one["value"] <= 4 for one in measures["harmfulness"]["models"].values())
    assert measures["alignment_tax"]["rl-cai"]["perplexity"] > 0
    assert json.loads((copy / "report.json").read_text())["measures"] == measures

    done = cai("evaluate", copy, "--checkpoints", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    swept = json.loads(done.stdout)
    (checkpoint,) = swept["measures"]["checkpoints"]
    assert checkpoint["evaluation"]["evasive_rate"]["n"] >= 12
    assert list(swept["evaluation"]) == ["helpful-only", "sl-cai", "rl-cai"]
    assert rows(copy / "sweep/rows.jsonl") == rows(copy / "evaluate/rows.jsonl")
    done = cai("evaluate", copy, copy, "--checkpoints")
    assert "must be the only argument" in done.stderr


def test_a_label_policy_asks_no_model(finished, tmp_path):
    copy, ran = run_again(finished, tmp_path, "--set", "compare.labels.clamp=[0.4, 0.6]")
    assert ran[0] == "compare"
    assert metrics(copy, "compare")["engine_calls"] == 0
    labels = [row["label"] for row in rows(copy / "compare/rows.jsonl") if row["state"] == "ok"]
    assert labels
    assert all(0.4 <= label <= 0.6 for label in labels)


def test_rewording_a_comparison_relabels_only_rows_that_drew_it(finished, tmp_path):
    folder, _ = finished
    judged = rows(folder / "run/compare/judgements.jsonl")
    principle = judged[0]["principle"]["id"]
    constitution = yaml.safe_load((folder / "small-constitution.yaml").read_text())
    for entry in constitution["principles"]:
        if entry["id"] == principle:
            entry["comparison"] += " Think of everybody who could be hurt."
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump(constitution, sort_keys=False))
    copy, ran = run_again(finished, tmp_path, "--set", f"constitution={edited}")
    drew = [row for row in judged if row["principle"]["id"] == principle]
    assert metrics(copy, "compare")["judgements_made"] == len(drew) < len(judged)
    assert metrics(copy, "compare")["pairs_made"] == 0
    assert "revise" not in ran


def test_dry_run_says_why_and_touches_nothing(finished, tmp_path):
    folder, arguments = finished
    done = cai(*arguments, "--out", folder / "run", "--set", "sft.epochs=2", "--dry-run")
    assert done.returncode == 0
    assert "sft.epochs changed from 1 to 2" in done.stdout
    assert "sft will run" in done.stdout
    assert not list(folder.glob("run/**/*.partial.jsonl"))


def test_only_refuses_stale_inputs(finished):
    folder, arguments = finished
    out = ["--out", folder / "run"]
    done = cai(*arguments, *out, "--set", "sft.epochs=2", "--only", "ppo")
    assert done.returncode == 1
    assert "--only sft" in done.stderr
    done = cai(*arguments, *out, "--only", "nonsense")
    assert done.returncode == 1
    assert "It has: prompts, revise" in done.stderr


def test_a_file_edited_by_hand_is_noticed(finished, tmp_path):
    folder, arguments = finished
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    labelled = rows(copy / "compare/rows.jsonl")
    labelled[0]["error"] = "looked at by a person"
    (copy / "compare/rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in labelled))
    done = cai(*arguments, "--out", copy, "--dry-run")
    assert "compare changed" in done.stdout


def killed_after(seconds, *arguments):
    """Run `cai ARGUMENTS` and be killed after so much processor time, as suddenly as by kill -9."""
    sys.settrace(None)  # what coverage measures here is lost with the process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    cai(*arguments)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_anywhere_ends_the_same(first_run, tmp_path, seed):
    """Killed at random moments, then run to the end: the same rows, the same SL-CAI to the bit.

    Log-probabilities may differ in their last digits, since other rows share the batch after a
    restart; so may whatever is trained on the labels made of them.
    """
    folder, arguments, whole = first_run
    arguments = (*arguments, "--out", tmp_path / "run")
    draw, ends = random.Random(seed), []
    for _ in range(3):
        seconds = draw.uniform(0, whole / 2)
        process = get_context("fork").Process(target=killed_after, args=(seconds, *arguments))
        process.start()
        process.join()
        ends.append(process.exitcode)
    assert ends[0] == -signal.SIGPROF
    assert set(ends) <= {-signal.SIGPROF, 0}
    done = cai(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in EXACT:
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes(), name
    for name in CLOSE:
        assert alike(rows(tmp_path / "run" / name), rows(folder / "run" / name)), name
    assert (tmp_path / "run/ppo/model/model.safetensors").exists()


def alike(one, other):
    """Whether two rows are equal but for the last digits of their numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return math.isclose(one, other, abs_tol=1e-4) if isinstance(one, float) else one == other
