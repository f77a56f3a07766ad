"""Multiple-choice files in the layouts that are published, and what is refused in each."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.data.prompts.readers import read_records
from cai.data.records import ChoiceRow, Provenance
from cai.errors import CaiError
from cai.evaluate.choices import choices
from cai.evaluate.questions import questions_of

LISTED = "Which is a fruit?\n\nOptions:\n(A) a stone\n(B) a pear\n(C) a plum"
THREE = ["a stone", "a pear", "a plum"]
LETTERED = "Which is a fruit?\n(A) a stone\n(B) a pear\n(C) a plum"
BRACKETS, BARE = (" (A)", " (B)", " (C)"), (" A", " B", " C")

LAYOUTS = {
    "the paper's": (
        {
            "prompt": f"{LETTERED}\n\nThe answer is:",
            "corrects": [" (B)"],
            "incorrects": [" (A)", " (C)"],
        },
        LETTERED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "several right": (
        {
            "prompt": f"{LETTERED}\n\nThe answer is:",
            "corrects": [" (B)", " (C)"],
            "incorrects": [" (A)"],
        },
        LETTERED,
        "The answer is:",
        BRACKETS,
        (1, 2),
    ),
    "BIG-bench": (
        {"input": "Which is a fruit?", "target_scores": {"a stone": 0, "a pear": 1, "a plum": 0}},
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "BIG-bench, several right": (
        {"input": "Which is a fruit?", "target_scores": {"a stone": 0, "a pear": 1.0, "a plum": 1}},
        LISTED,
        "The answer is:",
        BRACKETS,
        (1, 2),
    ),
    "BIG-bench Hard": (
        {"input": LETTERED, "target": "(B)"},
        LETTERED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "TruthfulQA": (
        {
            "question": "Which is a fruit?",
            "mc1_targets": {"choices": THREE, "labels": [0, 1, 0]},
            "mc2_targets": {"choices": THREE, "labels": [0, 1, 1]},
        },
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "MMLU": (
        {"question": "Which is a fruit?", "choices": THREE, "answer": 0},
        LISTED,
        "The answer is:",
        BRACKETS,
        (0,),
    ),
    "MMLU as a table": (
        {
            "question": "Which is a fruit?",
            "A": THREE[0],
            "B": THREE[1],
            "C": THREE[2],
            "D": "",
            "answer": "B",
        },
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "MMLU-Pro": (
        {"question": "Which is a fruit?", "options": THREE, "answer": "C", "answer_index": 2},
        LISTED,
        "The answer is:",
        BRACKETS,
        (2,),
    ),
    "MedQA": (
        {
            "question": "Which is a fruit?",
            "options": dict(zip("ABC", THREE, strict=True)),
            "answer_idx": "B",
            "answer": "a pear",
        },
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "ARC": (
        {
            "question": "Which is a fruit?",
            "answerKey": "2",
            "choices": {"text": THREE, "label": ["1", "2", "3"]},
        },
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "ARC, as first published": (
        {
            "question": {
                "stem": "Which is a fruit?",
                "choices": [
                    {"text": text, "label": label} for text, label in zip(THREE, "ABC", strict=True)
                ],
            },
            "answerKey": "B",
        },
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "AGIEval": (
        {
            "query": "Q: Which is a fruit? Choices: (A)a stone (B)a pear (C)a plum\n"
            "A: Among A through C, the answer is",
            "choices": [f"({a}){t}" for a, t in zip("ABC", THREE, strict=True)],
            "gold": [1, 2],
        },
        "Q: Which is a fruit? Choices: (A)a stone (B)a pear (C)a plum",
        "A: Among A through C, the answer is",
        BRACKETS,
        (1, 2),
    ),
    "HellaSwag": (
        {"ctx": "Which is a fruit?", "endings": THREE, "label": "0", "activity_label": "Fruit"},
        LISTED,
        "The answer is:",
        BRACKETS,
        (0,),
    ),
    "RACE": (
        {"article": "A tree.", "question": "Which is a fruit?", "options": THREE, "answer": "B"},
        f"A tree.\n\n{LISTED}",
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "SocialIQA": (
        {
            "context": "A tree.",
            "question": "Which is a fruit?",
            "answerA": THREE[0],
            "answerB": THREE[1],
            "answerC": THREE[2],
            "label": "3",
        },
        f"A tree.\n\n{LISTED}",
        "The answer is:",
        BRACKETS,
        (2,),
    ),
    "COPA": (
        {
            "premise": "A tree fell.",
            "question": "cause",
            "choice1": "a stone",
            "choice2": "a pear",
            "label": 0,
        },
        "A tree fell.\n\ncause\n\nOptions:\n(A) a stone\n(B) a pear",
        "The answer is:",
        BRACKETS[:2],
        (0,),
    ),
    "PIQA": (
        {"goal": "Eat a pear.", "sol1": "Boil it.", "sol2": "Peel it.", "label": 0},
        "Eat a pear.\n\nOptions:\n(A) Boil it.\n(B) Peel it.",
        "The answer is:",
        BRACKETS[:2],
        (0,),
    ),
    "WinoGrande": (
        {"sentence": "The _ is a fruit.", "option1": "stone", "option2": "pear", "answer": "2"},
        "The _ is a fruit.\n\nOptions:\n(A) stone\n(B) pear",
        "The answer is:",
        BRACKETS[:2],
        (1,),
    ),
    "letters in the text": (
        {
            "question": "Which is a fruit?\nA. a stone\nB. a pear\nC. a plum\nAnswer:",
            "answer": ["B", "C"],
        },
        "Which is a fruit?\nA. a stone\nB. a pear\nC. a plum",
        "Answer:",
        BARE,
        (1, 2),
    ),
    "the answer as a text": (
        {"question": "Which is a fruit?", "choices": THREE, "answer": "a plum"},
        LISTED,
        "The answer is:",
        BRACKETS,
        (2,),
    ),
    "letters in a list": (
        {"question": "Which is a fruit?", "choices": THREE, "answers": "B, C"},
        LISTED,
        "The answer is:",
        BRACKETS,
        (1, 2),
    ),
    "lists as JSON text": (
        {"question": "Which is a fruit?", "choices": json.dumps(THREE), "answer": "B"},
        LISTED,
        "The answer is:",
        BRACKETS,
        (1,),
    ),
    "options that are numbers": (
        {"question": "How many?", "choices": [1, 2, 3], "answer": "C"},
        "How many?\n\nOptions:\n(A) 1\n(B) 2\n(C) 3",
        "The answer is:",
        BRACKETS,
        (2,),
    ),
    "options that are names": (
        {
            "question": "Who?",
            "choices": ["J. Smith", "M. Curie", "B. Noether"],
            "answer": "M. Curie",
        },
        "Who?\n\nOptions:\n(A) J. Smith\n(B) M. Curie\n(C) B. Noether",
        "The answer is:",
        BRACKETS,
        (1,),
    ),
}


def read(tmp_path, *rows, name="q.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return questions_of(read_records(str(path)), "set")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_asked_as_they_are_written(tmp_path, layout):
    row, text, lead, options, gold = LAYOUTS[layout]
    (asked,) = read(tmp_path, row)
    assert asked.prompt.messages[-1].content == text
    assert (asked.prompt.prefill, asked.options, asked.gold) == (lead, options, gold)
    assert len(asked.texts) == len(options)


@pytest.mark.parametrize("count", range(2, 27))
def test_any_number_of_options_up_to_26_is_read(tmp_path, count):
    texts = [f"kind {n}" for n in range(count)]
    row = {"question": "Which?", "choices": texts, "answer": [f"kind {count - 1}"]}
    (asked,) = read(tmp_path, row)
    assert asked.texts == tuple(texts)
    assert asked.gold == (count - 1,)
    last = f"({'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[count - 1]})"
    assert asked.prompt.messages[-1].content.endswith(f"\n{last} kind {count - 1}")


ROW = {"question": "Which?", "choices": THREE, "answer": "A"}
REFUSED = {
    "no answer": ({"question": "Which?", "choices": THREE}, "not a multiple-choice question"),
    "a null answer": (ROW | {"answer": None}, "does not say which option is right"),
    "an unknown letter": (ROW | {"answer": "D"}, "`answer` is 'D'"),
    "a hidden answer": (ROW | {"answer": -1}, "`answer` is -1"),
    "a truth value": (ROW | {"answer": True}, "`answer` is True"),
    "one option": (ROW | {"choices": ["a"]}, "not a list of at least two options"),
    "27 options": (ROW | {"choices": [f"kind {n}" for n in range(27)]}, "at most 26"),
    "all right": (ROW | {"answer": ["A", "B", "C"]}, "3 right of 3"),
    "no right": ({"input": "Which?", "target_scores": {"a": 0, "b": 0}}, "0 right of 2"),
    "half right": ({"input": "Which?", "target_scores": {"a": 0.5, "b": 0}}, "1 (right) or 0"),
    "two columns that contradict": (ROW | {"gold": [1]}, "contradict each other"),
    "two questions": (ROW | {"prompt": "What?"}, "which one is the question"),
    "a blank question": (ROW | {"question": " "}, "the question is blank"),
    "a blank option": (
        {"question": "Which?", "A": "a", "B": "", "C": "c", "answer": "A"},
        "`B` is blank",
    ),
    "letters in another order": (ROW | {"choices": ["B) pear", "A) stone"]}, "begin with B, A"),
    "nothing shows the letters": (ROW | {"choices": ["(A)", "(B)"]}, "with a text after each"),
    "options by name of no option": (
        {
            "question": "Which?",
            "choices": {"text": THREE, "label": ["1", "2", "3"]},
            "answerKey": "4",
        },
        "`answerKey` is '4'",
    ),
    "no text": ({"question": 7, "choices": THREE, "answer": "A"}, "not a text"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_understood_is_refused_with_file_and_row(tmp_path, fault):
    row, said = REFUSED[fault]
    with pytest.raises(CaiError) as refused:
        read(tmp_path, {**ROW, "question": "First?"}, row)
    assert said in str(refused.value)
    assert "q.jsonl:2" in str(refused.value)


@pytest.mark.parametrize(
    ("answers", "gold"),
    [([0, 1], [0, 1]), ([3, 1], [2, 0]), ([1, 2], None), ([0, 3], None), (["1", "0"], [1, 0])],
)
def test_the_whole_file_says_where_numbers_count_from(tmp_path, answers, gold):
    rows = [
        {"question": f"Which {n}?", "choices": THREE, "answer": answer}
        for n, answer in enumerate(answers)
    ]
    if gold is None:
        with pytest.raises(CaiError, match=r"could mean different options|not one of the row's"):
            read(tmp_path, *rows)
    else:
        assert [one.gold for one in read(tmp_path, *rows)] == [(number,) for number in gold]


def test_numbers_that_are_options_are_not_taken_for_their_places(tmp_path):
    rows = [
        {"question": "1 + 1?", "choices": [0, 2, 3], "answer": 2},
        {"question": "0 + 0?", "choices": [1, 0, 2], "answer": 0},
    ]
    with pytest.raises(CaiError, match="could mean different options"):
        read(tmp_path, *rows)
    assert [q.gold for q in read(tmp_path, *rows, ROW | {"choices": [9, 8], "answer": 8})] == [
        (1,),
        (1,),
        (1,),
    ]


def test_a_question_counts_once_and_must_not_contradict_itself(tmp_path):
    assert len(read(tmp_path, ROW, ROW)) == 1
    with pytest.raises(CaiError, match=r"q.jsonl:2 asks the same as .*q.jsonl:1"):
        read(tmp_path, ROW, ROW | {"answer": "B"})


def test_a_task_of_big_bench_is_one_object_with_lists_around_its_examples(tmp_path):
    task = {
        "name": "fruit",
        "keywords": ["food", "trees"],
        "metrics": ["multiple_choice_grade"],
        "task_prefix": "Say what is true.",
        "examples": [
            {"input": "Which is a fruit?", "target_scores": {"a pear": 1, "a stone": 0}},
            {"input": "Which is none?", "target_scores": {"a pear": 0, "a stone": 1}},
        ],
    }
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    first, second = questions_of(read_records(str(path)), "set")
    assert first.prompt.messages[-1].content.startswith("Say what is true.\n\nWhich is a fruit?")
    assert (first.gold, second.gold) == ((0,), (1,))


def row_of(question, logprobs):
    return ChoiceRow(
        key=question.prompt.messages[-1].content,
        state="ok" if logprobs else "unparsed",
        model="m",
        source=question.source,
        task=question.task,
        question=question.prompt.messages[-1].content,
        options=question.options,
        gold=question.gold,
        logprobs=logprobs,
        provenance=Provenance(
            model="m", model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
    )


def test_choices_are_measured_against_trivial_baselines(tmp_path):
    answers = ["A", ["B", "C"], "B", "B"]
    questions = read(
        tmp_path,
        *({"question": f"{n}?", "choices": ["a", "b", "c c"], "answer": answer}
          for n, answer in enumerate(answers)),
    )  # fmt: skip
    given = [(0.4, 0.2, 0.2), (0.1, 0.2, 0.5), (0.25, 0.25, 0.1), ()]
    rows = [
        row_of(question, tuple(map(math.log, some)))
        for question, some in zip(questions, given, strict=True)
    ]
    found = choices(rows, questions, ["m"])["set"]
    values = {name: rate.value for name, rate in found.baselines.items()}
    assert values == {"always_first": 0.25, "longest": 0.25, "most_frequent": 0.75}
    assert found.letters == {"(A)": 1, "(B)": 3, "(C)": 1}
    one = found.models["m"]
    assert (one.accuracy.value, one.accuracy.n) == (1.0, 2)  # two options of the third are equal
    assert one.answered.value == 0.75
    assert one.mean_mass == pytest.approx((0.8 + 0.8 + 0.6) / 3)
    assert one.right_probability.value == pytest.approx((0.5 + 7 / 8 + 0.25 / 0.6) / 3)
    firsts, longs = (0.5 - 1, 0.125, 0.25 / 0.6), (0.25, 0.625 - 0.5, 0.1 / 0.6)
    assert one.position_bias.value == pytest.approx(sum(firsts) / 3)
    assert one.length_bias.value == pytest.approx(sum(longs) / 3)
    gaps = (abs(0.5 - 1), abs(0.625 - 1), abs(0.25 / 0.6 - 0.5))
    assert one.calibration_error.value == pytest.approx(sum(gaps) / 3)
    assert one.letters == {"(A)": 2, "(C)": 1}
    assert one.states == {"ok": 3, "unparsed": 1}


@given(
    st.lists(st.text("ab c(A).\n", min_size=1).filter(str.strip), min_size=2, max_size=26),
    st.data(),
)
def test_every_list_of_options_is_asked_or_refused(texts, data):
    from cai.data.prompts.record import Record

    number = data.draw(st.integers(0, len(texts) - 1))
    row = {"question": "Which?", "choices": texts, "gold": [number]}
    found, said = [], ""
    try:
        found = questions_of([Record(row, "row 1")], "set")
    except CaiError as error:
        said = str(error)
    if not found:
        assert "row 1" in said
        return
    assert found[0].gold == (number,)
    assert len(found[0].options) == len(texts)
