"""The row store: what a kill, a torn line or an edit leaves behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.data.records import Row
from cai.data.store import (
    RowStore,
    read_json,
    read_rows,
    whole_folder,
    write_atomically,
    write_json,
)
from cai.errors import CaiError


class Note(Row):
    text: str = ""


def note(key, text="", fingerprint="f", state="ok"):
    return Note(key=key, text=text, fingerprint=fingerprint, state=state)


def test_finished_rows_are_sorted_by_key_whatever_the_order_of_completion(tmp_path):
    store = RowStore(tmp_path, Note)
    for key in ("c", "a", "b"):
        store.append(note(key))
    store.finish()
    assert [row.key for row in read_rows(tmp_path / "rows.jsonl", Note)] == ["a", "b", "c"]
    assert not (tmp_path / "rows.partial.jsonl").exists()


def test_unfinished_rows_are_reused_after_reopening(tmp_path):
    RowStore(tmp_path, Note).append(note("a", "first"))
    store = RowStore(tmp_path, Note)
    assert store.reuse("a", "f")
    assert store.finish() == [note("a", "first")]


def test_a_row_of_another_fingerprint_is_not_reused(tmp_path):
    RowStore(tmp_path, Note).append(note("a"))
    assert not RowStore(tmp_path, Note).reuse("a", "other")


def test_a_failed_row_is_made_again(tmp_path):
    RowStore(tmp_path, Note).append(note("a", state="failed"))
    assert not RowStore(tmp_path, Note).reuse("a", "f")


def test_a_row_that_is_no_longer_wanted_is_dropped_at_the_end(tmp_path):
    first = RowStore(tmp_path, Note)
    first.append(note("a"))
    first.append(note("b"))
    first.finish()
    second = RowStore(tmp_path, Note)
    assert second.reuse("a", "f")
    assert [row.key for row in second.finish()] == ["a"]


def test_a_torn_last_line_is_cut_off_and_the_next_row_stands_alone(tmp_path):
    RowStore(tmp_path, Note).append(note("a"))
    with (tmp_path / "rows.partial.jsonl").open("ab") as file:
        file.write(b'{"key": "b", "te')
    store = RowStore(tmp_path, Note)
    assert store.reuse("a", "f")
    assert not store.reuse("b", "f")
    store.append(note("b", "whole"))
    assert store.finish() == [note("a"), note("b", "whole")]


def test_a_damaged_line_in_the_middle_costs_that_row_alone(tmp_path):
    (tmp_path / "rows.partial.jsonl").write_bytes(
        note("a").model_dump_json().encode()
        + b"\n\x00\xff garbage\n"
        + note("c").model_dump_json().encode()
        + b"\n"
    )
    store = RowStore(tmp_path, Note)
    assert store.reuse("a", "f")
    assert store.reuse("c", "f")


def test_a_newer_partial_row_wins_over_the_finished_one(tmp_path):
    first = RowStore(tmp_path, Note)
    first.append(note("a", "old", "f1"))
    first.finish()
    RowStore(tmp_path, Note).append(note("a", "new", "f2"))
    store = RowStore(tmp_path, Note)
    assert store.reuse("a", "f2")
    assert store.finish()[0].text == "new"


@given(st.lists(st.text(), max_size=8))
def test_any_text_survives_the_way_to_disk_and_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("store")
    store = RowStore(folder, Note)
    for number, text in enumerate(texts):
        store.append(note(f"{number:02}", text))
    store.finish()
    assert [row.text for row in read_rows(folder / "rows.jsonl", Note)] == texts


def test_kill_9_in_the_middle_loses_no_finished_row(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from cai.data.records import Row
        from cai.data.store import RowStore

        class Note(Row):
            text: str = ""

        store = RowStore(Path(sys.argv[1]), Note)
        number = 0
        while True:
            store.append(Note(key=str(number), fingerprint="f"))
            print(number, flush=True)
            number += 1
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    told = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = RowStore(tmp_path, Note)
    assert all(store.reuse(str(number), "f") for number in told)


def test_read_rows_names_the_line_that_is_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(note("a").model_dump_json() + '\n{"key": 3}\n')
    with pytest.raises(CaiError, match=r"rows\.jsonl:2: not a Note \(`key`"):
        read_rows(path, Note)


def test_read_rows_of_a_stage_that_never_finished(tmp_path):
    with pytest.raises(CaiError, match="has not finished"):
        read_rows(tmp_path / "rows.jsonl", Note)


def test_a_write_that_fails_leaves_the_earlier_file_and_no_litter(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, [b"earlier"])

    def chunks():
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(CaiError, match="No space left on device"):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_inside_a_file_is_not_writable_and_says_so(tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file/a.json", "file/a/b.json"):
        with pytest.raises(CaiError, match="Cannot write"):
            write_json(tmp_path / name, {})


def test_write_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_read_json_of_a_torn_file_is_empty(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": 1})[:4])
    assert read_json(tmp_path / "x.json") == {}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "model"

    def fail():
        with whole_folder(out) as folder:
            (folder / "half").touch()
            raise OSError("disk full")

    with pytest.raises(CaiError, match="disk full"):
        fail()
    assert not out.exists()
    with whole_folder(out) as folder:
        (folder / "whole").touch()
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert [path.name for path in out.iterdir()] == ["whole"]
