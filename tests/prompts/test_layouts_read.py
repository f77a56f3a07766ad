"""Layouts by example: whose text it is, what labels mean, and what is refused."""

import json
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows_as_read import OASST, pairs, prompts, source

from cai.data.prompts.readers import read_records, reader_of
from cai.errors import CaiError
from cai.settings import SourceSettings


def test_messages_of_trees_are_prompts_where_the_user_speaks(tmp_path):
    assert prompts(tmp_path, OASST) == [
        [("user", "Hi")],
        "assistant",
        "assistant",
        [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")],
        "assistant",
        "assistant",
    ]
    with pytest.raises(CaiError, match="answers the message '2', which is not in the file"):
        prompts(tmp_path, [OASST[0], OASST[3]])


def test_ranked_replies_are_comparisons_as_rows_and_as_trees(tmp_path):
    expected = [("Hi", "Hello", "Go away"), ("Why?", "Because.", "So.")]
    assert pairs(tmp_path, OASST) == expected
    why = {**OASST[3], "replies": [OASST[4], OASST[5]]}
    tree = {**OASST[0], "replies": [{**OASST[1], "replies": [why]}, OASST[2]]}
    row = {"message_tree_id": "1", "tree_state": "ready", "prompt": tree}
    assert pairs(tmp_path, [row]) == expected
    assert prompts(tmp_path, [row]) == [[("user", "Hi")]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"role": "assistant", "content": "I am no prompt."}, "assistant"),
        ({"role": "user", "content": "Hi"}, [("user", "Hi")]),
        ({"speaker": "Assistant", "prompt": "I am no prompt."}, "assistant"),
        ({"messages": [{"role": "assistant", "content": "I am no prompt."}]}, "assistant"),
        ({"author": "Ann", "prompt": "Hi"}, [("user", "Hi")]),
        ({"prompt": None, "text": "An article."}, None),
        ({"instruction": None, "input": "x"}, None),
        ({"question": "Why?", "context": "It rains."}, [("user", "Why?\n\nIt rains.")]),
        ({"instruction": "Add.", "input": "1", "context": "2"}, [("user", "Add.\n\n1\n\n2")]),
        ({"question": "Why?", "context": ["passage", "passage"]}, [("user", "Why?")]),
        (
            {
                "system": "Be.",
                "messages": [
                    {"role": "system", "content": "Be."},
                    {"role": "user", "content": "Hi"},
                ],
            },
            [("system", "Be."), ("user", "Hi")],
        ),
        (
            {"messages": [{"role": "user", "content": "Hi", "from": None, "value": None}]},
            [("user", "Hi")],
        ),
        (
            {"prompt": '["q1", "q2"]', "response_a": '["a", "b"]', "response_b": '["c", "d"]'},
            [("user", "q1")],
        ),
        ({"prompt": '["is", "this", "a list?"]'}, [("user", '["is", "this", "a list?"]')]),
        ({"prompt": '[{"content": "x"}] is JSON'}, [("user", '[{"content": "x"}] is JSON')]),
        ({"prompt": ""}, None),
        ({"prompt": " ", "system": "Be terse.", "history": [["a", "b"]]}, None),
    ],
)
def test_whose_text_it_is(tmp_path, row, expected):
    assert prompts(tmp_path, [{"prompt": "fill"}, row]) == [[("user", "fill")], expected]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"role": "teacher", "text": "Hi"}, "`role` is 'teacher', no known role"),
        ({"prompt": "Hi", "history": ["only a question"]}, "`history` does not end with an answer"),
        ({"prompt": "Hi", "history": [["a", "b", "c"]]}, "not all of them a question and its"),
        ({"prompt": "Hi", "system": 3}, r"`system` holds 3, not a text"),
        ({"text": "<|im_start|>user\nHi<|im_end|>"}, "a chat template has already written"),
        ({"text": "### Human: Hi### Assistant: Yo"}, "a chat template has already written"),
        (
            {"messages": "[{'role': 'user', 'content': oops}]"},
            "looks like a list of messages as text, but",
        ),
        (
            {"prompt": "[{'content': 'x', 'role': 'user'}\n {'content': 'y', 'role': 'user'}]"},
            "looks like a list of messages as text, but",
        ),
        ({"messages": [{"role": "teacher", "content": "x"}]}, "no known `role`"),
    ],
)
def test_what_nobody_can_tell_is_refused(tmp_path, row, said):
    with pytest.raises(CaiError, match=said):
        prompts(tmp_path, [row])


LABELLED = {"input": "q", "output_1": "a", "output_2": "b"}


