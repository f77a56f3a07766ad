"""Saving changes the words and nothing else, and never another one's file."""

import stat
from pathlib import Path

import pytest
from served import CONSTITUTION, TOKEN, make_desk
from starlette.testclient import TestClient

from cai.constitution import load_constitution
from cai.constitution.load import shipped_folder
from cai.view.app import make_app
from cai.view.source import source_of

HOST = "127.0.0.1:8000"
EDIT = {"principle": "theft", "half": "critique", "text": "Is it kind?"}


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path)


@pytest.fixture
def client(desk):
    app = make_app(desk, token=TOKEN, hosts={HOST})
    with TestClient(app, base_url=f"http://{HOST}/{TOKEN}/") as client:
        yield client


def version(client) -> str:
    return client.get("api/constitution").json()["version"]


def save(client, known=None, **edit):
    body = {"version": known or version(client), "edits": [{**EDIT, **edit}]}
    return client.post("api/save", json=body)


def test_only_the_words_change(client, desk):
    assert save(client).status_code == 200
    changed = CONSTITUTION.replace("Say whether the response helps with theft.", "Is it kind?")
    assert desk.source.path.read_text() == changed
    assert load_constitution(desk.source.path).principles[1].critique == "Is it kind?"


def test_of_two_pages_the_second_to_save_is_refused(client, desk):
    seen = version(client)
    assert save(client, seen).status_code == 200
    answer = save(client, seen, text="Is it true?")
    assert answer.status_code == 409
    assert "was changed or replaced since this page read it" in answer.json()["error"]
    assert "Is it kind?" in desk.source.path.read_text()
    assert save(client, text="Is it true?").status_code == 200
    assert "Is it true?" in desk.source.path.read_text()


def test_a_file_that_changed_on_disk_is_left_alone_and_not_tried(client, desk):
    seen = version(client)
    theirs = CONSTITUTION + "\n# somebody else was here\n"
    desk.source.path.write_text(theirs)
    assert save(client, seen).status_code == 409
    assert desk.source.path.read_text() == theirs
    trial = {"version": seen, "edits": [], "prompts": []}
    assert client.post("api/try", json=trial).status_code == 409


def test_a_file_that_went_is_one_sentence(client, desk):
    seen = version(client)
    desk.source.path.unlink()
    answer = save(client, seen)
    assert answer.status_code == 400
    assert "cannot be read" in answer.json()["error"]
    assert not desk.source.path.exists()


def test_a_file_that_was_broken_meanwhile_is_told_with_its_line(client, desk):
    desk.source.path.write_text("schema: 1\nname: [\n")
    answer = client.get("api/constitution")
    assert answer.status_code == 400
    assert "mine.yaml:3:1: the YAML is broken" in answer.json()["error"]


def test_what_is_wrong_is_not_saved(client, desk):
    answer = save(client, text="")
    assert answer.status_code == 422
    (found,) = answer.json()["findings"]
    assert (found["principle"], found["half"]) == ("theft", "critique")
    assert desk.source.path.read_text() == CONSTITUTION


def test_a_disk_that_cannot_be_written_is_one_sentence(client, desk, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cai.data.store.tempfile.mkstemp", full)
    answer = save(client)
    assert answer.status_code == 400
    assert (
        "cannot be written (No space left on device): nothing was saved" in answer.json()["error"]
    )
    assert desk.source.path.read_text() == CONSTITUTION


def test_links_rights_and_the_mark_of_the_first_bytes_stay(client, desk, tmp_path):
    real = tmp_path / "real.yaml"
    real.write_bytes(b"\xef\xbb\xbf" + CONSTITUTION.encode())
    real.chmod(0o640)
    desk.source.path.unlink()
    desk.source.path.symlink_to(real)
    assert save(client).status_code == 200
    assert desk.source.path.is_symlink()
    assert real.read_bytes().startswith(b"\xef\xbb\xbf# My own words")
    assert b"Is it kind?" in real.read_bytes()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert not list(tmp_path.glob(".*yaml*"))


def test_a_built_in_constitution_is_saved_as_a_copy(client, desk, tmp_path):
    built_in = shipped_folder() / "playground.yaml"
    before = built_in.read_bytes()
    desk.source = source_of(None, desk.run, "playground", tmp_path)
    copy = tmp_path / "playground-edited.yaml"
    facts = client.get("api/constitution").json()
    assert (facts["copy"], facts["target"]) == (True, str(copy))
    assert save(client).status_code == 200
    assert built_in.read_bytes() == before
    assert load_constitution(copy).principles[0].critique == "Is it kind?"
    # From now on the copy is the file.
    assert client.get("api/constitution").json()["copy"] is False
    assert save(client, text="Is it true?").status_code == 200
    assert "Is it true?" in copy.read_text()


def test_a_copy_takes_no_other_files_place(client, desk, tmp_path):
    copy = tmp_path / "playground-edited.yaml"
    copy.write_text("mine")
    desk.source = source_of("playground", desk.run, "playground", tmp_path)
    answer = save(client)
    assert answer.status_code == 409
    assert f"--constitution {copy}" in answer.json()["error"]
    assert copy.read_text() == "mine"


def test_where_the_constitution_is_looked_for(tmp_path, desk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, run = Path("mine.yaml"), desk.run
    assert source_of(None, run, "mine.yaml", tmp_path).target == mine
    assert source_of("mine.yaml", run, "playground", tmp_path).path == mine
    gone = source_of(None, run, "gone.yaml", tmp_path)
    assert gone.path == run / "constitution.yaml"
    assert gone.target == tmp_path / "gone-edited.yaml"
