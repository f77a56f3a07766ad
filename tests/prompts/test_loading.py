"""The prompts of a run: counts, tasks, the split, limits, and rows from elsewhere."""

import json
import logging
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.data.conversation import user
from cai.data.prompts import load_prompts
from cai.data.prompts.readers import READERS, Reader
from cai.data.prompts.splitting import split_tasks, with_tasks
from cai.data.records import PromptRow, content_hash
from cai.errors import CaiError
from cai.playground.sources import playground_prompts
from cai.settings import PromptsSettings

SENTENCE = "please tell me in a few words how one might {} on a sunny day in early spring"


def write(folder, name, texts):
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return name


def load(folder, red_team, helpful, *, seed=0, limit=None, more=(), **settings):
    red = {"path": write(folder, "red.jsonl", red_team), "limit": limit}
    helping = {"path": write(folder, "help.jsonl", helpful)}
    prompts = PromptsSettings(red_team=[red, *more], helpful=[helping], **settings)
    return load_prompts(prompts, seed=seed, base_dir=folder)


def row(text, kind="red_team", split="train", task=None):
    messages = user(text)
    key = content_hash(messages)
    return PromptRow(
        key=key, kind=kind, split=split, messages=messages, source="s", task=task or key
    )


def splits(report):
    return {row.messages[0].content: row.split for row in report.rows}


def numbered(start, stop):
    return [f"{i} question" for i in range(start, stop)]


def test_blank_and_duplicate_prompts_are_left_out_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = load(tmp_path, ["a", " ", "b ", "a", ""], ["c", "b", "c"])
    assert [(r.kind, r.messages[0].content) for r in report.rows] == [
        ("red_team", "a"),
        ("red_team", "b"),
        ("helpful", "c"),
    ]
    assert report.counts == {
        "read": 8,
        "empty": 2,
        "not_the_users": 0,
        "unreadable": 0,
        "duplicates": 3,
        "beyond_limit": 0,
        "prompts": 3,
        "tasks": 3,
    }
    assert "Blank rows left out: 2 of 8." in caplog.text
    assert "exact duplicates of others: 3." in caplog.text


def test_a_source_with_blank_prompts_only_is_an_error(tmp_path):
    with pytest.raises(CaiError, match=r"red\.jsonl holds no prompt"):
        load(tmp_path, [" ", ""], ["x"])


def test_rows_say_where_they_come_from(tmp_path):
    report = load(tmp_path, ["a"], ["b"])
    assert [r.source for r in report.rows] == ["red.jsonl", "help.jsonl"]
    assert [r.key for r in report.rows] == [content_hash(r.messages) for r in report.rows]


def test_near_duplicates_share_a_task_and_a_side_across_kinds(tmp_path):
    red = [SENTENCE.format(f"{a} {b}") for a, b in product(["steal", "burn", "sell"], range(30))]
    benign = [text.upper() + "!" for text in red] + numbered(0, 30)
    report = load(tmp_path, red, benign, held_out=0.3, near_duplicate=0.6)
    tasks = {r.messages[0].content.casefold().rstrip("!"): r.task for r in report.rows}
    for r in report.rows:
        assert r.task == tasks[r.messages[0].content.casefold().rstrip("!")]
    by_task = {}
    for r in report.rows:
        by_task.setdefault(r.task, set()).add(r.split)
    assert all(len(sides) == 1 for sides in by_task.values())
    assert report.counts["tasks"] < len(report.rows)


def test_the_shared_system_prompt_does_not_make_one_task(tmp_path):
    system = "System: " + " ".join(f"rule{i}" for i in range(50))
    texts = [f"{system}\n\nHuman: {question}" for question in numbered(0, 5)]
    report = load(tmp_path, texts, ["x"])
    assert report.counts["tasks"] == 6


@given(st.integers(0, 5), st.sets(st.integers(0, 300), min_size=2), st.integers(0, 2**32))
def test_every_kind_has_both_sides_and_adding_prompts_moves_none(extra, numbers, seed):
    def split(names):
        kinds = {str(n): {"red_team"} if n % 3 else {"red_team", "helpful"} for n in names}
        return kinds, split_tasks(kinds, {}, held_out=0.3, seed=seed)

    kinds, sides = split(sorted(numbers))
    assert set(sides) == set(kinds)
    for kind in ("red_team", "helpful"):
        of_kind = [sides[task] for task in kinds if kind in kinds[task]]
        if len(of_kind) > 1:
            assert set(of_kind) == {"train", "held_out"}
    many = numbers | set(range(1000, 1200))
    more = numbers | set(range(1000, 1200 + extra))
    before, after = split(sorted(many))[1], split(sorted(more, reverse=True))[1]
    assert before == {task: after[task] for task in before}


