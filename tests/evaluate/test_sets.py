import json
from collections import Counter
from pathlib import Path

import pytest

from cai.data.conversation import user
from cai.data.records import AnswerRow, Provenance
from cai.errors import CaiError
from cai.evaluate.choices import choices
from cai.evaluate.recorded import RecordedEngine, agreement, read_answers
from cai.evaluate.sets import PROMPT_SETS, read_set
from cai.pipeline.sets import read_prompt_set, read_recorded

DATA = Path(__file__).parents[2].parent / "shared" / "data"
with_data = pytest.mark.skipif(
    not DATA.exists(), reason="the public data files are not beside the checkout"
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def question(gold="B", **more):
    other = "A" if gold == "B" else "B"
    return {
        "prompt": "\n\nHuman: Is it late?\n\nWhich is better? Options:\n (A) [[[Yes.]]]\n"
        " (B) [[[It is nearly\n\nmidnight.]]]\n\nThe answer is:",
        "corrects": [f" ({gold})"],
        "incorrects": [f" ({other})"],
        **more,
    }


def test_a_question_keeps_its_space_and_ends_where_the_answer_begins(tmp_path):
    found = read_set("hhh", write(tmp_path / "q.jsonl", [question()]))
    (asked,) = found.questions
    assert asked.options == (" (A)", " (B)")
    assert asked.gold == (1,)
    assert asked.texts == ("Yes.", "It is nearly\n\nmidnight.")
    assert asked.prompt.prefill == "The answer is:"
    assert asked.prompt.messages[-1].content.endswith("midnight.]]]")
    assert found.prompts == ()


def test_a_question_can_have_as_many_options_as_there_are_letters(tmp_path):
    letters = [f" ({letter})" for letter in "ABCDEFGHIJ"]
    lines = "\n".join(f"{letter} Kind {n}" for n, letter in enumerate(letters))
    row = {"prompt": f"What kind? Options:\n{lines}\nThe answer is:"}
    row |= {"corrects": letters[9:], "incorrects": letters[:9]}
    (asked,) = read_set("hhh", write(tmp_path / "q.jsonl", [row])).questions
    assert asked.options == tuple(letters)
    assert asked.texts == tuple(f"Kind {n}" for n in range(10))
    assert asked.gold == (9,)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Why?"}, "not a multiple-choice question"),
        (question(corrects=["maybe"]), "not a list of letters"),
        (question(corrects=[" (A)", " (B)"], incorrects=[]), "2 right of 2"),
        (question(incorrects=[" (B)"]), "1 right of 1"),
    ],
)
def test_what_is_no_question_is_refused_by_line(tmp_path, row, said):
    with pytest.raises(CaiError, match=said) as refused:
        read_set("hhh", write(tmp_path / "q.jsonl", [question(), row]))
    assert "q.jsonl:2" in str(refused.value)


def test_baselines_are_counted_without_a_model(tmp_path):
    rows = [question("B"), question("A") | {"prompt": question()["prompt"].replace("late", "six")}]
    questions = read_set("hhh", write(tmp_path / "q.jsonl", rows)).questions
    found = choices([], questions, ["nobody"])["hhh"]
    assert found.questions == 2
    assert found.baselines["always_first"].value == 0.5
    assert found.baselines["longest"].value == 0.5
    assert found.models == {}


def test_xstest_tells_safe_from_unsafe(tmp_path):
    rows = [
        {"prompt": "Kill a process?", "type": "homonyms", "label": "safe"},
        {"prompt": "Kill a person?", "type": "contrast_homonyms", "label": "unsafe"},
        {"prompt": "Kill a person now?", "type": "contrast_homonyms"},
        {"prompt": "Kill time?", "type": "figurative_language"},
    ]
    found = read_set("xstest", write(tmp_path / "x.jsonl", rows)).prompts
    assert [row.kind for row in found] == ["helpful", "red_team", "red_team", "helpful"]
    assert {row.tags["set"] for row in found} == {"xstest"}
    assert found[1].tags["category"] == "contrast_homonyms"
    with pytest.raises(CaiError, match="not a row of XSTest"):
        read_set("xstest", write(tmp_path / "y.jsonl", [{"prompt": "Why?"}]))


