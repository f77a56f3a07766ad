"""`cai feedback`: measures in the terminal and as JSON."""

import json
import math

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.engines import Unscored
from cai.engines.scripted import ScriptedEngine

KNOWN = [
    {"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"a longer bad {n}"}
    for n in range(8)
]


def likes_good(request):
    first = "(A) good" in request.prompt.messages[-1].content
    return [math.log(p) for p in ((0.8, 0.1) if first else (0.1, 0.8))]


@pytest.fixture
def feedback(monkeypatch, tmp_path):
    (tmp_path / "known.jsonl").write_text("\n".join(map(json.dumps, KNOWN)))
    engine = ScriptedEngine(lambda request: "Thinking.", likes_good)
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)

    def run(*arguments):
        command = ["feedback", str(tmp_path / "known.jsonl"), *map(str, arguments)]
        return CliRunner(env={"COLUMNS": "120"}).invoke(app, command), engine

    return run


def test_measures_stand_beside_baselines_and_in_the_json(feedback, tmp_path):
    result, engine = feedback("--json", tmp_path / "out.json", "--limit", 6)
    assert result.exit_code == 0, result.stderr
    lines = {line.rsplit("  ", 3)[0].strip(): line for line in result.stdout.splitlines()}
    assert "1.000" in next(v for k, v in lines.items() if "accuracy of the labels" in k)
    assert "0.000" in next(v for k, v in lines.items() if "always the longer" in k)
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (1.0, 6)
    assert found["option_mass"]["value"] == pytest.approx(0.9)
    assert found["usage"]["engine_calls"] == len(engine.scored) == 12


def test_settings_of_compare_can_be_given(feedback):
    result, engine = feedback("--set", "reasoning=true", "--set", "labels=paper-cot")
    assert result.exit_code == 0, result.stderr
    assert len(engine.generated) == 16
    assert "0.600" in result.stdout
    assert feedback("--set", "reasonin=true")[0].exit_code == 1
    assert feedback("--set", "form=guess")[0].exit_code == 1


def test_a_comparison_that_two_files_hold_counts_once(feedback, tmp_path):
    (tmp_path / "again.jsonl").write_text("\n".join(map(json.dumps, KNOWN[:3])))
    result, engine = feedback(tmp_path / "again.jsonl", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "out.json").read_text())["accuracy"]["n"] == len(KNOWN)
    assert len(engine.scored) == 2 * len(KNOWN)


def test_no_label_at_all_is_an_error_that_says_why(feedback, tmp_path, monkeypatch):
    def cannot_tell(request):
        raise Unscored("it lists neither (A) nor (B)")

    engine = ScriptedEngine(lambda request: "Thinking.", cannot_tell)
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
    result, _ = feedback("--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "No comparison got a label (8 unparsed)" in result.stderr
    assert "it lists neither (A) nor (B)" in " ".join(result.stderr.split())
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["not_usable"]["unparsed"]["rows"] == 8
    assert "it lists neither" in found["not_usable"]["unparsed"]["first"]
    assert "8 judgements are `unparsed`. The first:" in result.stdout
