"""`demonstrations`: what is imitated, from files and from comparisons."""

import json

import pyarrow.parquet as pq
import pytest
from plain_runs import run_of

from cai.data.conversation import user
from cai.data.records import ComparisonRow, PromptRow
from cai.data.store import write_rows
from cai.errors import CaiError
from cai.settings import DemonstrationsSettings


def comparison(key, label, *, state="ok", source="ai"):
    return ComparisonRow(
        key=key,
        kind="helpful" if source == "human" else "red_team",
        source=source,
        messages=user(f"Question {key}?"),
        task=key,
        responses=(f"{key} first", f"{key} second"),
        label=label,
        state=state,
    )


def prompt(key, split):
    return PromptRow(key=key, kind="helpful", split=split, messages=user(key), source="s", task=key)


@pytest.fixture
def made(tmp_path):
    """Returns a function that runs the stage on files of a run folder."""

    def made(section, comparisons=(), human=()):
        data = {"compare": {}, "demonstrations": section}
        run = run_of(data, tmp_path)
        (tmp_path / "prompts").mkdir(exist_ok=True)
        (tmp_path / "compare").mkdir(exist_ok=True)
        write_rows(tmp_path / "compare/rows.jsonl", comparisons)
        write_rows(tmp_path / "prompts/comparisons.jsonl", human)
        rows = [
            prompt("Which bird sings at night in the garden?", "held_out"),
            prompt("b", "train"),
        ]
        write_rows(tmp_path / "prompts/rows.jsonl", rows)
        context = run.first(DemonstrationsSettings)
        context.folder.mkdir(exist_ok=True)
        metrics = context.placed.stage.run(context)
        found = pq.read_table(context.folder / "train.parquet").to_pylist()
        assert metrics["rows"] == len(found)
        return [
            (r["kind"], r["prompt"][-1]["content"], r["completion"][0]["content"]) for r in found
        ]

    return made


def test_the_better_response_of_each_comparison_is_imitated(made):
    rows = [
        comparison("a", 0.9),
        comparison("b", 0.2),
        comparison("c", 0.5),  # neither is better
        comparison("d", None, state="refused"),
    ]
    found = made({}, rows, [comparison("h", 1.0, source="human")])
    assert found == [
        ("red_team", "Question a?", "a first"),
        ("red_team", "Question b?", "b second"),
        ("helpful", "Question h?", "h first"),
    ]


def test_only_certain_ones(made):
    rows = [comparison("a", 0.9), comparison("b", 0.2)]
    assert [row[2] for row in made({"probability": 0.85}, rows)] == ["a first"]
    with pytest.raises(
        CaiError, match=r"None of 2 comparisons .* Lower `demonstrations.probability`"
    ):
        made({"probability": 0.95}, rows)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "response": "So."},
        {"prompt": "Why?", "completion": "So."},
        {"instruction": "Why?", "output": "So."},
        {"question": "Why?", "answer": "<think>hm</think>So."},
        {
            "messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "So."},
            ]
        },
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"transcript": "\n\nHuman: Why?\n\nAssistant: So."},
    ],
)
def test_files_of_every_layout(made, tmp_path, record):
    (tmp_path / "answers.jsonl").write_text(json.dumps(record) + "\n")
    assert made({"files": "answers.jsonl"}) == [("helpful", "Why?", "So.")]


def test_answers_to_held_out_prompts_are_left_out_and_equal_rows_are_one(made, tmp_path, caplog):
    records = [
        {"prompt": "Which bird sings at night in the garden?", "response": "A secret."},
        {"prompt": "Why?", "response": "So."},
        {"prompt": "Why?", "response": "So."},
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert [row[2] for row in made({"files": "answers.jsonl"})] == ["So."]
    assert "1 rows of training data answer held-out prompts" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "Why?"}\n', r"answers.jsonl:1 holds no conversation that ends with an answer"),
        ('{"prompt": "Why?", "response": 3}\n', "response"),
        ("", "answers.jsonl"),
        (
            '{"prompt": "Which bird sings at night in the garden?", "response": "x"}\n',
            "All 1 demonstrations of `demonstrations` answer held-out prompts",
        ),
    ],
)
def test_a_file_without_answers_is_refused(made, tmp_path, text, said):
    (tmp_path / "answers.jsonl").write_text(text)
    with pytest.raises(CaiError, match=said):
        made({"files": "answers.jsonl"})
