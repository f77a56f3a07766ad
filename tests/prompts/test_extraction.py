"""Rows to prompts: columns, shapes of values, and what is refused."""

import pytest

from cai.data.prompts.extraction import prompt_of, tags_of
from cai.data.prompts.record import Record
from cai.errors import CaiError

DIALOGUE = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
DIALOGUE_PROMPT = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]


def prompt(value, column=None):
    messages = prompt_of(Record.of(value, "file:1"), column)
    return messages and [(message.role, message.content) for message in messages]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": " Hi \n", "goal": "Hi", "target": "Sure"}, [("user", "Hi")]),
        ({"Prompt": "Hi"}, [("user", "Hi")]),
        ({"question": "Why?"}, [("user", "Why?")]),
        ({"prompt": None, "question": "Why?"}, None),
        ({"Behavior": "Do it"}, [("user", "Do it")]),
        ({"instruction": "Add.", "input": "1, 2"}, [("user", "Add.\n\n1, 2")]),
        ({"instruction": "Add.", "input": ""}, [("user", "Add.")]),
        ({"instruction": " ", "input": "Truth"}, [("user", "Truth")]),
        ({"instruction": "Add.", "context": "1, 2"}, [("user", "Add.\n\n1, 2")]),
        ({"instruction": "Add.", "instances": [{"input": "1"}]}, [("user", "Add.\n\n1")]),
        ({"instruction": "Add.", "instances": [{"input": ""}]}, [("user", "Add.")]),
        ({"turns": ["Write.", "Rewrite it."]}, [("user", "Write.")]),
        ({"messages": DIALOGUE}, DIALOGUE_PROMPT),
        ({"messages": [m["content"] for m in DIALOGUE]}, DIALOGUE_PROMPT),
        (DIALOGUE, DIALOGUE_PROMPT),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            [("user", "Hi")],
        ),
        ({"messages": [{"role": "User", "content": "Hi"}]}, [("user", "Hi")]),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: So."},
            DIALOGUE_PROMPT,
        ),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: "}, [("user", "Hi")]),
        ({"text": "Human: Hi\n\nAssistant: A\n\nAssistant: B"}, [("user", "Hi")]),
        ({"prompt": "a quote: “Human: x”"}, [("user", "a quote: “Human: x”")]),
        ("Hi", [("user", "Hi")]),
        ({"prompt": "   "}, None),
        ({"prompt": None}, None),
        ({"turns": []}, None),
        ({"prompt": "\n\nHuman: \n\nAssistant: Hello"}, None),
    ],
)
def test_the_prompt_is_found(row, expected):
    assert prompt(row) == expected


def test_a_named_column_is_taken_as_it_is():
    assert prompt({"prompt": "no", "ask": "yes"}, "ask") == [("user", "yes")]
    assert prompt({"instruction": "Add.", "input": "1"}, "instruction") == [("user", "Add.")]


@pytest.mark.parametrize(
    ("row", "column", "said"),
    [
        ({"a": "x", "b": 1}, None, "it has `a`, `b`.*`column`"),
        ({"prompt": "x"}, "a", "no column `a`; it has `prompt`"),
        ({"prompt": True}, None, r"`prompt` holds true, not a text"),
        ({"prompt": {"text": "x"}}, None, "not a text"),
        ({"prompt": "half \ud83d"}, None, "lone surrogate at position 5"),
        ({"messages": [{"role": "tool", "content": "x"}]}, None, "a turn of a tool's"),
        ({"messages": [{"role": "teacher", "content": "x"}]}, None, "no known `role`"),
        ({"messages": [{"content": "x"}]}, None, "no known `role`"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "no turn of the user's"),
        ({"messages": [{"role": "user", "content": [1]}]}, None, "not a text"),
        ({"chosen": "Sure.", "rejected": "No."}, None, "`chosen` holds a response"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_place(row, column, said):
    with pytest.raises(CaiError, match=f"file:1.*{said}"):
        prompt(row, column)


def test_usual_tags_are_kept():
    row = {"prompt": "x", "category": " math ", "label": "safe", "type": "", "id": "3"}
    assert tags_of(Record.of(row, "file:1")) == {"category": "math", "label": "safe"}
