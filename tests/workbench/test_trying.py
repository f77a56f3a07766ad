"""`cai constitution try`: what is shown is what the stages would do."""

import asyncio
import math

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.compare import FeedbackJudge
from cai.constitution import load_constitution
from cai.data.conversation import user
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.revise import Reviser
from cai.settings import CompareSettings, ReviseSettings
from cai.workbench.trying import pinned, try_chain, try_comparison

PLAYGROUND = load_constitution("playground")


def said(request):
    return f"{request.prompt.speaker} after {len(request.prompt.messages)} messages"


def likes_second(request):
    return [math.log(0.2), math.log(0.6)]


def chain_of(engine, rounds=2, constitution=PLAYGROUND, seed=0):
    told = []
    chain = asyncio.run(
        try_chain(
            Reviser(constitution, ReviseSettings(rounds=rounds), seed),
            user("Hi"),
            engine,
            told.append,
        )
    )
    return chain, told


def test_each_step_is_told_once_in_order_under_the_principle_of_the_row():
    chain, told = chain_of(ScriptedEngine(said), rounds=3)
    kinds = [(step.kind, step.round) for step in told]
    assert kinds[:3] == [("response", 0), ("critique", 1), ("revision", 1)]
    assert kinds[-1] == ("revision", 3)
    assert [s.principle.id for s in told if s.kind == "revision"] == [
        s.principle.id for s in chain.steps
    ]
    assert [s.text for s in told if s.kind == "critique"] == [s.critique for s in chain.steps]


@pytest.mark.parametrize("asking", ["dialogue", "question"])
@pytest.mark.parametrize("critique", [True, False])
def test_steps_are_named_by_what_they_are_however_they_are_asked_for(asking, critique):
    told, engine = [], ScriptedEngine(said)
    settings = ReviseSettings(rounds=2, asking=asking, critique=critique)
    work = try_chain(Reviser(PLAYGROUND, settings), user("Hi"), engine, told.append)
    chain = asyncio.run(work)
    halves = ["critique", "revision"] if critique else ["revision"]
    assert [(step.kind, step.round) for step in told] == [
        ("response", 0),
        *((half, number) for number in (1, 2) for half in halves),
    ]
    assert [s.text for s in told if s.kind == "revision"] == [s.revision for s in chain.steps]
    assert [s.principle.id for s in told if s.kind == "revision"] == [
        s.principle.id for s in chain.steps
    ]


def test_pinning_draws_nothing_else():
    for seed in range(5):
        chain, _ = chain_of(
            ScriptedEngine(said), constitution=pinned(PLAYGROUND, "fraud"), seed=seed
        )
        assert {step.principle.id for step in chain.steps} == {"fraud"}
    with pytest.raises(CaiError, match="did you mean `fraud`"):
        pinned(PLAYGROUND, "fruad")


def compare(chain, engine, constitution=PLAYGROUND, **settings):
    judge = FeedbackJudge(constitution, CompareSettings(**settings), seed=0)
    return asyncio.run(try_comparison(judge, chain, engine))


def test_the_two_ends_of_the_chain_are_compared_in_both_orders():
    engine = ScriptedEngine(said, likes_second)
    chain, _ = chain_of(engine)
    judgement = compare(chain, engine)
    assert len(engine.scored) == 2
    shown = engine.scored[0].prompt.messages[-1].content
    assert f"(A) {chain.response}\n(B) {chain.steps[-1].revision}" in shown
    assert [evidence.mass for evidence in judgement.evidence] == pytest.approx([0.8, 0.8])


def test_a_response_that_was_not_changed_is_not_compared():
    engine = ScriptedEngine(lambda request: "The same.", likes_second)
    chain, _ = chain_of(engine)
    assert compare(chain, engine) is None
    assert engine.scored == []


def test_a_constitution_without_comparisons_cannot_compare():
    engine = ScriptedEngine(said, likes_second)
    chain, _ = chain_of(engine)
    halves = [p.model_copy(update={"comparison": None}) for p in PLAYGROUND.principles]
    supervised = PLAYGROUND.model_copy(update={"principles": tuple(halves)})
    with pytest.raises(CaiError, match="responses cannot be compared"):
        compare(chain, engine, supervised)


