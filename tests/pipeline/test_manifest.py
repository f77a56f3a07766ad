"""What makes a stage stale, said in words."""

import os
import sys
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from cai.data.store import read_json
from cai.pipeline.manifest import (
    Manifest,
    changes,
    environment,
    outputs_hash,
    read_manifest,
    significant,
    stamp_files,
    write_metrics,
)
from cai.settings import ReviseSettings


def manifest(folder, names):
    return Manifest(
        stage="s",
        version=1,
        settings={},
        inputs={},
        outputs=stamp_files(folder, names),
        started="",
        seconds=0,
        environment={},
    )


def test_the_hash_follows_the_content_and_not_the_time(tmp_path):
    (tmp_path / "model").mkdir()
    file = tmp_path / "model/weights"
    file.write_bytes(b"one")
    made = manifest(tmp_path, ["model"])
    before = outputs_hash(tmp_path, made)
    os.utime(file, ns=(1, 1))
    assert outputs_hash(tmp_path, made) == before
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert outputs_hash(tmp_path, made) not in (before, None)
    file.unlink()
    assert outputs_hash(tmp_path, made) is None


def test_a_folder_without_a_whole_manifest_is_not_finished(tmp_path):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"stage": "s"')
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(manifest(tmp_path, []).model_dump_json())
    assert read_manifest(tmp_path) == manifest(tmp_path, [])


def test_speed_settings_do_not_count():
    assert significant(ReviseSettings(concurrency=1)) == significant(ReviseSettings(concurrency=9))
    assert significant(ReviseSettings(rounds=1)) != significant(ReviseSettings(rounds=9))


def test_changes_are_named_by_their_keys():
    before = {"a": 1, "b": {"c": 2, "d": 3}}
    after = {"a": 1, "b": {"c": 4, "e": 5}}
    assert changes(before, after, "s") == [
        "s.b.c changed from 2 to 4",
        "s.b.d changed from 3 to None",
        "s.b.e changed from None to 5",
    ]


values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3),
    max_leaves=6,
)
settings = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=4)


@given(settings)
def test_equal_settings_have_no_changes(one):
    assert changes(one, dict(one), "s") == []


@given(settings, settings)
def test_different_settings_have_some(one, other):
    assert bool(changes(one, other, "s")) == (one != other)


def test_counters_add_up_over_executions(tmp_path):
    write_metrics(tmp_path, {"rows": 10, "rows_reused": 0, "engine_calls": 30, "seconds": 2.0})
    write_metrics(tmp_path, {"rows": 10, "rows_reused": 9, "engine_calls": 3, "seconds": 0.5})
    assert read_json(tmp_path / "metrics.json") == {
        "rows": 10,
        "rows_reused": 9,
        "engine_calls": 3,
        "seconds": 0.5,
        "total": {"rows": 10, "rows_reused": 9, "engine_calls": 33, "seconds": 2.5},
    }


def test_the_environment_names_the_hardware(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    without = environment()
    assert int(without["cores"]) >= 1
    assert "gpu" not in without
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda: "Some GPU"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert environment()["gpu"] == "2 x Some GPU"
