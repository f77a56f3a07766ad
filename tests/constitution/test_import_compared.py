"""Worked comparisons of foreign files become examples of a constitution, or are refused."""

import json

import pytest

from cai.constitution import load_constitution
from cai.constitution.importing import imported_yaml, read_foreign
from cai.errors import CaiError

THOUGHT = (
    "\n\nHuman: Consider the following conversation between a human (H) and an assistant (A):\n\n"
    "H: Hello.\n\nA:  Yes?\n\nH:  Two\n\nparagraphs: here\n\n{}\n (A) [[[One\n\n(B) is odd.]]]\n"
    " (B) [[[Better]]]]\n\nAssistant: Let's think step by step:\n(A) is odd.\n\nSo (B).\n\n"
    "Human:\nSo the answer is: (B)"
)
ASKED = (
    "\n\nConsider the following conversation between a human and an assistant:\n\n"
    "Human: Late?\n\n\nWhich is kinder? Options:\n (A) Yes.\n (B) Not\n\nyet.\n\nThe answer is:"
)
LETTERS = {"corrects": [" (B)"], "incorrects": [" (A)"]}


def said(question, name):
    return {
        "prompt": f"\n\nHuman: {question} Our conversation is:\n\nhere\n\nAssistant:",
        "corrects": [f"good {name}"],
        "incorrects": [f"bad {name}"],
    }


@pytest.fixture
def read(tmp_path):
    def read(rows):
        files = [tmp_path / "principles.json", tmp_path / "rows.json"]
        files[0].write_text('["Which is kinder? Options:"]')
        files[1].write_text(json.dumps(rows))
        imported = read_foreign(files)
        (tmp_path / "c.yaml").write_text(imported_yaml(imported, "name"))
        return load_constitution(tmp_path / "c.yaml").few_shot.comparison, imported.notes

    return read


@pytest.mark.parametrize(
    "rows", [[{"prompt": THOUGHT}], [THOUGHT], [{"prompt": THOUGHT} | LETTERS]]
)
@pytest.mark.parametrize("opening", ["\n\nHuman:", "\nHuman:", "Human:", ""])
def test_a_chain_of_thought_is_read_whole(read, rows, opening):
    rows = json.loads(
        json.dumps(rows).replace(r"\n\nHuman: Consider", json.dumps(opening)[1:-1] + " Consider")
    )
    (example,), notes = read(rows)
    assert [(m.role, m.content) for m in example.messages] == [
        ("user", "Hello."),
        ("assistant", "Yes?"),
        ("user", "Two\n\nparagraphs: here"),
    ]
    assert example.responses == ("One\n\n(B) is odd.", "Better]")
    assert (example.answer, example.reasoning) == ("B", "(A) is odd.\n\nSo (B).")
    assert notes[1:] == ["rows.json: 1 worked examples of comparisons, 1 with reasoning"]


def test_a_question_gives_up_its_own_principle_and_says_so(read):
    (example,), notes = read([{"prompt": ASKED} | LETTERS])
    assert [m.content for m in example.messages] == ["Late?"]
    assert example.responses == ("Yes.", "Not\n\nyet.")
    assert (example.answer, example.reasoning) == ("B", None)
    assert notes[-1].endswith("in place of: Which is kinder?")


def test_responses_without_letters_are_better_in_half_of_the_places(read):
    examples, notes = read([said(f"Question {n}?", n) for n in range(9)])
    assert [e.responses["AB".index(e.answer)] for e in examples] == [f"good {n}" for n in range(9)]
    assert [e.responses["BA".index(e.answer)] for e in examples] == [f"bad {n}" for n in range(9)]
    assert [e.answer for e in examples].count("A") == 4
    assert examples[0].messages[0].content == "Question 0? Our conversation is:\n\nhere"
    assert "9 of them do not say which response is (A)" in notes[-1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": 3}, "a text `prompt`"),
        (3, "a text `prompt`"),
        ({"prompt": ASKED, "corrects": [" (A)"]}, "give both, or neither"),
        ({"prompt": ASKED, "corrects": [" (A)", " (B)"], "incorrects": []}, "must hold one text"),
        ({"prompt": ASKED, "corrects": [" (A)"], "incorrects": [" (A)"]}, "two letters"),
        ({"prompt": ASKED, "corrects": [" (A)"], "incorrects": ["No."]}, "two letters"),
        ({"prompt": ASKED, "corrects": [" (C)"], "incorrects": [" (A)"]}, "two letters"),
        (ASKED, "nothing says which option is right"),
        (ASKED.replace("(B)", "(C)"), "no options"),
        ({"prompt": ASKED.replace("yet.", "yet.\n (C) Hm.")} | LETTERS, r"no more.*\(C\)"),
        ({"prompt": ASKED.replace("Which is kinder? ", "")} | LETTERS, "paragraph with the princ"),
        ({"prompt": ASKED.replace("Human: Late?", "Late?")} | LETTERS, "a conversation has turns"),
        ({"prompt": ASKED.replace("Late?", "Late?\n\nAssistant: No.")} | LETTERS, "role `user`"),
        ({"prompt": THOUGHT, "corrects": "(A)", "incorrects": "(B)"}, r"is \(A\), but .*\(B\)"),
        (THOUGHT.replace("\n(A) is odd.\n\nSo (B).", ""), "reasoning must be followed"),
        (THOUGHT.replace("So the answer is: (B)", ""), "reasoning must be followed"),
        (THOUGHT.replace("Assistant: Let's think", "Also: let's not think"), "no more"),
        (said("", "x") | {"prompt": "No speaker."}, "a conversation has turns"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_number(read, row, words):
    with pytest.raises(CaiError, match=words) as refused:
        read([{"prompt": THOUGHT}, row])
    assert "rows.json: item 1" in str(refused.value)