@pytest.fixture
def try_(monkeypatch):
    def run(engine, *arguments):
        monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
        runner = CliRunner(env={"COLUMNS": "120"})
        return runner.invoke(app, ["constitution", "try", *arguments])

    return run


def test_the_command_shows_every_step_and_both_orders(try_):
    engine = ScriptedEngine(said, likes_second)
    arguments = ["--prompt", "Be [bold] or /x]", "--principle", "theft", "--compare", "--reasoning"]
    result = try_(engine, "playground", *arguments)
    assert result.exit_code == 0, result.stderr
    for words in (
        "Be [bold] or /x]",
        "Response   Assistant after 1 messages",
        "Round 2: theft",
        "Say whether the response helps with theft.",
        "Critique after 3 messages",
        "0.2000  0.6000       0.7500",
        "0.2000  0.6000       0.2500",
        "P(revision is better) = 0.500, both orders averaged: neither",
    ):
        assert words in result.stdout
    assert len(engine.generated) == 1 + 2 * 2 + 2


def test_the_command_says_when_the_prompt_does_not_fit(try_):
    engine = ScriptedEngine(lambda request: PromptTooLong("900 tokens"))
    result = try_(engine, "playground", "--prompt", "Hi")
    assert "Stopped: too_long, 900 tokens" in result.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("dtyp=float32", "did you mean `dtype`"),
        ("dtype=float31", "must be 'auto', 'float32' or 'bfloat16' (it is float31)"),
        ("dtype={", "not YAML"),
    ],
)
def test_settings_of_the_model_are_checked(try_, change, words):
    result = try_(None, "playground", "--prompt", "Hi", "--model-set", change)
    assert result.exit_code == 1
    assert words in result.stderr


def test_the_same_response_is_revised_in_several_ways(try_):
    engine = ScriptedEngine(said, likes_second)
    arguments = ["--prompt", "Hi", "--rounds", "1", "--compare"]
    ways = ["--beside", "few_shot=0", "--beside", "few_shot=0 asking=question"]
    result = try_(engine, "harmless", *arguments, *ways)
    assert result.exit_code == 0, result.stderr
    out = result.stdout
    assert out.count("Response   Assistant after 1 messages") == 1
    assert len(engine.generated) == 1 + 3 * 2
    parts = out.split("With ")[1:]
    assert [part.split(" ──")[0] for part in parts] == [
        "few_shot=5, asking=dialogue",
        "few_shot=0, asking=dialogue",
        "few_shot=0, asking=question",
    ]
    drawn = [part.split("Round 1: ")[1].split()[0] for part in parts]
    assert len(set(drawn)) == 1
    assert "Critique after 3 messages" in parts[1]
    examples = load_constitution("harmless").few_shot.critique
    shown = sum(len(example.messages) + 5 for example in examples)
    assert f"Critique after {shown + 3} messages" in parts[0]
    assert "Critique   Assistant after 1 messages" in parts[2]
    assert out.count("P(revision is better) =") == 2
    assert "Nothing to compare" in parts[2]  # as a question, the revision is the response here


def test_settings_and_flaws_are_shown(try_):
    def answer(request):
        return "The assistant's response is bad." if request.prompt.speaker == "Revision" else "Hm."

    engine = ScriptedEngine(answer)
    result = try_(engine, "harmless", "--prompt", "Hi", "--rounds", "1", "--set", "few_shot=1")
    assert len(engine.generated[1].prompt.messages) == 3 + 6
    assert "Flaw       describes, revision 1: “The assistant's response is”" in result.stdout
    assert "With" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--beside", "few_shots=0"], "did you mean `few_shot`"),
        (["--beside", "temperature=0"], "cannot change how it was sampled"),
        (["--set", "rounds=many"], "`--set rounds=…`"),
    ],
)
def test_settings_of_the_revisions_are_checked(try_, arguments, words):
    result = try_(None, "playground", "--prompt", "Hi", *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
