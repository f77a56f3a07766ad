"""Human comparisons: layouts, labels, states, order of presentation."""

import json
import logging
import re

import pytest

from cai.data.conversation import user
from cai.data.prompts import exclude_held_out, load_comparisons
from cai.data.records import PromptRow
from cai.errors import CaiError
from cai.settings import SourceSettings

HH = "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Why?\n\nAssistant:"


def load(folder, rows, *, seed=0, limit=None):
    path = folder / "pairs.json"
    path.write_text(json.dumps(rows))
    return load_comparisons(
        [SourceSettings(path=str(path), limit=limit)], "helpfulness", seed=seed, base_dir=folder
    )


def better(row):
    assert row.label in (0.0, 1.0)
    return row.responses[0] if row.label == 1 else row.responses[1]


@pytest.mark.parametrize(
    ("row", "prompt", "good", "bad"),
    [
        (
            {"chosen": f"{HH} Good", "rejected": f"{HH} Bad\n\nat length"},
            ["Hi", "Yo", "Why?"],
            "Good",
            "Bad\n\nat length",
        ),
        ({"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}, ["Hi"], "Good", "Bad"),
        (
            {
                "prompt": "Which is better? Options: (A) [[[…]]] (B) [[[…]]]",
                "corrects": [" (B)"],
                "incorrects": [" (A)"],
                "text_correct": f"{HH} Good",
                "text_incorrect": f"{HH} Bad",
            },
            ["Hi", "Yo", "Why?"],
            "Good",
            "Bad",
        ),
        (
            {"prompt": HH, "chosen": " Good", "rejected": " Bad"},
            ["Hi", "Yo", "Why?"],
            "Good",
            "Bad",
        ),
        (
            {
                "prompt": [{"role": "user", "content": "Hi"}],
                "chosen": [{"role": "assistant", "content": "Good"}],
                "rejected": [{"role": "assistant", "content": "Bad"}],
            },
            ["Hi"],
            "Good",
            "Bad",
        ),
        (
            {
                "prompt": "Hi",
                "chosen": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Good"},
                ],
                "rejected": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Bad"},
                ],
            },
            ["Hi"],
            "Good",
            "Bad",
        ),
        (
            {
                "prompt": "<extra_id_0>System\n\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\n",
                "chosen_response": "Good\n<extra_id_1>",
                "rejected_response": "Bad\n<extra_id_1>",
            },
            ["Hi"],
            "Good",
            "Bad",
        ),
        ({"input": "Hi", "output_1": "Bad", "output_2": "Good", "label": 2}, ["Hi"], "Good", "Bad"),
        ({"input": "Hi", "output_1": "Good", "output_2": "Bad", "label": 1}, ["Hi"], "Good", "Bad"),
    ],
)
def test_layouts(tmp_path, row, prompt, good, bad):
    (found,) = load(tmp_path, [row])
    assert found.state == "ok"
    assert (found.kind, found.source) == ("helpful", "human")
    assert [message.content for message in found.messages] == prompt
    assert set(found.responses) == {good, bad}
    assert better(found) == good


@pytest.mark.parametrize(
    ("verdicts", "label"),
    [((1, 1, 1), 1.0), ((1, 1, 2), 2 / 3), ((1, 0, 0), 2 / 3), ((2, 2, 0), 1 / 6)],
)
def test_the_label_is_the_share_of_annotators(tmp_path, verdicts, label):
    row = annotated("Add.", "one", "two", verdicts)
    (found,) = load(tmp_path, [row])
    assert found.messages == user("Add.")
    share = found.label if found.responses[0] == "one" else 1 - found.label
    assert share == pytest.approx(label)


def annotated(instruction, response1, response2, verdicts=(1, 1, 1)):
    votes = {f"annotator{i}": verdict for i, verdict in enumerate(verdicts, start=1)}
    pair = {"response1": response1, "response2": response2}
    return {"instruction": instruction, "input": "", **pair, **votes}


@pytest.mark.parametrize(
    ("row", "state", "said"),
    [
        (annotated("Add.", "a", "b", (0, 0, 0)), "tie", "equally good"),
        (annotated("Add.", "a", "b", (1, 2, 0)), "tie", "equally good"),
        (annotated("Add.", "a", "a"), "tie", "identical"),
        (annotated("Add.", True, "b"), "unparsed", r"`response1` holds true, not a text"),
        (annotated("Add.", "a", None), "unparsed", "`response2` holds null"),
        (annotated("Add.", "a", " "), "unparsed", "response 2 is empty"),
        (annotated(" ", "a", "b"), "unparsed", "prompt is blank"),
        (annotated("Add.", "a", "b", (1, 3, 1)), "unparsed", "`annotator2` is 3"),
        (annotated("Add.", "a", "b", (1, True, 1)), "unparsed", "`annotator2` is True"),
    ],
)
def test_what_cannot_be_trained_on_says_why(tmp_path, row, state, said):
    found, _ = load(tmp_path, [row, annotated("fine", "x", "y")])
    check_unusable(found, state, said)