@pytest.mark.parametrize(
    ("row", "labels", "expected"),
    [
        ({**LABELLED, "label": 0}, {0: "first", 1: "second"}, ("q", "a", "b")),
        ({**LABELLED, "label": "1"}, {0: "first", 1: "second"}, ("q", "b", "a")),
        ({**LABELLED, "label": 0}, {0: "tie", 1: "first", 2: "second"}, "tie"),
        ({**LABELLED, "label": 3}, {0: "first", 1: "second"}, "unparsed"),
        ({**LABELLED, "label": "output_2"}, None, ("q", "b", "a")),
        ({**LABELLED, "label": 1.0}, None, ("q", "a", "b")),
        ({**LABELLED, "label": None}, None, "unparsed"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "B"}, None, "b"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "tie"}, None, "tie"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "x"}, None, "unparsed"),
        ({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, None, "a"),
        ({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0}, None, "b"),
        (
            {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 2},
            None,
            "b",
        ),
        (
            {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 0},
            None,
            "tie",
        ),
        (
            {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0},
            None,
            "a",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, None, "a"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 5},
            None,
            "tie",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 5},
            None,
            "failed",
        ),
        ({"prompt": None, "question": "q", "chosen": "a", "rejected": "b"}, None, "unparsed"),
        (
            {
                "prompt": '["q0", "q"]',
                "response_a": '["x", "a"]',
                "response_b": '["x", "b"]',
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            },
            None,
            "b",
        ),
        (
            {
                "prompt": "q",
                "answers": [{"answer": "b", "rank": 2.0}, {"answer": "a", "rank": 1.0}],
            },
            None,
            "a",
        ),
    ],
)
def test_labels_mean_what_the_layout_or_the_settings_say(tmp_path, row, labels, expected):
    fine = {"prompt": "fine", "chosen": "x", "rejected": "y"}
    first, *_, last = pairs(tmp_path, [row, fine], labels=labels)
    assert last == ("fine", "x", "y")
    if expected in ("a", "b"):
        expected = ("q", expected, "ab"[expected == "a"])
    assert first == expected


@pytest.mark.parametrize("numbers", [(0, 1), (0,), (0, 1, 2), ("0", "1"), (1, 2, 3), (1, 0.0)])
def test_numbers_that_could_mean_either_response_are_refused(tmp_path, numbers):
    rows = [{**LABELLED, "input": f"{n}", "label": n} for n in numbers]
    with pytest.raises(CaiError, match=r"could mean either response.*`labels: \{0: first"):
        pairs(tmp_path, rows)
    rows = [{"prompt": "q", "answer_a": "a", "answer_b": "b", "preference": 1}]
    with pytest.raises(CaiError, match=r"`preference` \(1\) could mean either"):
        pairs(tmp_path, rows)


def test_rows_that_rate_answers_to_one_prompt_are_compared(tmp_path):
    rated = [("q", "a", 4), ("r", "c", 2), ("q", "b", 1), ("r", "d", 2), ("s", "e", 0)]
    rows = [{"prompt": q, "response": a, "helpfulness": h, "verbosity": 1} for q, a, h in rated]
    assert pairs(tmp_path, rows) == [("q", "a", "b"), "tie", "unparsed"]


def test_an_answer_that_looks_like_a_transcript_stays_an_answer(tmp_path):
    play = "Human: Who are you?\n\nAssistant: "
    row = {"ask": "Write a play.", "chosen": f"{play}A robot.", "rejected": f"{play}Go."}
    expected = [("Write a play.", f"{play}A robot.", f"{play}Go.")]
    assert pairs(tmp_path, [{**row, "prompt": row["ask"]}]) == expected
    assert pairs(tmp_path, [row], column="ask") == expected
    (whole,) = pairs(tmp_path, [{k: v for k, v in row.items() if k != "ask"}])
    assert whole == ("Who are you?", "A robot.", "Go.")
    same = {"prompt": "Who are you?", "chosen": f"{play}A robot.", "rejected": f"{play}Go."}
    assert pairs(tmp_path, [same]) == [whole]


def test_later_turns_of_a_continuation_stay_behind_the_prompt(tmp_path):
    middle = [("assistant", "Yo"), ("user", "Why?")]
    sides = {
        name: [{"role": r, "content": c} for r, c in [*middle, ("assistant", text)]]
        for name, text in (("chosen", "a"), ("rejected", "b"))
    }
    reader = source(tmp_path, [{"prompt": [{"role": "user", "content": "Hi"}], **sides}])
    (row,) = reader.comparisons("helpfulness", seed=0)
    assert [m.content for m in row.messages] == ["Hi", "Yo", "Why?"]


def test_null_cells_of_a_table_are_blank_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [None, "Hi"], "text": ["An article", "Other"]}), path)
    found = reader_of(SourceSettings(path=str(path)), tmp_path).prompts("helpful", seed=0)
    assert [row and row.messages[0].content for row in found] == [None, "Hi"]


def test_what_was_read_is_said_in_one_line_with_what_was_not_used(tmp_path, caplog):
    rows = [{"id": 1, "messages": [{"role": "user", "content": "Hi"}], "source": "x"}] * 2
    with caplog.at_level(logging.WARNING):
        prompts(tmp_path, rows)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/rows.jsonl: read as JSON Lines of messages, 2 rows, columns `messages`; "
        "not used: `id`, `source`."
    ]


def test_what_evaluations_read_has_its_earlier_turns(tmp_path):
    source(tmp_path, OASST)
    assert "messages" in read_records(str(tmp_path / "rows.jsonl"))[3].fields


def examples(section):
    """Return the rows that docs/data.md shows in a section."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    (block,) = re.findall(rf"\n## {section}\n.*?```jsonl\n(.*?)```", page, re.DOTALL)
    return [json.loads(line) for line in block.splitlines()]


CONVERSATION = [
    ("system", "Be kind."),
    ("user", "Hi"),
    ("assistant", "Hello"),
    ("user", "Why?"),
]


@pytest.mark.parametrize("row", examples("Conversations"))
def test_conversations_in_the_docs(tmp_path, row):
    (found,) = prompts(tmp_path, [row])
    assert found == [turn for turn in CONVERSATION if turn in found]
    assert found[-1] == ("user", "Why?")
    said = json.dumps(row)
    assert [text in said for _, text in CONVERSATION] == [turn in found for turn in CONVERSATION]


@pytest.mark.parametrize("row", examples("Human comparisons"))
def test_comparisons_in_the_docs(tmp_path, row):
    assert pairs(tmp_path, [row]) == [("Why?", "good", "bad")]