def test_the_share_held_out_is_about_the_one_asked_for(tmp_path):
    report = load(tmp_path, numbered(0, 2000), numbered(5000, 5010), held_out=0.25)
    held_out = sum(r.split == "held_out" for r in report.rows if r.kind == "red_team")
    assert 400 < held_out < 600


def test_another_seed_is_another_split_and_the_same_seed_the_same(tmp_path):
    texts = numbered(0, 100)
    one, again, other = (splits(load(tmp_path, texts, ["x"], seed=s)) for s in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(("held_out", "sides"), [(0, {"train"}), (1, {"held_out"})])
def test_nothing_or_everything_can_be_held_out(tmp_path, held_out, sides):
    report = load(tmp_path, numbered(0, 10), numbered(20, 30), held_out=held_out)
    assert {r.split for r in report.rows} == sides


def test_a_single_task_is_trained_on(tmp_path):
    for seed in range(20):
        report = load(tmp_path, ["a"], ["b"], seed=seed, held_out=0.9)
        assert {r.split for r in report.rows} == {"train"}


def test_a_limit_draws_by_seed_and_adding_rows_replaces_few(tmp_path):
    def drawn(texts, seed):
        return set(splits(load(tmp_path, texts, ["x"], limit=50, seed=seed))) - {"x"}

    before, after = drawn(numbered(0, 500), 1), drawn(numbered(0, 510)[::-1], 1)
    assert len(before) == len(after) == 50
    assert len(before & after) >= 40
    assert not before <= set(numbered(0, 60))
    assert before != drawn(numbered(0, 500), 2)
    report = load(tmp_path, ["a", "a", "b"], ["x"], limit=2)
    assert report.counts["beyond_limit"] == 0


def test_rows_with_a_split_of_their_own_take_near_duplicates_with_them(tmp_path, monkeypatch):
    text = SENTENCE.format("paint a house")
    given = [row(text, split="held_out", task="t1"), row("other words entirely", task="t2")]

    class GivenReader(Reader):
        own_split = True

        def records(self):
            raise NotImplementedError

        def fingerprint(self, purpose):
            return "v1"

        def prompts(self, kind, *, seed):
            return given

    monkeypatch.setitem(READERS, "given", GivenReader)
    near = [text + ", friend", text, "other words entirely!"]
    report = load(tmp_path, [*near, *numbered(0, 20)], [text.upper(), "x"], more=["given:"])
    assert list(report.rows[:2]) == given
    found = {r.messages[0].content: (r.task, r.split) for r in report.rows[2:]}
    assert found[near[0]] == ("t1", "held_out")
    assert found[text.upper()] == ("t1", "held_out")
    assert found["other words entirely!"] == ("t2", "train")
    assert text not in found
    assert report.counts["duplicates"] == 1


def test_between_two_sides_a_near_duplicate_is_held_out():
    given = [row("same words here", task="a"), row("Same words here", split="held_out", task="b")]
    assert [r.task for r in with_tasks([row("SAME words here")], given, 0.8)] == ["b"]


def test_prompts_of_the_playground_stay_as_they_are(tmp_path):
    settings = PromptsSettings(red_team=["playground:red_team"], helpful=["playground:helpful"])
    report = load_prompts(settings, seed=3, base_dir=tmp_path)
    made = [row for kind in ("red_team", "helpful") for row in playground_prompts(kind, seed=3)]
    assert list(report.rows) == made
    assert report.counts == {"prompts": 0, "tasks": 0}


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=20)


@given(TEXTS)
def test_every_row_read_is_kept_once_or_counted(tmp_path_factory, texts):
    report = load(tmp_path_factory.mktemp("p"), [*texts, "one of its own"], ["quite another"])
    keys = [r.key for r in report.rows]
    assert len(keys) == len(set(keys)) == report.counts["prompts"]
    assert sum(report.counts[k] for k in ("empty", "duplicates", "prompts")) == len(texts) + 2
