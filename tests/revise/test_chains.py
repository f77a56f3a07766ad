"""Critique-revision chains: what is asked, what is kept, what is never invented."""

import asyncio
import pickle
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cai.constitution import Constitution, Principle
from cai.constitution.schema import CritiqueExample, FewShot
from cai.data.conversation import Message, to_transcript, user
from cai.data.records import PromptRow
from cai.engines import PromptTooLong, Unanswered
from cai.engines.scripted import ScriptedEngine
from cai.revise import Reviser
from cai.settings import ReviseSettings
from cai.templates import critique_prompt, revision_prompt

PRIVACY = Principle(id="privacy", critique="Say what is private.", revision="Make it public.")
THEFT = Principle(id="theft", critique="Say what is stolen.", revision="Give it back.")
CONSTITUTION = Constitution(name="test", principles=(PRIVACY, THEFT))


QUESTION = user("Where does Ann live?")


def prompt(messages=QUESTION, kind="red_team"):
    return PromptRow(
        key="p1", kind=kind, split="train", messages=messages, source="test", task="ann"
    )


def item_for(row, settings=None, constitution=CONSTITUTION, seed=0):
    reviser = Reviser(constitution, settings or ReviseSettings(rounds=2), seed)
    return reviser.item(row, ScriptedEngine(by_speaker))


def revise(answer, row=None, settings=None):
    asked = []

    def generate(request):
        asked.append(request)
        return answer(request)

    reviser = Reviser(CONSTITUTION, settings or ReviseSettings(rounds=2))
    engine = ScriptedEngine(generate)
    return asyncio.run(reviser.row(reviser.item(row or prompt(), engine), engine)), asked


def by_speaker(request):
    return {"Assistant": "response", "Critique": "critique", "Revision": "revision"}[
        request.prompt.speaker
    ]


def test_each_round_criticises_the_latest_revision():
    count = iter(range(100))
    row, asked = revise(lambda request: f"{by_speaker(request)} {next(count)}")
    assert row.response == "response 0"
    assert [(s.critique, s.revision) for s in row.steps] == [
        ("critique 1", "revision 2"),
        ("critique 3", "revision 4"),
    ]
    second_critique = to_transcript(asked[3].prompt.messages)
    assert "revision 2" in second_critique
    assert "response 0" not in second_critique


def test_the_revision_sees_its_critique_and_its_principle():
    row, asked = revise(by_speaker)
    for step, request in zip(row.steps, (asked[2], asked[4]), strict=True):
        principle = {"privacy": PRIVACY, "theft": THEFT}[step.principle.id]
        text = to_transcript(request.prompt.messages)
        assert text.endswith(f"Critique: critique\n\nRevision Request: {principle.revision}")
        assert f"Critique Request: {principle.critique}" in text


def test_direct_revision_asks_for_no_critique():
    row, asked = revise(by_speaker, settings=ReviseSettings(rounds=2, critique=False))
    assert [request.prompt.speaker for request in asked] == ["Assistant", "Revision", "Revision"]
    assert [step.critique for step in row.steps] == [None, None]
    assert "Critique" not in to_transcript(asked[1].prompt.messages)


def test_helpful_prompts_are_answered_and_not_revised():
    row, asked = revise(by_speaker, prompt(kind="helpful"))
    assert len(asked) == 1
    assert row.steps == []


def test_system_prompt_and_earlier_turns_are_carried_to_every_question():
    messages = (
        Message(role="system", content="You are terse."),
        Message(role="user", content="Hello."),
        Message(role="assistant", content="Hi."),
        Message(role="user", content="Where does Ann live?"),
    )
    row, asked = revise(by_speaker, prompt(messages))
    assert row.messages == messages
    for request in asked:
        assert request.prompt.messages[:4] == messages


def test_thinking_is_removed_before_it_can_be_criticised():
    row, asked = revise(lambda request: f"<think>secret plan</think>{by_speaker(request)}")
    assert row.response == "response"
    assert all("secret" not in to_transcript(request.prompt.messages) for request in asked)


def test_an_answer_of_nothing_but_thoughts_is_a_state_and_keeps_the_steps_before():
    def answer(request):
        late = by_speaker(request) == "critique" and "revision" in to_transcript(
            request.prompt.messages
        )
        return "<think>hm" if late else by_speaker(request)

    row, _ = revise(answer)
    assert row.state == "unparsed"
    assert row.error == "the model's critique 1 is empty"
    assert len(row.steps) == 1


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_a_server_that_gives_no_answer_is_a_state_and_keeps_the_steps_before(state):
    def answer(request):
        said = by_speaker(request)
        return Unanswered(state, "the filter") if said == "revision" else said

    row, _ = revise(answer)
    assert (row.state, row.error, row.response, row.steps) == (state, "the filter", "response", [])


def test_a_prompt_that_does_not_fit_is_a_state():
    row, _ = revise(lambda request: PromptTooLong("900 tokens, context 512"))
    assert (row.state, row.error) == ("too_long", "900 tokens, context 512")


def test_every_question_has_its_own_seed():
    _, asked = revise(by_speaker)
    assert len({request.seed for request in asked}) == len(asked) == 5


