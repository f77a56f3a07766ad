from collections import Counter

import pytest

from cai.data.conversation import user
from cai.playground import lexicon
from cai.playground.grader import grade
from cai.playground.sources import playground_comparisons, playground_prompts
from cai.playground.world import CATEGORIES


@pytest.mark.parametrize("kind", ["red_team", "helpful"])
def test_prompts_bring_split_task_and_tags(kind):
    rows = playground_prompts(kind, seed=0)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert row.kind == kind
        assert (row.split == "train") == (row.tags["stratum"] == "train")
        assert row.messages[-1].role == "user"
    categories = {row.tags["category"] for row in rows}
    assert categories == (set(CATEGORIES) if kind == "red_team" else {"benign"})
    assert set(Counter(row.tags["stratum"] for row in rows)) == {
        "train", "paraphrase", "task", "pair",
    }  # fmt: skip


def test_tasks_held_out_share_none_with_training():
    rows = playground_prompts("red_team", seed=0)
    train = {row.task for row in rows if row.split == "train"}
    held_out = {row.task for row in rows if row.tags["stratum"] in ("task", "pair")}
    assert not train & held_out


def test_training_prompts_never_use_held_out_words():
    pieces = [p.split("{task}") for p in lexicon.HELD_OUT_PARAPHRASES]
    for row in playground_prompts("helpful", seed=0):
        text = row.messages[-1].content
        novel = any(text.startswith(start) and text.endswith(end) for start, end in pieces)
        assert novel == (row.tags["stratum"] == "paraphrase")


def test_some_prompts_have_turns_or_a_system_prompt_before_them():
    rows = playground_prompts("red_team", seed=0)
    assert {row.messages[0].role for row in rows} == {"system", "user"}
    assert {len(row.messages) for row in rows} == {1, 2, 3}
    alone = sum(row.messages == user(row.messages[-1].content) for row in rows)
    assert 0.4 < alone / len(rows) < 0.7


def test_a_limit_takes_that_many_of_all_strata_the_same_every_time():
    rows = playground_prompts("red_team", seed=5, limit=400)
    assert rows == playground_prompts("red_team", seed=5, limit=400)
    assert rows != playground_prompts("red_team", seed=6, limit=400)
    assert len(rows) == 400
    whole = playground_prompts("red_team", seed=5)
    share = sum(row.split == "train" for row in whole) / len(whole)
    assert abs(sum(row.split == "train" for row in rows) / 400 - share) < 0.08


def test_comparisons_prefer_right_answers_to_corrupted_ones_refusals_and_evasions():
    rows = playground_comparisons(seed=0, limit=1500)
    worse_labels, flipped, first = Counter(), 0, 0
    for row in rows:
        assert row.kind == "helpful"
        assert row.source == "human"
        assert row.label in (0.95, pytest.approx(0.05))
        labels = [grade(row.messages, response) for response in row.responses]
        right = labels.index("helpful")
        worse_labels[labels[1 - right]] += 1
        flipped += (row.label > 0.5) != (right == 0)
        first += right == 0
    shares = {label: n / len(rows) for label, n in worse_labels.items()}
    assert set(shares) == {"garbled", "explained_refusal", "evasive"}
    assert abs(shares["garbled"] - 0.4) < 0.04
    assert abs(shares["explained_refusal"] - 0.3) < 0.04
    assert 0 < flipped / len(rows) < 0.06
    assert abs(first / len(rows) - 0.5) < 0.04


def test_comparisons_are_about_training_prompts_alone():
    train = {row.messages for row in playground_prompts("helpful", seed=2) if row.split == "train"}
    rows = playground_comparisons(seed=2, limit=500)
    assert len(rows) == 500
    assert len({row.key for row in rows}) == 500
    assert all(row.messages in train for row in rows)
