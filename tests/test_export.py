"""`cai export`: what leaves a run keeps its meaning, and what does not leave is counted."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from cai.cli import app
from cai.data.tables import COMPARISON_COLUMNS, SFT_COLUMNS, plain_rows, write_parquet

PROMPT = [{"role": "user", "content": "Why?"}]


def says(text):
    return [{"role": "assistant", "content": text}]


def pair(key, probability):
    return {
        "key": key,
        "kind": "red_team",
        "source": "ai",
        "prompt": PROMPT,
        "chosen": says(f"{key} yes"),
        "rejected": says(f"{key} no"),
        "chosen_probability": probability,
    }


def revision(key, ended):
    return {
        "key": key,
        "kind": "red_team",
        "round": 1,
        "prompt": PROMPT,
        "completion": says(key),
        "ended": ended,
    }


def write_stage(run, stage, examples, columns, states):
    (run / stage).mkdir(parents=True)
    rows = [{"key": key, "state": state} for key, state in states.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / stage / "rows.jsonl").write_text(lines)
    write_parquet(run / stage / "train.parquet", examples, columns)


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "run"
    pairs = [pair("a", 0.9), pair("b", 0.5), pair("c", 0.5000001), pair("d", 0.5 + 1e-12)]
    states = dict.fromkeys("abcd", "ok") | {"e": "tie", "f": "unparsed", "g": "tie"}
    write_stage(run, "compare", pairs, COMPARISON_COLUMNS, states)
    revisions = [revision("a", True), revision("b", False), revision("a", True)]
    write_stage(run, "revise", revisions, SFT_COLUMNS, dict.fromkeys("ab", "ok"))
    pipeline = {
        "name": "x",
        "constitution": "harmless",
        "models": {"helpful": {"path": "playground"}},
        "prompts": {"red_team": "playground:red_team", "helpful": "playground:helpful"},
        "revise": {},
        "compare": {},
    }
    (run / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return run


def export(run, stage, file_format):
    out = run / f"out.{file_format.replace('trl', 'jsonl')}"
    result = CliRunner().invoke(
        app, ["export", str(run), stage, "--out", str(out), "--format", file_format]
    )
    assert result.exit_code == 0, result.output
    first, *remarks = result.stdout.splitlines()
    assert first == f"Wrote {out}"
    return out, remarks


def test_even_pairs_do_not_leave_as_chosen_and_rejected(run):
    out, remarks = export(run, "compare", "trl")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["key"] for row in rows] == ["a", "c"]
    assert rows[0] == pair("a", 0.9)
    assert remarks == [
        "Left out: 3 of 7 rows, by state: 2 tie, 1 unparsed.",
        "Left out: 2 pairs at chosen_probability 0.5.",
    ]


def test_answers_that_were_cut_off_do_not_leave_as_whole_ones(run):
    out, remarks = export(run, "revise", "trl")
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["a", "a"]
    assert remarks == ["Left out: 1 completions that the token limit cut off."]


def test_parquet_has_every_trainable_row_and_says_which_are_even(run):
    out, remarks = export(run, "compare", "parquet")
    assert out.read_bytes() == (run / "compare" / "train.parquet").read_bytes()
    assert len(pq.read_table(out)) == 4
    assert remarks[0] == "Left out: 3 of 7 rows, by state: 2 tie, 1 unparsed."
    assert remarks[1].startswith("2 pairs have chosen_probability 0.5")
    assert export(run, "revise", "parquet")[1] == []


def test_json_lines_are_all_rows(run):
    out, remarks = export(run, "compare", "jsonl")
    assert out.read_bytes() == (run / "compare" / "rows.jsonl").read_bytes()
    assert remarks == []


def test_plain_rows_are_those_with_a_better_response_and_an_end():
    rows = [pair("a", 0.5), pair("b", 1.0), revision("c", True), revision("d", False)]
    kept, left_out = plain_rows(rows)
    assert [row["key"] for row in kept] == ["b", "c"]
    assert left_out.total() == 2
