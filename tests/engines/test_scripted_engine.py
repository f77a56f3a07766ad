"""The engine for tests keeps the protocol."""

import asyncio

import pytest

from cai.data.conversation import Prompt, user
from cai.engines import GenerateRequest, PromptTooLong, ScoreRequest
from cai.engines.scripted import ScriptedEngine

ASK = GenerateRequest(Prompt(user("hi")), seed=1, max_tokens=5)
QUESTION = ScoreRequest(Prompt(user("hi")), (" (A)", " (B)"))


def test_says_scores_and_counts():
    engine = ScriptedEngine(lambda r: f"seed {r.seed}", lambda r: [-1.0] * len(r.options))
    assert asyncio.run(engine.generate(ASK)).text == "seed 1"
    assert asyncio.run(engine.score(QUESTION)).logprobs == (-1.0, -1.0)
    assert (engine.generated, engine.scored) == ([ASK], [QUESTION])
    assert engine.usage.engine_calls == 2


def test_raises_what_the_script_returns():
    engine = ScriptedEngine(lambda _: PromptTooLong("long"), lambda _: ValueError("no"))
    with pytest.raises(PromptTooLong):
        asyncio.run(engine.generate(ASK))
    with pytest.raises(ValueError, match="no"):
        asyncio.run(engine.score(QUESTION))


def test_a_script_without_scores_says_so():
    with pytest.raises(NotImplementedError):
        asyncio.run(ScriptedEngine(lambda _: "").score(QUESTION))
