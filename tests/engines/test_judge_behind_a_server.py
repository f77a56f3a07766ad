"""A `compare` stage whose feedback model is behind a server, and what the run says of it."""

import json
import math

import pytest
from e2e.command import cai, metrics, rows
from scripted_server import ScriptedServer, chat, error

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

PIPELINE = """\
name: judged
constitution: playground
models:
  helpful: {path: playground}
  feedback:
    path: judge
    engine: openai
    server: {base_url: URL, api_key_env: JUDGE_KEY, retries: 1, price_out: 2000000}
prompts:
  red_team: {path: "playground:red_team", limit: 12}
  helpful: {path: "playground:helpful", limit: 4}
compare: {max_new_tokens: 6, few_shot: 0}
"""


def judge(body):
    """Prefer the longer response, with a probability of 0.8."""
    shown = body["messages"][0]["content"]
    first, second = (shown.split(f"\n({letter}) ", 1)[1].split("\n")[0] for letter in "AB")
    likely, other = ("A", "B") if len(first) > len(second) else ("B", "A")
    return chat(
        f"({likely})",
        listed=[
            ("(", {"(": 0.0}),
            (likely, {likely: math.log(0.8), other: math.log(0.2)}),
        ],
    )


def test_labels_come_from_the_server_and_the_key_stays_out_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with ScriptedServer(judge).running() as server:
        file = tmp_path / "judged.yaml"
        file.write_text(PIPELINE.replace("URL", server.url))
        run = tmp_path / "run"
        assert cai("run", file, "--out", run).returncode == 0
        asked = len(server.asked)
        judgements = rows(run / "compare" / "judgements.jsonl")
        assert asked == 2 * len(judgements) > 0
        for judgement in judgements:
            for evidence in judgement["evidence"]:
                assert sum(map(math.exp, evidence["logprobs"])) == pytest.approx(1.0)
                assert not evidence["bounded"]
        labels = [row["label"] for row in rows(run / "compare" / "rows.jsonl") if row["label"]]
        assert sorted({round(label, 3) for label in labels}) in ([0.2, 0.8], [0.2], [0.8])
        written = metrics(run, "compare")
        assert written["cost"] == pytest.approx(2.0 * 4 * asked)

        assert "compare: up to date" in cai("run", file, "--out", run).stdout
        assert len(server.asked) == asked

        server.models = error(401)
        refused = cai("run", file, "--out", run)
        assert refused.returncode == 1
        assert "refuses the key in the environment variable JUDGE_KEY" in refused.stderr
    for path in run.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    manifest = json.loads((run / "compare" / "manifest.json").read_text())
    assert len(manifest["inputs"]["feedback model"]) == 16


@pytest.mark.parametrize("stage", ["preference: {}", "harmfulness: {ratings: {path: a.jsonl}}"])
def test_a_model_behind_a_server_cannot_be_trained(tmp_path, stage):
    file = tmp_path / "trained.yaml"
    served = "{path: judge, engine: openai, server: {}}"
    pipeline = PIPELINE.replace("URL", "http://x/v1").replace("{path: playground}", served)
    file.write_text(pipeline + f"{stage}\n")
    refused = cai("run", file, "--out", tmp_path / "run")
    assert refused.returncode == 1
    assert "a model on a server cannot be trained" in refused.stderr


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{path: judge, engine: openai}", "go together"),
        ("{path: playground, server: {}}", "go together"),
        ("{path: playground, adapter: x}", "`adapter` needs `engine: vllm`"),
        ("{path: playground, options: {a: 1}}", "`options` can only be set with"),
        ("{path: judge, engine: openai, server: {base_url: nowhere}}", "base_url"),
    ],
)
def test_settings_that_no_engine_would_read_are_refused(tmp_path, model, said):
    file = tmp_path / "odd.yaml"
    file.write_text(PIPELINE.replace("URL", "http://x/v1").replace("{path: playground}", model))
    refused = cai("run", file, "--dry-run", "--out", tmp_path / "run")
    assert refused.returncode == 1
    assert said in " ".join(refused.stderr.split())
