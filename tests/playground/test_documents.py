import random
from collections import Counter

import pytest

from cai.constitution import load_constitution
from cai.data.conversation import Prompt, user
from cai.models.chat import ChatFormat
from cai.playground import lexicon
from cai.playground.documents import FLAG, USEFULNESS, DocumentWriter, critique_text, is_at_fault
from cai.playground.grader import grade, requested_task
from cai.playground.tokens import VERDICT_WEIGHT, encode, plain_text, train_tokenizer
from cai.playground.world import CATEGORIES, build_world
from cai.templates import OPTIONS, VERDICT, verdict_prompt

WORLD = build_world()
CONSTITUTION = load_constitution("playground")
WRITER = DocumentWriter(WORLD, CONSTITUTION)


@pytest.fixture(scope="module")
def chat():
    rng = random.Random(0)
    return ChatFormat(train_tokenizer(plain_text(WRITER.write(rng)) for _ in range(300)))


def documents(count, kind=WRITER.write):
    rng = random.Random(1)
    return [kind(rng) for _ in range(count)]


def test_the_constitution_has_a_principle_per_category_and_a_light_one_for_usefulness():
    weights = {p.tags[0]: p.weight for p in CONSTITUTION.principles}
    assert weights == {**dict.fromkeys(CATEGORIES, 1.0), USEFULNESS: 0.5}
    assert all(p.critique and p.revision and p.comparison for p in CONSTITUTION.principles)
    assert not any("harmful" in (p.comparison or "") for p in CONSTITUTION.principles)


def test_the_tokenizer_speaks_transcripts_and_pads_apart_from_its_end(chat):
    assert chat.stop_strings
    assert chat.pad_id != chat.turn_end
    ids = chat.prompt_ids(Prompt(user("Hi Ünïcode!  \n\tok")))
    assert chat.tokenizer.decode(ids) == "Human: Hi Ünïcode!  \n\tok\n\nAssistant:"


def test_training_ids_are_those_of_inference(chat):
    for document in documents(300):
        example = encode(document, chat)
        assert len(example.ids) <= 512 - 96
        supervised = Counter()
        for part in document:
            prompt, reply = chat.prompt_ids(part.prompt), chat.completion_ids(part.reply)
            assert example.ids[: len(prompt)] == prompt
            start = len(prompt) - 1
            assert example.targets[start : start + len(reply)] == reply
            assert all(w > 0 for w in example.weights[start : start + len(reply)])
            supervised[len(prompt)] = len(reply)
        assert sum(w > 0 for w in example.weights) == sum(supervised.values())


@pytest.mark.parametrize("kind", [WRITER.reasoned_comparison, WRITER.plain_comparison])
def test_verdicts_are_trained_as_they_are_scored(chat, kind):
    for document in documents(100, kind):
        (part,) = document
        example = encode(document, chat)
        thoughts = part.reply.partition(VERDICT)[0].strip()
        asked = verdict_prompt(part.prompt, thoughts) if VERDICT in part.reply else part.prompt
        prompt = chat.prompt_ids(asked)
        option = next(o for o in OPTIONS if part.reply.endswith(o.strip()))
        following = [*chat.option_ids(option), chat.turn_end]
        assert [*example.ids, chat.turn_end] == [*prompt, *following]
        letters = [
            t for t, w in zip(example.targets, example.weights, strict=True) if w == VERDICT_WEIGHT
        ]
        assert [chat.text([t]) for t in letters] == [option[2]]


def test_a_fair_coin_is_trained_with_both_letters(chat):
    seen = Counter()
    for document in documents(200, WRITER.reasoned_comparison):
        example = encode(document, chat)
        pairs = zip(example.targets, example.others, strict=True)
        differing = [sorted(chat.text([t]) for t in pair) for pair in pairs if pair[0] != pair[1]]
        assert differing == ([["A", "B"]] if document[0].verdict == "either" else [])
        seen[document[0].verdict] += 1
    assert seen["either"] > 80
    assert seen["A"] > 20
    assert seen["B"] > 20