@pytest.mark.parametrize(
    ("row", "state", "said"),
    [
        (
            {"chosen": f"{HH} ", "rejected": f"{HH} Bad"},
            "unparsed",
            "last turn of `chosen` is empty",
        ),
        ({"chosen": f"{HH} A", "rejected": f"{HH} A"}, "tie", "identical"),
        (
            {"chosen": f"{HH} A\n\nAssistant: B", "rejected": f"{HH} C"},
            "failed",
            r"differ before the last turn \(5 and 4 turns\)",
        ),
        (
            {"chosen": f"{HH} A", "rejected": f"{HH.replace('Yo', 'Oy')} B"},
            "failed",
            "differ before the last turn",
        ),
        ({"chosen": f"{HH} A\n\nHuman: and?", "rejected": f"{HH} B"}, "unparsed", "not an answer"),
        ({"prompt": "", "chosen": "A", "rejected": "B"}, "unparsed", "not an answer"),
    ],
)
def test_broken_transcripts_say_why(tmp_path, row, state, said):
    found, _ = load(tmp_path, [row, {"chosen": f"{HH} x", "rejected": f"{HH} y"}])
    check_unusable(found, state, said)


def check_unusable(row, state, said):
    assert (row.state, row.label) == (state, None)
    assert re.search(said, row.error)
    assert "item 1" in row.error


def test_two_last_turns_of_the_assistant_are_one_response(tmp_path):
    row = {"chosen": f"{HH} Well:\n\nAssistant: A", "rejected": f"{HH} Well:\n\nAssistant: B"}
    (found,) = load(tmp_path, [row])
    assert found.messages[-1].content == "Why?"
    assert set(found.responses) == {"Well:\n\nA", "Well:\n\nB"}


def test_position_carries_no_information_and_the_files_order_no_weight(tmp_path):
    rows = [{"prompt": f"{i}", "chosen": f"z{i}", "rejected": f"a{i}"} for i in range(400)]
    found = load(tmp_path, rows)
    assert 150 < sum(row.label == 1 for row in found) < 250
    other = load(tmp_path, rows, seed=1)
    assert {row.key for row in found} == {row.key for row in other}
    assert [row.responses for row in found] != [row.responses for row in other]
    numbered = [
        {"input": "q", "output_1": f"a{i}", "output_2": f"b{i}", "label": 1} for i in range(50)
    ]
    turned = [
        {"input": "q", "output_1": f"b{i}", "output_2": f"a{i}", "label": 2} for i in range(50)
    ]
    assert load(tmp_path, numbered) == load(tmp_path, turned)


def test_exact_duplicates_are_left_out_and_disagreement_is_kept(tmp_path, caplog):
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": 1}
    with caplog.at_level(logging.WARNING):
        found = load(tmp_path, [row, row, {**row, "label": 2}])
    assert len({r.key for r in found}) == len(found) == 2
    assert "exact duplicates: 1 of 3." in caplog.text


def test_a_limit_is_drawn(tmp_path):
    rows = [{"prompt": f"{i}", "chosen": "x", "rejected": "y"} for i in range(100)]
    few = load(tmp_path, rows, limit=10)
    assert len(few) == 10
    assert {row.key for row in few} <= {row.key for row in load(tmp_path, rows)}


def test_an_unknown_layout_or_no_usable_row_is_an_error(tmp_path):
    with pytest.raises(CaiError, match=r"is no comparison: it has `prompt`, `answer`.*`chosen`"):
        load(tmp_path, [{"prompt": "x", "answer": "y"}])
    with pytest.raises(CaiError, match=r"no usable comparison.*item 1.*equally good"):
        load(tmp_path, [annotated("Add.", "a", "b", (0, 0, 0))])


def test_comparisons_of_held_out_prompts_are_left_out(tmp_path, caplog):
    prompts = [
        PromptRow(
            key=split, kind="helpful", split=split, messages=user(text), source="s", task=split
        )
        for split, text in (("held_out", "How do I bake bread?"), ("train", "What is the time?"))
    ]
    rows = [
        {"prompt": "how do I bake bread", "chosen": "x", "rejected": "y"},
        {"prompt": "what is the time", "chosen": "x", "rejected": "y"},
    ]
    with caplog.at_level(logging.WARNING):
        kept = exclude_held_out(load(tmp_path, rows), prompts, 0.8)
    assert [row.messages[0].content for row in kept] == ["what is the time"]
    assert "1 rows of training data answer held-out prompts" in caplog.text


THOUGHT = "<think>\nWho asks?\n</think>\n\n"


@pytest.mark.parametrize(
    ("chosen", "rejected", "state", "responses"),
    [
        (f"{THOUGHT}Good", "Bad", "ok", {"Good", "Bad"}),
        ("Who asks?\n</think>\n\nGood", f"{THOUGHT}Bad", "ok", {"Good", "Bad"}),
        ("Good", "<think>\nWho", "unparsed", {"Good", ""}),
        (f"{THOUGHT}Same", "Same", "tie", {"Same"}),
    ],
)
def test_thinking_is_removed_from_responses(tmp_path, caplog, chosen, rejected, state, responses):
    usable = {"prompt": "Yes?", "chosen": "Yes.", "rejected": "No."}
    rows = load(tmp_path, [{"prompt": "Hi", "chosen": chosen, "rejected": rejected}, usable])
    (row,) = (row for row in rows if row.messages == user("Hi"))
    assert (row.state, set(row.responses)) == (state, responses)
    assert "models' thinking was removed from 1 of the rows" in caplog.text
    if state == "ok":
        assert better(row) == "Good"
    else:
        assert row.label is None
        assert "thinking" in row.error
