"""The comparison of two run folders finds each kind of difference, and only those."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import same_run
from benchmarks.same_run import Rules, differences

ROW = {
    "key": "k1",
    "fingerprint": "f",
    "state": "ok",
    "response": "No.",
    "steps": [{"principle": {"id": "privacy"}, "revision": "No, because."}],
    "logprobs": [-0.5, -1.5],
    "provenance": {"model_fingerprint": "m", "seed": 0},
}


def make_run(folder, row=None, weights=1.0, label=0.5, **metrics):
    stage = folder / "any-stage"
    (stage / "model").mkdir(parents=True)
    (stage / "rows.jsonl").write_text(json.dumps({**ROW, **(row or {})}) + "\n")
    (stage / "metrics.json").write_text(json.dumps({"loss": 0.1, "seconds": 3.0} | metrics))
    (stage / "manifest.json").write_text(json.dumps({"seconds": weights}))
    save_file({"w": torch.full((2, 2), weights)}, stage / "model" / "model.safetensors")
    pq.write_table(pa.table({"label": [label]}), stage / "train.parquet")
    return folder


def test_a_run_is_the_same_as_itself_whatever_time_it_took(tmp_path):
    one = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", {"fingerprint": "g"}, seconds=9.0, tokens_per_second=3)
    assert differences(one, other, Rules()) == {}


@pytest.mark.parametrize(
    ("change", "file", "said"),
    [
        ({"row": {"response": "Yes."}}, "rows.jsonl", "k1.response: 'No.', 'Yes.'"),
        ({"row": {"state": "tie"}}, "rows.jsonl", "k1.state: 'ok', 'tie'"),
        ({"row": {"logprobs": [-0.5, -1.5001]}}, "rows.jsonl", "k1.logprobs[1]: -1.5, -1.5001"),
        ({"row": {"logprobs": [-0.5]}}, "rows.jsonl", "k1.logprobs: 2 and 1 entries"),
        ({"row": {"key": "k2"}}, "rows.jsonl", "k1: only in the first"),
        ({"row": {"more": 1}}, "rows.jsonl", "k1.more: only in the second"),
        (
            {"row": {"steps": [{"principle": {"id": "theft"}, "revision": "No, because."}]}},
            "rows.jsonl",
            "k1.steps[0].principle.id: 'privacy', 'theft'",
        ),
        ({"weights": 1.5}, "model/model.safetensors", "w: weights differ by 0.5 at most"),
        ({"weights": float("nan")}, "model/model.safetensors", "w: weights differ by nan at most"),
        ({"label": 0.75}, "train.parquet", "label[0]: 0.5, 0.75"),
        ({"loss": 0.2}, "metrics.json", "loss: 0.1, 0.2"),
    ],
)
def test_each_kind_of_difference_is_found_and_named(tmp_path, change, file, said):
    found = differences(make_run(tmp_path / "a"), make_run(tmp_path / "b", **change), Rules())
    assert list(found) == [f"any-stage/{file}"]
    assert found[f"any-stage/{file}"][0] == said


def test_numbers_may_differ_by_the_tolerance_and_texts_may_not(tmp_path):
    one = make_run(tmp_path / "a")
    near = make_run(tmp_path / "b", {"logprobs": [-0.5, -1.50001]}, weights=1.00001)
    assert differences(one, near, Rules())
    assert differences(one, near, Rules(tolerance=1e-4)) == {}
    other = make_run(tmp_path / "c", {"response": "Yes."})
    assert differences(one, other, Rules(tolerance=1e9))


def test_fingerprints_are_compared_on_request(tmp_path):
    one = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", {"provenance": {"model_fingerprint": "n", "seed": 0}})
    assert differences(one, other, Rules()) == {}
    (said,) = differences(one, other, Rules(fingerprints=True))["any-stage/rows.jsonl"]
    assert said == "k1.provenance.model_fingerprint: 'm', 'n'"


def test_the_command_prints_and_its_status_says_it(tmp_path, monkeypatch, capsys):
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", label=1.0)
    (other / "any-stage" / "rows.jsonl").unlink()
    monkeypatch.setattr(sys, "argv", ["same_run", str(one), str(other)])
    assert same_run.main() == 1
    said = capsys.readouterr().out
    assert "any-stage/rows.jsonl: 1 differences\n  only in" in said
    assert "2 of them differ" in said
    monkeypatch.setattr(sys, "argv", ["same_run", str(one), str(one)])
    assert same_run.main() == 0
    monkeypatch.setattr(sys, "argv", ["same_run", str(one), str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        same_run.main()
