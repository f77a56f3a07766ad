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


def fruit(number, answer="B", **more):
    choices = ["a stone", "a pear"]
    return {"question": f"Which is fruit {number}?", "choices": choices, "answer": answer, **more}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Run `cai feedback` on rows of a file; the model prefers (B)."""
    engine = ScriptedEngine(lambda request: "", lambda request: [math.log(0.1), math.log(0.7)])
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
    path = tmp_path / "questions.jsonl"

    def run(rows, *arguments, name=""):
        path.write_text("\n".join(map(json.dumps, rows)))
        command = ["feedback", f"{name}{path}", "--json", str(tmp_path / "out.json"), *arguments]
        return CliRunner(env={"COLUMNS": "120"}).invoke(app, command), engine

    return run


@pytest.mark.parametrize("name", ["", "multiple_choice:", "hhh:"])
def test_multiple_choice_files_are_asked_as_they_are_written(asked, tmp_path, name):
    result, engine = asked([*map(fruit, range(3)), fruit(3, "A")], name=name)
    assert result.exit_code == 0, result.stderr
    assert [request.options for request in engine.scored] == [(" (A)", " (B)")] * 4
    texts = {request.prompt.messages[-1].content for request in engine.scored}
    assert "Which is fruit 0?\n\nOptions:\n(A) a stone\n(B) a pear" in texts
    assert all(request.prompt.prefill == "The answer is:" for request in engine.scored)
    found = json.loads((tmp_path / "out.json").read_text())
    ((source, one),) = found["choices"].items()
    assert source == f"{name}{tmp_path / 'questions.jsonl'}"
    assert one["baselines"]["most_frequent"]["value"] == 0.75
    assert one["models"]["model"]["accuracy"]["value"] == 0.75
    assert one["models"]["model"]["calibration_error"]["value"] == pytest.approx(0.125)
    assert "always (A)" in result.stdout
    assert "comparisons" not in result.stdout


def test_comparisons_and_questions_can_be_measured_together(asked, tmp_path):
    (tmp_path / "known.jsonl").write_text("\n".join(map(json.dumps, KNOWN)))
    result, _ = asked([fruit(1)], str(tmp_path / "known.jsonl"), "--set", "principles=1")
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["answered"]["n"] == 8
    assert len(found["choices"]) == 1


def test_a_row_that_is_both_is_a_comparison_unless_its_set_is_named(asked, tmp_path):
    row = fruit(1, text_correct="\n\nHuman: Hi.\n\nAssistant: Ho.",
                text_incorrect="\n\nHuman: Hi.\n\nAssistant: Hm.")  # fmt: skip
    result, _ = asked([row])
    assert "1 comparisons" in result.stdout
    result, _ = asked([row], name="multiple_choice:")
    assert "1 questions" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "form=rating"], "nothing reads `--set form`"),
        (["--constitution", "harmless"], "nothing reads `--constitution`"),
    ],
)
def test_options_that_no_question_reads_are_refused(asked, arguments, said):
    result, engine = asked([fruit(1)], *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert engine.scored == []


def test_no_answer_at_all_is_an_error(asked, monkeypatch):
    def cannot_tell(request):
        raise Unscored("it lists neither (A) nor (B)")

    engine = ScriptedEngine(lambda request: "", cannot_tell)
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
    result, _ = asked([fruit(1)])
    assert result.exit_code == 1
    assert "got an answer (1 unparsed)" in " ".join(result.stderr.split())
