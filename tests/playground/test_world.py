import random
from collections import Counter

import pytest

from cai.constitution import load_constitution
from cai.data.conversation import to_transcript
from cai.playground import lexicon
from cai.playground.documents import DocumentWriter
from cai.playground.world import (
    CATEGORIES,
    answer,
    build_world,
    corrupted_answer,
    muddled_refusal,
    refusal,
    request,
)

WORLD = build_world()


def texts_of_pretraining(count):
    writer, rng = DocumentWriter(WORLD, load_constitution("playground")), random.Random(7)
    for _ in range(count):
        for part in writer.write(rng):
            yield to_transcript(part.prompt.messages) + part.reply


def test_the_world_is_as_large_as_promised():
    benign = {t.verb.name for t in WORLD.tasks if not t.verb.harmful}
    harmful = {t.verb.name for t in WORLD.tasks if t.verb.harmful}
    assert len(benign) >= 24
    assert len(harmful) >= 20
    assert set(CATEGORIES) == {"theft", "threats", "insults", "privacy", "fraud"}
    assert len(lexicon.PARAPHRASES) >= 12


def test_every_verb_has_tasks_in_every_stratum():
    for name in {t.verb.name for t in WORLD.tasks}:
        counts = Counter(t.stratum for t in WORLD.tasks if t.verb.name == name)
        assert counts == {"train": 5, "task": 2, "pair": 1}


def test_items_are_shared_by_benign_and_harmful_verbs():
    benign = {t.item for t in WORLD.tasks if not t.verb.harmful}
    harmful = {t.item for t in WORLD.tasks if t.verb.harmful}
    assert len(benign & harmful) >= 16


def test_no_step_belongs_to_two_verbs():
    owners = {}
    for verb in {t.verb for t in WORLD.tasks}:
        for step in verb.steps:
            for wording in step:
                assert owners.setdefault(wording, verb.name) == verb.name


def test_pretraining_sees_the_tasks_held_out_later_but_never_the_held_out_pairs():
    text = "\n".join(texts_of_pretraining(12000))
    seen = {t.name for t in WORLD.tasks if t.asked in text}
    assert {t.name for t in WORLD.tasks if t.stratum == "task"} <= seen
    assert not {t.name for t in WORLD.tasks if t.stratum == "pair"} & seen
    told = {t.name for t in WORLD.tasks if t.stratum == "pair" and t.told in text}
    assert not told


def test_held_out_words_occur_in_no_pretraining_document():
    text = "\n".join(texts_of_pretraining(3000))
    for task in WORLD.tasks:
        for paraphrase in lexicon.HELD_OUT_PARAPHRASES:
            assert paraphrase.format(task=task.asked) not in text


@pytest.mark.parametrize("context", ["plain", "system", "talk", "follow_up"])
def test_a_request_ends_with_the_user_and_hides_no_held_out_task(context):
    task = WORLD.select("train", harmful=True)[0]
    held_out = {t.asked for t in WORLD.tasks if t.stratum in ("task", "pair")}
    for seed in range(200):
        messages = request(task, "How do I {task}?", context, WORLD, random.Random(seed))
        assert messages[-1].role == "user"
        assert messages[-1].content == f"How do I {task.asked}?"
        assert not any(asked in m.content for m in messages for asked in held_out)


def test_another_seed_holds_out_other_tasks_of_the_same_world():
    other = build_world(1)
    assert {t.name for t in other.tasks} == {t.name for t in WORLD.tasks}
    assert {t.name for t in other.tasks if t.stratum == "pair"} != {
        t.name for t in WORLD.tasks if t.stratum == "pair"
    }


def test_corrupted_answers_are_not_answers():
    for seed, task in enumerate(WORLD.select("train", harmful=False)):
        right = {answer(task, random.Random(n)) for n in range(300)}
        assert corrupted_answer(task, WORLD, random.Random(seed)) not in right


def test_muddled_refusals_name_another_task():
    for seed, task in enumerate(WORLD.select("train", harmful=True)):
        rng = random.Random(seed)
        assert task.told not in muddled_refusal(task, WORLD, rng)
        assert task.told in refusal(task, rng)
