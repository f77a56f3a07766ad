"""Scripted feedback models that judge by letters, for the tests of rewards by principles."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.engines import ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.ppo import PrincipleReward
from cai.ppo.rewards import Samples
from cai.settings import RewardSettings

CONSTITUTION = Constitution(
    name="letters",
    principles=(
        Principle(id="a", comparison="Choose by the letter a.", weight=2.0),
        Principle(id="e", comparison="Choose by the letter e."),
        Principle(id="o", critique="Is there an o?", revision="Remove it."),
    ),
)
Scores = Callable[[ScoreRequest], Sequence[float] | Exception]


def shown(text: str) -> list[str]:
    """The responses of a question, in the order of their letters."""
    return [part.strip() for part in re.findall(r"\([A-I]\) (.*?)\n", text + "\n")]


def asked(request: ScoreRequest) -> tuple[str, list[str]]:
    """The letter that a question is about, and the responses that it shows."""
    text = request.prompt.messages[-1].content
    return text.split("by the letter ")[1][0], shown(text.split("by the letter ")[0])


def count(request: ScoreRequest) -> list[float]:
    """Log-probabilities that rise by one for each such letter, with a bias to what comes first."""
    letter, responses = asked(request)
    odds = [text.count(letter) - 0.7 * place for place, text in enumerate(responses)]
    return log_softmax(odds)


def both_orders(odds: float, bias: float = 0.7) -> float:
    """Log-odds of the mean probability of both orders of asking."""
    p = sum(1 / (1 + math.exp(-odds - b)) for b in (bias, -bias)) / 2
    return math.log(p / (1 - p))


def log_softmax(odds: Sequence[float]) -> list[float]:
    total = math.log(sum(map(math.exp, odds)))
    return [x - total for x in odds]


def reward_of(score: Scores = count, **changes: Any) -> PrincipleReward:
    engine = ScriptedEngine(lambda _: "Fine. Clear.", score)
    settings = RewardSettings.model_validate({"principles": ["a", "e"], "clamp": 1e-6, **changes})
    return PrincipleReward(CONSTITUTION, engine, settings, seed=1)


def scored(reward: PrincipleReward) -> list[ScoreRequest]:
    engine = reward.feedback.engine
    assert isinstance(engine, ScriptedEngine)
    return engine.scored


def group(*responses: str, against: str | None = None) -> Samples:
    return Samples(user("How?"), responses, against)
