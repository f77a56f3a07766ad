"""The outputs of all commands: impossible paths and wrong endings are told before any work."""

import json
import re

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.data.store import check_output, write_atomically, write_json
from cai.errors import CaiError

FILES = {
    "feedback": ["feedback", "playground:feedback", "--json"],
    "revisions": ["revisions", "chains.jsonl", "--json"],
    "doctor": ["doctor", "playground", "--json"],
    "grow": ["prompts", "grow", "prompts.txt", "--model", "playground", "--out"],
    "test": ["constitution", "test", "playground", "--junit"],
    "import": ["constitution", "import", "principles.txt", "--out"],
    "export": ["export", "run", "compare", "--out"],
}
FOLDERS = {
    "run": ["run", "quickstart", "--out"],
    "evaluate": ["evaluate", "playground", "--prompts", "helpful:prompts.txt", "--out"],
    "harmfulness": ["harmfulness", "playground:ratings", "--model", "playground", "--out"],
}
COMMANDS = FILES | FOLDERS
PYTHONS = re.compile(r"Errno|busy|fault of cai|Traceback|Is a directory|Not a directory|\bOSError")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder with a file and a folder, where no model can be opened."""

    def opened(*_, **__):
        raise AssertionError("a model was opened before the path was looked at")

    monkeypatch.setattr("cai.engines.opening.open_engine", opened)
    monkeypatch.setattr("cai.pipeline.launch.run_training", opened)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").mkdir()
    (tmp_path / "a_file").write_text("Why?\n")
    for name in ("prompts.txt", "principles.txt"):
        (tmp_path / name).write_text("Why?\n")


def said_of(name, path):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*COMMANDS[name], path])
    assert result.exit_code == 1, (result.output, result.exception)
    said = " ".join(result.stderr.split())
    assert not PYTHONS.search(said)
    return said


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_can_be_written_below_a_file(name):
    assert "a_file" in said_of(name, "a_file/inner/out.yaml")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("path", [".", "there.yaml"])
def test_a_folder_is_no_file(name, path):
    assert f"Cannot write {path}: it is a folder" in said_of(name, path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_is_no_folder(name):
    assert "Cannot write a_file: it is a file" in said_of(name, "a_file")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_that_is_too_long_is_told(name):
    assert "x" * 300 in said_of(name, f"{'x' * 300}.yaml")


def test_a_folder_without_the_right_to_write_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    for name in COMMANDS:
        assert "is not writable" in said_of(name, "new/out.jsonl")
    assert check_output(tmp_path.parent / "out") == tmp_path.parent / "out"


def test_what_cannot_be_written_is_told_where_no_command_looked_ahead(tmp_path):
    for path, words in ((tmp_path, "it is a folder"), (tmp_path / "a_file/x", "a_file is a file")):
        with pytest.raises(CaiError, match=words):
            write_json(path, {})


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, [b"one", b"two"])
    assert os.read(reader, 10) == b"onetwo"
    assert pipe.is_fifo()
    os.close(reader)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run" / "compare"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(json.dumps({"key": "a", "state": "tie"}) + "\n")
    text = "name: n\nconstitution: playground\nmodels: {helpful: {path: playground}}\n"
    text += "prompts: {red_team: a, helpful: b}\ncompare: {}\n"
    (tmp_path / "run/pipeline.yaml").write_text(text)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".xlsx", ".txt", ".gz", ".arrow", ".parquet"])
def test_an_ending_that_is_not_written_is_refused_with_the_formats(ending, tmp_path):
    more = ["--format", "jsonl"] if ending == ".parquet" else []
    said = said_of("export", f"out{ending}") if not more else None
    if more:
        result = CliRunner().invoke(app, [*COMMANDS["export"], f"out{ending}", *more])
        assert result.exit_code == 1
        said = " ".join(result.stderr.split())
    assert f"ends with `{ending}`" in said
    assert "`jsonl`: .jsonl, .ndjson, .json; `parquet`: .parquet; `trl`" in said
    assert not (tmp_path / f"out{ending}").exists()


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", ["out.jsonl", "out.ndjson", "out.json", "out", "OUT.JSONL"])
def test_rows_are_written_under_their_own_endings(name, tmp_path):
    result = CliRunner().invoke(app, [*COMMANDS["export"], name])
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / name).read_text()) == {"key": "a", "state": "tie"}


def test_other_commands_refuse_endings_that_they_do_not_write():
    assert "JSON Lines are written" in said_of("grow", "out.csv")
    assert "is to be YAML" in said_of("import", "out.json")
