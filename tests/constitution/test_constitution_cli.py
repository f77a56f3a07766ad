"""`cai constitution …` as a person uses it."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cai.cli.constitution import app
from cai.constitution import load_constitution
from cai.errors import CaiError

GOOD = "schema: 1\nname: good\nprinciples: [{id: x, comparison: Choose the less evasive one.}]\n"
BAD = "schema: 1\nname: bad\nprinciples:\n  - id: x\n    critique: c\n"


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner(env={"COLUMNS": "120"}).invoke(app, arguments)

    return run


def refused(result, words):
    """The command failed with an error that people can read."""
    assert result.exit_code == 1
    assert isinstance(result.exception, CaiError)
    assert words in str(result.exception)


def test_new_writes_a_sound_starter_and_never_overwrites(cli, tmp_path):
    assert cli("new", "mine").exit_code == 0
    assert load_constitution("mine.yaml").name == "mine"
    assert cli("check", "mine.yaml").stdout == "mine.yaml: fine\n"
    before = (tmp_path / "mine.yaml").read_text()
    refused(cli("new", "mine.yaml"), "mine.yaml already exists")
    assert (tmp_path / "mine.yaml").read_text() == before


@pytest.mark.parametrize("name", ["no.yaml", "2024-01-01", "with space.yml", "§.yaml", "v1.2"])
def test_new_makes_a_valid_name_of_any_file_name(cli, tmp_path, name):
    assert cli("new", name).exit_code == 0
    (path,) = tmp_path.iterdir()
    load_constitution(path)


def test_new_in_a_folder_that_is_missing(cli):
    refused(cli("new", "nowhere/mine.yaml"), "folder that exists")


def test_check_exits_with_one_on_errors_only(cli, tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    good = cli("check", "good.yaml", "harmless")
    assert good.exit_code == 0
    assert "good.yaml:1:1: note: " in good.stdout
    assert "harmless: fine" in good.stdout
    bad = cli("check", "good.yaml", "bad.yaml")
    assert bad.exit_code == 1
    assert "bad.yaml:4:5: error: principle 'x' has `critique` without `revision`" in bad.stdout


def test_strict_fails_on_warnings_but_not_on_notes(cli, tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "doubtful.yaml").write_text(GOOD.replace("less evasive one", "one (A)"))
    assert cli("check", "doubtful.yaml").exit_code == 0
    assert cli("check", "--strict", "doubtful.yaml").exit_code == 1
    assert cli("check", "--strict", "good.yaml").exit_code == 0


def test_check_for_machines(cli, tmp_path):
    (tmp_path / "bad.yaml").write_text(BAD)
    result = cli("check", "bad.yaml", "--format", "json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)
    assert (finding["path"], finding["line"], finding["column"]) == ("bad.yaml", 4, 5)
    assert finding["severity"] == "error"
    github = cli("check", "bad.yaml", "--format", "github").stdout
    assert github.startswith("::error file=bad.yaml,line=4,col=5,title=value-error::principle 'x'")


def test_show_lists_and_shows_whole_texts(cli):
    listing = cli("show", "harmless").stdout
    harmless = load_constitution("harmless")
    assert all(p.id in listing for p in harmless.principles)
    assert "16 principles for the supervised stage" in listing
    whole = cli("show", "harmless", "--principle", "privacy").stdout
    (privacy,) = (p for p in harmless.principles if p.id == "privacy")
    for text in (privacy.critique, privacy.revision, privacy.comparison, privacy.description):
        assert text in whole
    refused(cli("show", "harmless", "--principle", "privcy"), "choose one of")


def test_show_prints_brackets_as_they_are(cli, tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD.replace("id: x,", "id: x, description: '[red] [/x]',"))
    assert "[red] [/x]" in cli("show", "b.yaml").stdout


def test_schema_is_json_with_descriptions(cli):
    schema = json.loads(cli("schema").stdout)
    assert set(schema["required"]) == {"schema", "name"}
    assert schema["properties"]["schema"]["const"] == 1
    assert schema["$defs"]["Principle"]["properties"]["weight"]["description"]


def test_import_prints_or_writes(cli, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(["Which is kinder? Options:"]))
    printed = cli("import", "c.json")
    assert printed.exit_code == 0
    assert "comparison: Which is kinder?\n" in printed.stdout
    assert "1 comparisons" in printed.stderr
    assert cli("import", "c.json", "--out", "kind.yaml").exit_code == 0
    assert load_constitution("kind.yaml").name == "kind"
    refused(cli("import", "c.json", "--out", "kind.yaml"), "already")


def test_errors_of_the_command_line_exit_with_two(cli):
    assert cli("check").exit_code == 2
    assert cli("check", "harmless", "--format", "xml").exit_code == 2
    assert cli("frobnicate").exit_code == 2


def test_the_commands_need_no_heavy_library():
    code = (
        "import sys, cai.cli.constitution;"
        "print(*{'torch','transformers','numpy','pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
