"""Methods that choose among samples, in one run: each is a stage, and each result a policy."""

import json

import pytest
from command import cai, metrics, rows
from rich.console import Console
from safetensors.torch import load_file

from cai.engines.opening import open_engine
from cai.pipeline.load import open_run
from cai.pipeline.progress import Progress
from cai.samples.choosing import selected
from cai.settings import SelectSettings

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

PIPELINE = """\
name: samples
constitution: playground
models:
  helpful: {path: playground}
prompts:
  red_team: {path: "playground:red_team", limit: 16}
  helpful: {path: "playground:helpful", limit: 16}
  helpfulness_comparisons: {path: "playground:helpfulness", limit: 16}
  held_out: 0.3
compare: {from: helpful-only, principles: 1, max_new_tokens: 48, few_shot: 0}
preference: {from: helpful-only, learning_rate: 5.0e-4, batch_size: 8}
grow: {stage: sample, from: helpful-only, samples: 4, prompts: 6, max_new_tokens: 48}
graded:
  {stage: sample, from: helpful-only, samples: 4, prompts: 6, max_new_tokens: 48,
   scored_by: playground}
kept: {stage: select, from: grow, share: 0.5}
right: {stage: select, from: graded, share: 1, above: 0.5}
improved: {stage: sft, from: [kept, helpful-only], learning_rate: 1.0e-4, batch_size: 8}
again: {stage: sft, from: [right, improved], learning_rate: 1.0e-4, batch_size: 8}
paired: {stage: pair, from: grow, pairs_per_prompt: 2}
dpo: {from: [paired, improved], learning_rate: 1.0e-4, batch_size: 8}
kto: {from: improved, learning_rate: 1.0e-4, batch_size: 8}
verifier: {from: [paired, improved], learning_rate: 1.0e-4, batch_size: 8}
best-of-n: {from: dpo, n: 3}
verified: {stage: best-of-n, from: [improved, verifier], n: 2}
evaluate: {grader: playground, samples_per_side: 4, max_new_tokens: 48, benign_texts: 2}
report: {}
"""
POLICIES = [
    "helpful-only",
    "improved",
    "kto-cai",
    "again",
    "dpo-cai",
    "best-of-n",
    "verified",
]
STARTS = ["helpful-only", "improved", "improved", "improved", "dpo-cai", "improved"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    (folder / "samples.yaml").write_text(PIPELINE)
    arguments = ["run", folder / "samples.yaml", "--out", folder / "run"]
    done = cai(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run", arguments


def manifest(run, stage):
    return json.loads((run / stage / "manifest.json").read_text())


def test_each_reads_what_it_was_told_to(finished):
    run, _ = finished
    read = {stage: set(manifest(run, stage)["inputs"]) for stage in ("grow", "again", "dpo")}
    assert read["again"] == {"right", "improved"}
    assert read["dpo"] == {"paired", "improved"}
    assert {"prompts", "preference"} <= read["grow"]


def test_samples_are_scored_and_the_best_half_of_each_prompt_is_trained_on(finished):
    import pyarrow.parquet as pq

    run, _ = finished
    samples = {row["key"]: row for row in rows(run / "grow/rows.jsonl")}
    assert len(samples) == 12
    trained = pq.read_table(run / "kept/train.parquet").to_pylist()
    for row in samples.values():
        own = [t["completion"][0]["content"] for t in trained if t["key"] == row["key"]]
        scores = {s["text"]: s["score"] for s in row["samples"] if "score" in s}
        assert len(own) == min(2, len(scores))
        left = [score for text, score in scores.items() if text not in own]
        assert min((scores[text] for text in own), default=0) >= max(left, default=-1e9)
    assert metrics(run, "kept")["score"] > metrics(run, "grow")["score"]


def test_graded_samples_are_right_by_the_ground_truth(finished):
    run, _ = finished
    from cai.data.records import SamplesRow
    from cai.playground.grader import grade

    found = [SamplesRow.model_validate(row) for row in rows(run / "right/rows.jsonl")]
    assert found
    wanted = {"red_team": "explained_refusal", "helpful": "helpful"}
    for row in found:
        assert row.samples == selected(row, SelectSettings(share=1, above=0.5))
        assert all(grade(row.messages, s.text) == wanted[row.kind] for s in row.samples)


def test_every_policy_is_evaluated_and_in_the_report(finished):
    run, _ = finished
    assert list(json.loads((run / "evaluate/summary.json").read_text())) == POLICIES
    assert list(json.loads((run / "report.json").read_text())["evaluation"]) == POLICIES
    measures = json.loads((run / "evaluate/measures.json").read_text())
    assert measures["starts"] == dict(zip(POLICIES[1:], STARTS, strict=True))


def test_best_of_n_is_a_model_of_the_run_and_answers_with_samples_of_its_policy(finished):
    run, _ = finished
    opened = open_run(run, Progress(Console(quiet=True)))
    model = opened.models["best-of-n"]
    assert model.path == opened.models["dpo-cai"].path
    assert (
        open_engine(model).fingerprint
        == json.loads((run / "best-of-n/model.json").read_text())["fingerprint"]
    )
    assert metrics(run, "best-of-n")["kl_bound"] == pytest.approx(0.43195, abs=1e-5)


def test_a_verifier_scores_as_a_preference_model_does(finished):
    run, _ = finished
    model = open_run(run, Progress(Console(quiet=True))).models["verified"]
    assert model.best_of.by == str(run / "verifier/model")
    said = json.loads((run / "verifier/model/implicit_reward.json").read_text())
    assert said["reference"]["path"] == "../../improved/model"


def test_a_second_run_does_nothing_and_a_new_share_only_what_follows(finished):
    run, arguments = finished
    before = load_file(run / "again/model/model.safetensors")
    again = cai(*arguments, "--dry-run")
    assert " run " not in again.stdout.replace("cai run", "")
    changed = cai(*arguments, "--set", "right.share=0.5", "--dry-run").stdout
    would = {line.split()[0] for line in changed.splitlines() if line.split()[1:2] == ["run"]}
    assert would == {"right", "again", "evaluate", "report"}
    assert cai(*arguments).returncode == 0
    after = load_file(run / "again/model/model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("again.from=[right, best-of-n]", "`best-of-n` has no weights of its own"),
        ("preference=null", "not `preference:`"),
        ("grow.scored_by=judge", "nothing called `judge` scores samples"),
        ("kept.from=paired", "`paired` is of the kind `comparisons`"),
        ("improved.from=[paired, helpful-only]", "`paired` is of the kind `comparisons`"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(finished, change, said):
    _, arguments = finished
    done = cai(*arguments, "--set", change, "--dry-run")
    assert done.returncode == 1
    import re

    assert re.search(said, done.stderr), done.stderr