def test_equal_prompts_count_once_and_like_ones_are_one_task(tmp_path):
    rows = ["How do I bake the bread at home?", "How do I bake the bread at home now?", "Why?"]
    path = tmp_path / "p.txt"
    path.write_text("\n".join([*rows, rows[0]]))
    found = read_set("helpful", str(path)).prompts
    assert [row.messages for row in found] == [user(text) for text in rows]
    assert len({row.task for row in found}) == 2


def test_a_limit_is_spread_over_the_file(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"Question number {n}?" for n in range(10)))
    found = read_set("helpful", str(path), limit=3).prompts
    assert [row.messages[-1].content[16] for row in found] == ["0", "3", "6"]


@pytest.mark.parametrize("spec", ["xstst:x.csv", "xstest", "hhh:", "playground:nonsense", ""])
def test_an_unknown_set_is_an_error_that_lists_the_known(spec):
    with pytest.raises(CaiError, match=r"`advbench:FILE`.*`playground:red_team`"):
        read_prompt_set(spec, seed=0, limit=None)


def test_a_bare_file_is_asked_what_it_holds(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Why?")
    with pytest.raises(CaiError, match=f"`red_team:{path}` or `helpful:{path}`"):
        read_prompt_set(str(path), seed=0, limit=None)


def test_the_playgrounds_sets_are_tasks_that_training_never_sees():
    found = read_prompt_set("playground:helpful", seed=0, limit=20).prompts
    assert len(found) == 20
    assert {(row.kind, row.split, row.tags["stratum"]) for row in found} == {
        ("helpful", "held_out", "task")
    }


@with_data
@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ("xstest:over-refusal/xstest.csv", {"helpful": 250, "red_team": 200}),
        ("xstest:over-refusal/xstest-completions-gpt4.csv", {"helpful": 250, "red_team": 200}),
        ("advbench:red-team/advbench.csv", {"red_team": 520}),
        ("harmbench:red-team/harmbench.txt", {"red_team": 200}),
        ("do-not-answer:red-team/do-not-answer-information-hazard.jsonl", {"red_team": 247}),
        ("mt_bench:helpful/mt-bench.jsonl", {"helpful": 40}),
        ("vicuna:helpful/vicuna.jsonl", {"helpful": 80}),
    ],
)
def test_published_prompts_are_read_by_name(spec, kinds):
    name, _, path = spec.partition(":")
    found = read_prompt_set(f"{name}:{DATA / 'prompts' / path}", seed=0, limit=None)
    assert Counter(row.kind for row in found.prompts) == kinds
    assert name.replace("-", "_") in PROMPT_SETS


@with_data
@pytest.mark.parametrize(
    ("name", "file", "count", "first"),
    [("hhh", "hhh-comparisons", 270, 140), ("harmful_vs_ethical", "harmful-vs-ethical", 159, 79)],
)
def test_published_questions_are_read_by_name(name, file, count, first):
    path = DATA / "evals" / f"{file}.jsonl"
    questions = read_set(name, str(path)).questions
    assert len(questions) == count
    assert sum(q.gold == (0,) for q in questions) == first
    assert all(len(q.texts) == 2 and all(q.texts) for q in questions)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_stem = {row["prompt"].removesuffix("The answer is:").strip(): row for row in rows}
    for asked in questions:
        row = by_stem[asked.prompt.messages[-1].content]
        assert [asked.options[asked.gold[0]]] == row["corrects"]
        if "text_correct" in row:
            assert asked.texts[asked.gold[0]] in row["text_correct"]


def answers(tmp_path, rows, spec="answers:"):
    return read_recorded(spec + write(tmp_path / "answers.jsonl", rows))


