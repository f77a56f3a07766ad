"""Turns of tools, messages that are not the user's, and models' thinking."""

import json
import logging

import pytest
from rows_as_read import OASST, pairs, prompts, said_in, source

from cai.data.prompts import load_prompts
from cai.data.prompts.turns import TOOL_ROLES
from cai.errors import CaiError
from cai.evaluate.recorded import read_answers
from cai.settings import PromptsSettings, SourceSettings


def turn(role, content="x", **more):
    return {"role": role, "content": content, **more}


CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
UNREADABLE = [
    *({"messages": [turn("user"), turn(role), turn("user")]} for role in TOOL_ROLES),
    {"messages": [turn("user"), turn("assistant", None, tool_calls=CALL), turn("user")]},
    {"messages": [turn("user"), turn("assistant", None, function_call={"name": "f"})]},
    {"messages": json.dumps([turn("user"), turn("Tool"), turn("user")])},
    {"conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "y"}]},
    {"prompt": [turn("user"), turn("function")]},
    {"prompt": "Hi", "history": [turn("user"), turn("tool"), turn("assistant")]},
    {"messages": [turn("user", [{"type": "image_url", "image_url": "x"}])]},
    {"role": "tool", "content": "22 degrees"},
]


@pytest.mark.parametrize("row", UNREADABLE)
def test_a_conversation_with_tools_costs_its_row_and_is_named(tmp_path, caplog, row):
    rows = [{"prompt": "one"}, row, {"prompt": "two"}]
    with caplog.at_level(logging.WARNING):
        found = prompts(tmp_path, rows)
    assert found == [[("user", "one")], "unreadable", [("user", "two")]]
    (said,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "rows.jsonl: left out 1 of 3 rows: conversations of which not everything is text" in said
    assert "rows.jsonl:2" in said


@pytest.mark.parametrize("row", UNREADABLE[:-1])
def test_a_comparison_with_tools_is_the_state_of_its_row(tmp_path, row):
    rows = [
        {**row, "chosen": "Yes", "rejected": "No"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    assert sorted(map(str, pairs(tmp_path, rows))) == ["('a', 'b', 'c')", "unparsed"]


def test_empty_tool_calls_are_no_tool(tmp_path):
    messages = [
        turn("user"),
        turn("assistant", "y", tool_calls=[], function_call=None),
        turn("user"),
    ]
    assert prompts(tmp_path, [{"messages": messages, "tools": "[]"}]) == [
        [("user", "x"), ("assistant", "y"), ("user", "x")]
    ]


def test_messages_of_the_assistants_are_counted_as_what_they_are(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = prompts(tmp_path, [*OASST, {"prompt": ""}])
    assert (found.count("assistant"), found.count(None)) == (4, 1)
    assert "left out 4 of 7 rows: messages of the assistant's" in caplog.text
    both = [SourceSettings(path=str(tmp_path / "rows.jsonl"))]
    settings = PromptsSettings(red_team=both, helpful=both)
    counts = load_prompts(settings, seed=0, base_dir=tmp_path).counts
    assert (counts["empty"], counts["not_the_users"]) == (2, 8)


THOUGHT = "<think>Hm. I can't.</think>"
HEARD = [
    turn("user", "Hi"),
    turn("assistant", f"{THOUGHT}\n\nHello"),
    turn("user", "Why <think>?"),
]
PLAIN = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why <think>?")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HEARD},
        {"messages": json.dumps(HEARD)},
        {"conversation": [m["content"] for m in HEARD]},
        {"prompt": "Why <think>?", "history": [["Hi", f"Hm.</think>Hello{THOUGHT}"]]},
        {"prompt": f"Human: Hi\n\nAssistant: {THOUGHT}Hello\n\nHuman: Why <think>?"},
    ],
)
def test_thinking_is_removed_wherever_answers_come_in(tmp_path, caplog, row):
    with caplog.at_level(logging.WARNING):
        assert prompts(tmp_path, [row]) == [PLAIN]
    assert "models' thinking was removed from 1 of the rows" in caplog.text
    reader = source(tmp_path, [{**row, "chosen": f"{THOUGHT}Yes", "rejected": "No"}])
    (pair,) = reader.comparisons("feedback", seed=0)
    assert (said_in(pair.messages), sorted(pair.responses)) == (PLAIN, ["No", "Yes"])
    reader = source(tmp_path, [{**row, "response": f"{THOUGHT}Yes", "rating": 3}])
    (rated,) = reader.ratings(seed=0)
    assert (said_in(rated.messages), rated.response) == (PLAIN, "Yes")
    source(tmp_path, [{**row, "response": f"{THOUGHT}Yes"}])
    recorded = read_answers(str(tmp_path / "rows.jsonl"))
    assert recorded.texts == ("Yes",)
    assert said_in(recorded.asked[0][0].messages) == PLAIN


def test_whole_conversations_lose_their_thinking_too(tmp_path):
    sides = [[*HEARD, turn("assistant", f"{THOUGHT}{answer}")] for answer in ("Yes", "No")]
    sides[1][1] = turn("assistant", "Hello")
    for row in (
        {"chosen": sides[0], "rejected": sides[1]},
        {"conversation_a": sides[0], "conversation_b": sides[1], "winner": "model_a"},
    ):
        (pair,) = source(tmp_path, [row]).comparisons("feedback", seed=0)
        assert (pair.state, said_in(pair.messages)) == ("ok", PLAIN)
        assert sorted(pair.responses) == ["No", "Yes"]
    (rated,) = source(tmp_path, [{"messages": sides[0], "rating": 1}]).ratings(seed=0)
    assert (said_in(rated.messages), rated.response) == (PLAIN, "Yes")


def test_a_rated_answer_of_thinking_alone_is_left_out_and_said(tmp_path, caplog):
    rows = [{"prompt": "Hi", "response": text, "rating": 2} for text in ("<think>Hm", "Hello")]
    with caplog.at_level(logging.WARNING):
        (rated,) = source(tmp_path, rows).ratings(seed=0)
    assert rated.response == "Hello"
    assert "left out 1 of 2 rows" in caplog.text
    with pytest.raises(CaiError, match="none of its 1 rows can be used"):
        source(tmp_path, rows[:1]).ratings(seed=0)


def test_a_turn_inside_thinking_cuts_no_recorded_answer(tmp_path):
    source(tmp_path, [{"prompt": "Hi", "response": "<think>So\n\nHuman: Hi\n</think>Hello"}])
    assert read_answers(str(tmp_path / "rows.jsonl")).texts == ("Hello",)
