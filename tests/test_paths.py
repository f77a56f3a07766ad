"""A file's name may have anything in it, wherever a command takes one."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.settings.paths import user_path

CONSTITUTION = """\
schema: 1
name: mine
principles:
  - {id: a, critique: "Is it harmful?", revision: Make it harmless., comparison: "Which is better?"}
"""
ROWS = [
    {"prompt": "How do I bake bread?", "response": "Mix.", "chosen": "Mix.", "rejected": "No."},
    {"prompt": "Why is the sky blue?", "response": "Air.", "chosen": "Air.", "rejected": "No."},
]
NOWHERE = "http://127.0.0.1:1/v1"
NAMES = (
    "-d",
    "#d",
    ":d",
    "~d",
    "~",
    " d",
    "a: b",
    "a #b",
    "- d",
    "[x]",
    "'q'",
    "a=b",
    "null",
    "2024-01-01",
    "x@y",
    "日本 ü",
)


def said(*arguments, status):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == status, (arguments, done.output)
    return " ".join(done.output.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_path_in_every_argument_and_option(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rows, rules, model, pipeline = (
        f"{name}{end}" for end in (".jsonl", ".yaml", "m.yaml", "p.yaml")
    )
    Path(rows).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path(rules).write_text(CONSTITUTION)
    Path(model).write_text(
        f"path: m\nengine: openai\nserver: {{base_url: '{NOWHERE}', retries: 0}}"
    )
    Path(pipeline).write_text((Path(__file__).parents[1] / "pipelines/label.yaml").read_text())

    said("constitution", "check", "--", rules, status=0)
    said("constitution", "diff", "--", rules, rules, status=0)
    for change in (
        f"prompts.red_team={rows}",
        f"prompts.red_team.path={rows}",
        f"prompts.red_team=[{json.dumps(rows)}]",
        f"constitution={rules}",
    ):
        out = f"{name}-run"
        said("run", "--dry-run", "--set", change, "--out", out, "--", pipeline, status=0)
    out = f"{name}-out"
    said("evaluate", f"x=answers:red_team:{rows}", "--out", out, status=0)
    assert Path(out, "evaluation.json").is_file()

    unreachable = f"The server {NOWHERE} cannot be reached"
    for arguments in (
        ("feedback", "--constitution", rules, "--model", model, "--", rows),
        ("evaluate", "--prompts", f"helpful:{rows}", "--texts", rows, "--out", out, "--", model),
        ("prompts", "grow", "--model", model, "--count", "1", "--out", f"{out}2", "--", rows),
    ):
        assert unreachable in said(*arguments, status=1)


@pytest.mark.parametrize(
    "arguments", [("constitution", "check"), ("run",), ("evaluate",), ("feedback",), ("report",)]
)
def test_a_name_that_looks_like_an_option_is_told_how_to_be_written(
    tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    assert "write ./-d.yaml" in said(*arguments, "-d.yaml", status=2)
    Path("--new").write_text("")
    assert "write ./--new" in said(*arguments, "--new", status=2)
    assert "./" not in said(*arguments, "--unknown", status=2)


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of-somebody")
    assert user_path("~/x") == Path("/home/of-somebody/x")
    assert user_path("~nobody-is-called-so.txt") == Path("~nobody-is-called-so.txt")
    Path("~").mkdir()
    assert user_path("~") == Path("~")