def test_rewording_a_principle_changes_only_chains_that_drew_it():
    reworded = PRIVACY.model_copy(update={"critique": "What is private here?"})
    edited = Constitution(name="test", principles=(reworded, THEFT))
    settings = ReviseSettings(rounds=1)
    changed = 0
    for number in range(200):
        row = prompt().model_copy(update={"key": f"p{number}"})
        before, after = item_for(row, settings), item_for(row, settings, edited)
        drew_it = before.inputs[1][0].id == "privacy"
        assert before.key == after.key
        assert (before.fingerprint != after.fingerprint) == drew_it
        changed += drew_it
    assert 60 < changed < 140


def test_editing_a_comparison_leaves_chains_alone():
    edited = PRIVACY.model_copy(update={"comparison": "Which is more private?"})
    other = Constitution(name="test", principles=(edited, THEFT))
    assert item_for(prompt()).fingerprint == item_for(prompt(), None, other).fingerprint


def test_a_chain_is_named_by_the_questions_it_asks(monkeypatch):
    """Other turns around what is said make other chains, under the same keys."""
    before, helpful = item_for(prompt()), item_for(prompt(kind="helpful"))
    monkeypatch.setattr("cai.revise.chains.critique_prompt", with_other_words(critique_prompt))
    after = item_for(prompt())
    assert after.key == before.key
    assert after.fingerprint != before.fingerprint
    assert item_for(prompt(kind="helpful")) == helpful
    monkeypatch.undo()
    monkeypatch.setattr("cai.revise.chains.revision_prompt", with_other_words(revision_prompt))
    assert item_for(prompt()).fingerprint not in (before.fingerprint, after.fingerprint)


def with_other_words(ask):
    def changed(*args, **named):
        return replace(ask(*args, **named), speaker="Other")

    return changed


def test_a_chain_is_named_by_its_settings_and_examples():
    example = CritiqueExample(
        messages=user("q"),
        response="r",
        critique_request="c?",
        critique="c",
        revision_request="v?",
        revision="v",
    )
    examples = CONSTITUTION.model_copy(update={"few_shot": FewShot(critique=[example])})
    items = [
        item_for(prompt()),
        item_for(prompt(), seed=1),
        item_for(prompt(), ReviseSettings(rounds=2, critique=False)),
        item_for(prompt(), ReviseSettings(rounds=2, temperature=0.5)),
        item_for(prompt(), constitution=examples),
        item_for(prompt(user("Where does Bob live?"))),
    ]
    assert len({item.fingerprint for item in items}) == len(items)
    assert len({item.key for item in items}) == 1


def test_a_reviser_can_be_sent_to_another_process():
    reviser = Reviser(CONSTITUTION, ReviseSettings(rounds=2), seed=3)
    engine = ScriptedEngine(by_speaker, name="small")
    item = reviser.item(prompt(), engine)
    sent, sent_item = pickle.loads(pickle.dumps((reviser, item)))
    assert (sent, sent_item) == (reviser, item)
    assert sent.item(prompt(), engine) == item
    row = asyncio.run(sent.row(sent_item, engine))
    assert row == asyncio.run(reviser.row(item, engine))
    assert (row.provenance.model, row.provenance.model_fingerprint) == ("small", "scripted")


def test_a_chain_keeps_its_key():
    """Keys seed all draws and name rows on disk, so they must not change with the code."""
    item = Reviser(CONSTITUTION, ReviseSettings(rounds=2), 7).item(prompt(), ScriptedEngine(str), 1)
    assert item.key == "12906d8a9598e2a3"


def test_the_example_prints_a_chain_of_the_shipped_model(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["critique_one_prompt.py"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "critique_one_prompt.py"))
    said = capsys.readouterr().out
    assert said.startswith("response: ")
    assert [said.count(word) for word in ("critique: ", "revision: ")] == [4, 4]


@pytest.mark.parametrize(
    ("order", "few_shot", "shown"),
    [
        ("file", 2, ["privacy 0", "theft 0"]),
        ("principle", 1, ["theft 0"]),
        ("principle", 2, ["theft 0", "theft 1"]),
        ("principle", 5, ["theft 0", "theft 1", "privacy 0", "privacy 1"]),
    ],
)
@pytest.mark.parametrize("asking", ["dialogue", "question"])
def test_examples_of_the_drawn_principle_come_first_if_asked(order, few_shot, shown, asking):
    examples = [
        CritiqueExample(
            messages=user("q"),
            response="r",
            critique_request=str(principle.critique),
            critique=f"{principle.id} {number}",
            revision_request=str(principle.revision),
            revision="v",
        )
        for number in range(2)
        for principle in (PRIVACY, THEFT)
    ]
    only_theft = Constitution(name="test", principles=(THEFT,), few_shot=FewShot(critique=examples))
    settings = ReviseSettings(rounds=1, few_shot=few_shot, few_shot_order=order, asking=asking)
    reviser, engine = Reviser(only_theft, settings), ScriptedEngine(by_speaker_of(asking))
    asyncio.run(reviser.row(reviser.item(prompt(), engine), engine))
    said = [m.content for m in engine.generated[1].prompt.messages if m.role == "assistant"]
    assert [text for text in said if text[-1].isdigit()] == shown


def by_speaker_of(asking):
    return by_speaker if asking == "dialogue" else lambda request: "text"