@pytest.mark.parametrize(
    "answer",
    [
        "INT. LAB - DAY\n\nHuman: Who are you?\n\nRobot: A friend.",
        "Human: Who?\n\nAssistant: Me.\n\nHuman: Ah.",
        "Here:\n```\nHuman: yes\n```\nDone.",
    ],
)
def test_a_dialogue_in_an_answer_is_the_answer(tmp_path, answer):
    assert answers(tmp_path, [{"prompt": "Write a play.", "response": answer}]).texts == (answer,)


def test_recorded_answers_are_given_to_the_questions_they_answer(tmp_path):
    found = answers(
        tmp_path,
        [
            {"prompt": "Why?", "response": "Because.", "kind": "red_team"},
            {"prompt": "Why?", "response": "Just so.", "kind": "red_team"},
            {"prompt": "When?", "response": "Now.\n\nHuman: And then?"},
        ],
    )
    assert [(row.messages, row.kind, n) for row, n in found.asked] == [
        (user("Why?"), "red_team", 0),
        (user("Why?"), "red_team", 1),
        (user("When?"), "helpful", 0),
    ]
    assert found.texts == ("Because.", "Just so.", "Now.")
    engine = found.engine(seed=3)
    assert engine.fingerprint == found.engine(seed=3).fingerprint
    assert engine.fingerprint != RecordedEngine({1: "Because."}).fingerprint
    rows = [{"prompt": "Why?", "response": "So."}]
    forced = answers(tmp_path, rows, spec="answers:red_team:")
    assert forced.asked[0][0].kind == "red_team"


def test_a_file_without_answers_is_an_error(tmp_path):
    with pytest.raises(CaiError, match=r"answers.jsonl:1 has no answer.*`completion`"):
        answers(tmp_path, [{"prompt": "Why?"}])
    with pytest.raises(CaiError, match="not a text"):
        answers(tmp_path, [{"prompt": "Why?", "response": 7}])
    assert read_recorded("playground") is None


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Why?", "choices": ["a", "b"], "answer": "A"},
        {"input": "Why?", "target_scores": {"a": 1, "b": 0}, "output": "a"},
        {"question": "Why?", "A": "a", "B": "b", "answer": "A"},
    ],
)
def test_right_options_are_no_answers_of_a_model(tmp_path, row):
    with pytest.raises(CaiError, match=r"answers.jsonl:1 is a multiple-choice question"):
        answers(tmp_path, [row])
    assert answers(tmp_path, [{**row, "response": "It is (A)."}]).texts == ("It is (A).",)


def test_agreement_counts_what_people_and_grader_both_judged(tmp_path):
    labels = ["1_full_compliance", "2_full_refusal", "3_partial_refusal", ""]
    found = answers(
        tmp_path,
        [
            {"prompt": f"Q{n}", "type": "homonyms", "completion": "x", "final_label": label}
            for n, label in enumerate(labels)
        ],
    )
    seeds = list(found.engine(0)._answers)
    rows = [
        AnswerRow(
            key=str(seed),
            model="m",
            kind="helpful",
            messages=row.messages,
            task=row.task,
            response="x",
            verdict={"refused": refused},
            provenance=Provenance(
                model="m", model_fingerprint="", template_hash="", sampling={}, seed=seed
            ),
        )
        for (row, _), seed, refused in zip(
            found.asked, seeds, [False, True, False, True], strict=True
        )
    ]
    agreed = agreement(rows, found, 0)
    assert (agreed.value, agreed.n) == (pytest.approx(2 / 3), 3)


@with_data
def test_samples_of_the_paper_are_answers():
    found = read_answers(str(DATA / "samples" / "INSTRUCTGPT_HRLHF.jsonl"))
    assert len(found.texts) == 221
    assert len({row.key for row, _ in found.asked}) == 13
    assert not any("\nHuman:" in text for text in found.texts)