def test_half_of_the_comparisons_are_under_another_category_and_say_so():
    replies = [d[0].reply for d in documents(1000, WRITER.reasoned_comparison)]
    differ = [reply for reply in replies if "They differ." in reply]
    match = [reply for reply in replies if "They match." in reply]
    assert len(differ) >= 500
    assert len(match) >= 250
    for reply in differ:
        about, asked = reply.split("about ")[1:3]
        assert about.split(".")[0] != asked.split(".")[0]
    for reply in match:
        about, asked = reply.split("about ")[1:3]
        assert about.split(".")[0] == asked.split(".")[0]


def test_verdicts_follow_the_principles():
    """Written apart from the ranking: a refusal wins under its category, help under usefulness."""
    for (part,) in documents(800, WRITER.reasoned_comparison):
        text, reply = part.prompt.messages[-1].content, part.reply
        assert "(A)" in text
        assert "(B)" in text
        for harm, refused in (("A", "B"), ("B", "A")):
            said = f"({harm}) helps" in reply and f"({refused}) explains" in reply
            if said and "They match." in reply:
                assert part.verdict == refused
            if said and "It always applies." in reply:
                assert part.verdict == harm


def test_ratings_are_high_for_what_the_principle_wants_and_neutral_when_it_does_not_apply():
    seen = Counter()
    for (part,) in documents(600, WRITER.reasoned_rating):
        rating, said = int(part.reply[-1]), part.reply
        if "They differ." in said:
            assert rating == 4
        elif "The response helps." in said:
            assert rating == (1 if "They match." in said else 7)
        elif "The response explains." in said:
            assert rating == (7 if "They match." in said else 4)
        else:
            assert 1 < rating < 6 or "rambles" in said
        seen[rating] += 1
    assert set(seen) == {1, 2, 3, 4, 5, 7}


def test_some_principles_are_about_nothing_in_the_world_and_always_differ():
    replies = [d[0].reply for d in documents(1000, WRITER.reasoned_comparison)]
    strange = [r for r in replies if any(f"about {topic}." in r for topic in lexicon.IRRELEVANT)]
    assert len(strange) > 60
    assert all("They differ." in reply for reply in strange)


def test_critiques_find_fault_with_harm_under_its_own_category_alone():
    task = next(t for t in WORLD.tasks if t.name == "steal-bike")
    assert critique_text(task, "helps", "theft") == (
        "The principle is about theft. The request is about theft. They match. "
        "The response helps, so it has this problem."
    )
    assert critique_text(task, "helps", "fraud") == (
        "The principle is about fraud. The request is about theft. They differ. "
        "The response has no such problem."
    )
    for kind in ("explains", "evades"):
        assert FLAG not in critique_text(task, kind, "theft")
    assert is_at_fault(task, "evades", USEFULNESS)
    assert not is_at_fault(task, "explains", USEFULNESS)


def test_revisions_mend_what_the_critique_finds_and_keep_the_rest():
    kept = mended = 0
    for critique, revision in documents(800, WRITER.chain):
        messages = critique.prompt.messages
        request, response = messages[:-2], messages[-2].content
        if FLAG not in critique.reply:
            assert revision.reply == response
            kept += 1
            continue
        wanted = "explained_refusal" if requested_task(request).verb.harmful else "helpful"
        assert grade(request, revision.reply) == wanted
        mended += 1
    assert kept > mended > 100


def test_the_helpful_only_model_complies_mostly_and_answers_every_benign_request():
    labels = {True: Counter(), False: Counter()}
    for (part,) in documents(1500, WRITER.answering):
        harmful = requested_task(part.prompt.messages).verb.harmful
        labels[harmful][grade(part.prompt.messages, part.reply)] += 1
    assert set(labels[False]) == {"helpful"}
    assert set(labels[True]) == {"harmful", "evasive", "explained_refusal"}
    assert 0.7 < labels[True]["harmful"] / labels[True].total() < 0.82


def test_documents_depend_on_the_seed_alone():
    assert documents(20) == documents(20)
