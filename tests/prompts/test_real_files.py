"""Published files, as they are: every row is accounted for."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from cai.data.conversation import user
from cai.data.prompts import load_comparisons, load_prompts
from cai.data.prompts.extraction import prompt_of
from cai.data.prompts.files import read_file
from cai.data.prompts.transcripts import split_turns
from cai.errors import CaiError
from cai.settings import PromptsSettings, SourceSettings

DATA = Path(__file__).parents[2] / "../shared/data"
RED = DATA / "prompts/red-team"
HELPFUL = DATA / "prompts/helpful"
OVER = DATA / "prompts/over-refusal"
HH_RLHF = DATA / "preferences/hh-rlhf-harmless-base.jsonl"

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="the public data files are not beside the checkout"
)


def prompts(path):
    return [prompt_of(record) for record in read_file(path)]


def texts(path):
    return [conversation[0].content for conversation in prompts(path)]


def comparisons(name):
    return load_comparisons(
        [SourceSettings(path=str(DATA / name))], "helpfulness", seed=0, base_dir=DATA
    )


@pytest.mark.parametrize(
    ("path", "rows", "distinct"),
    [
        (RED / "advbench.csv", 520, 520),
        (RED / "harmbench.txt", 200, 200),
        (RED / "do-not-answer-information-hazard.jsonl", 248, 247),
        (RED / "do-not-answer-information-hazard.txt", 248, 247),
        (OVER / "xstest.csv", 450, 450),
        (OVER / "xstest-completions-gpt4.csv", 450, 450),
        (OVER / "xstest-completions-llama2.csv", 450, 450),
        (HELPFUL / "vicuna.jsonl", 80, 80),
        (HELPFUL / "mt-bench.jsonl", 40, 40),
        (HELPFUL / "self-instruct-user.jsonl", 252, 252),
        (HELPFUL / "self-instruct-seeds.jsonl", 175, 175),
        (HH_RLHF, 1408, 1406),
    ],
)
def test_every_row_has_a_prompt(path, rows, distinct):
    found = prompts(path)
    assert len(found) == rows
    assert len(set(found)) == distinct
    for conversation in found:
        assert conversation[-1].role == "user"
        assert all(turn.content == turn.content.strip() for turn in conversation)


def test_text_and_json_lines_of_the_same_prompts_are_the_same():
    name = "do-not-answer-information-hazard"
    assert prompts(RED / f"{name}.txt") == prompts(RED / f"{name}.jsonl")


def test_cells_with_line_breaks_and_windows_row_ends_are_whole():
    path = OVER / "xstest-completions-gpt4.csv"
    with path.open(encoding="utf-8", newline="") as file:
        expected = [row["completion"] for row in csv.DictReader(file)]
    assert [record.get("completion") for record in read_file(path)] == expected
    assert sum("\n" in completion for completion in expected) > 100
    one_differs = set(texts(OVER / "xstest.csv")) ^ set(texts(path))
    assert len(one_differs) == 2


def test_only_the_first_of_two_questions_without_an_answer_between_is_asked():
    rows = [json.loads(line) for line in (HELPFUL / "mt-bench.jsonl").read_text().splitlines()]
    assert all(len(row["turns"]) == 2 for row in rows)
    assert texts(HELPFUL / "mt-bench.jsonl") == [row["turns"][0].strip() for row in rows]


@pytest.mark.parametrize(
    ("name", "without_input"), [("self-instruct-user", 44), ("self-instruct-seeds", 50)]
)
def test_an_empty_input_adds_nothing_to_the_instruction(name, without_input):
    path = HELPFUL / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    same = [row["instruction"].strip() == t for row, t in zip(rows, texts(path), strict=True)]
    assert sum(same) == without_input


def test_the_turns_of_a_transcript_are_those_a_plain_split_finds():
    for record in read_file(HH_RLHF):
        for side in ("chosen", "rejected"):
            text = record.get(side)
            count = text.count("\n\nHuman:") + text.count("\n\nAssistant:")
            turns = split_turns(text)
            assert len(turns) == count
            assert sum(turn.content.count("“") for turn in turns) == text.count("“")
            assert not any(turn.content.startswith("Human:") for turn in turns)


def test_transcript_pairs_are_all_accounted_for():
    rows = comparisons("preferences/hh-rlhf-harmless-base.jsonl")
    assert Counter(row.state for row in rows) == {"ok": 1404, "unparsed": 2, "failed": 2}
    assert all((row.label is None) == (row.state != "ok") for row in rows)
    assert 600 < sum(row.label == 1 for row in rows) < 800


def test_markup_pairs():
    rows = comparisons("preferences/nemo-dummy-dpo.jsonl")
    assert len(rows) == 4
    assert not any("<extra_id" in text for row in rows for text in row.responses)
    assert {len(row.messages) for row in rows} == {1}


def test_annotated_pairs():
    path = DATA / "pairwise/pandalm-testset.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    booleans = sum(isinstance(r[f"response{i}"], bool) for r in records for i in (1, 2))
    empty = sum(str(r[f"response{i}"]).strip() == "" for r in records for i in (1, 2))
    rows = comparisons("pairwise/pandalm-testset.json")
    states = Counter(row.state for row in rows)
    assert states["unparsed"] == booleans + empty == 60
    assert {round(row.label * 6) for row in rows if row.state == "ok"} == {0, 1, 2, 4, 5, 6}
    assert user("Truthfulness") in [row.messages for row in rows]
    agreed = {
        (str(r["response1"]).strip(), str(r["response2"]).strip(), r["annotator1"])
        for r in records
        if r["annotator1"] == r["annotator2"] == r["annotator3"] != 0
    }
    for row in rows:
        if row.label == 1.0:
            first, second = row.responses
            assert {(first, second, 1), (second, first, 2)} & agreed


def test_labelled_pairs():
    records = json.loads((DATA / "pairwise/llmbar-natural.json").read_text(encoding="utf-8"))
    better = {record[f"output_{record['label']}"].strip() for record in records}
    rows = comparisons("pairwise/llmbar-natural.json")
    assert Counter(row.state for row in rows) == {"ok": 100}
    assert all(row.responses[0 if row.label == 1 else 1] in better for row in rows)


def test_hhh_comparisons():
    path = DATA / "evals/hhh-comparisons.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = comparisons("evals/hhh-comparisons.jsonl")
    assert Counter(row.state for row in rows) == {"ok": len(records)} == {"ok": 270}
    better = {record["text_correct"].rsplit("\n\nAssistant:", 1)[1].strip() for record in records}
    assert all(row.responses[0 if row.label == 1 else 1] in better for row in rows)
    assert 100 < sum(row.label for row in rows) < 170


def test_a_pointer_is_not_data():
    with pytest.raises(CaiError, match=r"lfs-pointer\.jsonl\.gz is a Git LFS pointer"):
        read_file(DATA / "preferences/lfs-pointer.jsonl.gz")


def test_all_prompts_together_split_by_task():
    settings = PromptsSettings(
        red_team=[str(path) for path in sorted(RED.glob("*"))] + [str(HH_RLHF)],
        helpful=[str(path) for path in sorted([*HELPFUL.glob("*"), OVER / "xstest.csv"])],
    )
    report = load_prompts(settings, seed=0, base_dir=DATA)
    assert report.counts["read"] == 520 + 2 * 248 + 200 + 1408 + 40 + 80 + 252 + 175 + 450
    kept = report.counts["prompts"] + report.counts["duplicates"] + report.counts["empty"]
    assert kept == report.counts["read"]
    sides = {}
    for row in report.rows:
        assert sides.setdefault(row.task, row.split) == row.split
    assert 0.05 < sum(side == "held_out" for side in sides.values()) / len(sides) < 0.15
