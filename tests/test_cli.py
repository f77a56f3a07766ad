"""Exit statuses and messages of the command line."""

import json

import pytest
from rich.table import Table
from typer.testing import CliRunner

import cai.cli.evaluate as evaluate_module
from cai import __version__
from cai.cli import app
from cai.cli.console import plain_console
from cai.cli.settings import markdown
from cai.errors import CaiError
from cai.settings import EvaluateSettings, ModelSettings

RUN = ["run", "quickstart"]


def invoke(*args):
    return CliRunner().invoke(app, args)


def test_version_and_help():
    assert invoke("--version").stdout == f"cai {__version__}\n"
    assert "quickstart" in invoke("run", "--help").stdout


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (CaiError("Mend it."), 1, "Error: Mend it."),
        (KeyError("x"), 1, "a fault of cai"),
        (KeyboardInterrupt(), 130, "run the same command to continue"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_what_a_command_raises_becomes_a_status(monkeypatch, raised, status, said):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr("cai.pipeline.load.load_pipeline", fail)
    monkeypatch.setattr("os.dup2", lambda *args: None)
    result = invoke(*RUN)
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(monkeypatch):
    def fail(*args, **kwargs):
        raise CaiError("Mend it.")

    monkeypatch.setattr("cai.pipeline.load.load_pipeline", fail)
    monkeypatch.setenv("CAI_DEBUG", "")
    assert isinstance(invoke("--debug", *RUN).exception, CaiError)


def test_a_wrong_command_line_is_status_2():
    assert invoke("run").exit_code == 2
    assert invoke("frobnicate").exit_code == 2
    assert invoke("export", "somewhere", "--out", "x").exit_code == 2


def test_the_options_of_evaluate_are_the_fields_of_one_value(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(evaluate_module, "evaluate_command", asked.append)
    (tmp_path / "judge.yaml").write_text("path: large\nformat: transcript\n")
    given = ("--grader", "judge", "--judge", f"{tmp_path}/judge.yaml", "--temperature", "0")
    rest = ("--prompts", "a:b", "--prompts", "c:d", "--judge-set", "dtype=float32", "--json")
    assert invoke("evaluate", "one", "x=two", *given, *rest).exit_code == 0
    (options,) = asked
    assert (options.models, options.prompts) == (["one", "x=two"], ["a:b", "c:d"])
    assert (options.as_json, options.samples, options.out) == (True, 1, None)
    settings = options.settings
    assert settings.model_fields_set == {"grader", "judge", "temperature"}
    judge = ModelSettings(path="large", format="transcript", dtype="float32")
    assert settings == EvaluateSettings(grader="judge", judge=judge, temperature=0)
    assert invoke("evaluate").exit_code == 2
    assert invoke("evaluate", "one", "--samples", "0").exit_code == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--judge-set", "dtype=float32"), "give one with `--judge MODEL`"),
        (("--elo-pairing", "knockout"), "`--elo-pairing knockout`"),
    ],
)
def test_options_of_evaluate_that_make_no_settings_are_refused_at_once(given, said):
    result = invoke("evaluate", "not/there", *given)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())


def test_dry_run_of_a_fresh_folder(tmp_path):
    result = invoke(*RUN, "--out", str(tmp_path / "run"), "--dry-run")
    assert result.exit_code == 0
    assert "never ran" in result.stdout
    assert not (tmp_path / "run").exists()


def test_report_of_something_else(tmp_path):
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 1
    assert "not a run folder" in result.stderr
    for content, what in (("name: x\nold_key: 1\n", "`old_key` is unknown"), ("a: [", "broken")):
        (tmp_path / "pipeline.yaml").write_text(content)
        result = invoke("report", str(tmp_path))
        assert result.exit_code == 1
        assert f"{tmp_path / 'pipeline.yaml'}:" in result.stderr
        assert what in result.stderr
        assert "cai run" in result.stderr


def test_two_runs_of_nothing_compare_to_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        text = "name: n\nmodels: {helpful: {path: playground}}\n"
        text += "prompts: {red_team: [{path: a}], helpful: [{path: b}]}\n"
        (tmp_path / name / "pipeline.yaml").write_text(text + "constitution: playground\n")
    result = invoke("report", str(tmp_path / "a"), str(tmp_path / "b"))
    assert result.exit_code == 0, result.stderr
    assert "compared-with-a.html" in result.stdout
    page = (tmp_path / "b/compared-with-a.html").read_text()
    assert "there is nothing to compare" in page


def test_every_setting_is_described_and_the_page_is_up_to_date():
    from pathlib import Path

    lines = list(markdown())
    assert not [line for line in lines if line.endswith("|  |")]
    page = Path(__file__).parents[1] / "docs/settings.md"
    assert page.read_text() == "\n".join(lines) + "\n"


def test_text_is_printed_as_it_is(capsys):
    said = "pip install 'cai[vllm]', [/path] [red]not red[/red] :fire:"
    table = Table()
    table.add_column("said", no_wrap=True)
    table.add_row(said)
    plain_console(soft_wrap=True).print(said)
    plain_console(soft_wrap=True).print(table)
    assert capsys.readouterr().out.count(said) == 2


def test_doctor_examines_a_model(tmp_path):
    result = invoke("doctor", "playground", "--json", str(tmp_path / "found.json"))
    assert result.exit_code == 0, result.stderr
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    states = {(one["area"], one["name"]): one["state"] for one in findings}
    assert states["chat template", "round trip"] == states["stages", "ppo"] == "ok"
    assert states["engines", "openai"] == "not tried"
    assert "context" in result.stdout


def test_doctor_refuses_options_without_a_model():
    result = invoke("doctor", "--transcript")
    assert result.exit_code == 1
    assert "cai doctor MODEL" in result.stderr


def test_doctor_says_how_to_install_what_is_missing(monkeypatch):
    monkeypatch.setattr("cai.cli.doctor.find_spec", lambda _: None)
    said = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor"]).stdout
    assert "pip install 'cai[vllm]'" in said
    assert "pip install 'cai[openai]'" in said
