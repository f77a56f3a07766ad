"""Best-of-n: sample several responses, give the one that a preference model scores highest."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Protocol

from cai.data.conversation import Conversation, strip_thinking
from cai.data.records import content_hash, derive_seed
from cai.engines import (
    Completion,
    Engine,
    GenerateRequest,
    PromptTooLong,
    ScoreRequest,
    Scores,
    Usage,
)
from cai.errors import CaiError


class Scorer(Protocol):
    """Scores responses, as `PreferenceModel` does."""

    @property
    def context(self) -> int:
        """The longest conversation with a response, in tokens."""
        ...

    def ids(self, messages: Conversation, response: str) -> list[int]:
        """Return the tokens of a conversation with its response."""
        ...

    def score(self, items: list[tuple[Conversation, str]]) -> list[float]:
        """Return one score for each; higher is better."""
        ...


class BestOfEngine:
    """An engine that answers with the best of `n` samples of another one.

    Options are scored by the other engine.
    """

    def __init__(self, engine: Engine, scorer: Scorer, n: int, fingerprint: str) -> None:
        """Take the engine to ask, what scores its responses, and how many it samples."""
        self.name = engine.name
        self.fingerprint = fingerprint
        self._engine = engine
        self._scorer = scorer
        self._n = n

    @property
    def usage(self) -> Usage:
        """The usage of the other engine: all samples count."""
        return self._engine.usage

    async def generate(self, request: GenerateRequest) -> Completion:
        """Return the best of `n` completions; of equal ones, the first.

        A completion that the token limit cut off, or that is empty, is only given if all are.

        Raises:
            PromptTooLong: It does not fit the model, or no response fits the preference model.
            Unanswered: A server gave no answer.
            CaiError: The temperature is 0: all samples would be the same.
        """
        if request.temperature == 0:
            raise CaiError(
                "`best_of` samples several responses, which at temperature 0 are all the same. "
                "Raise the temperature, or leave `best_of` out."
            )
        requests = [
            replace(request, seed=derive_seed(request.seed, "best of", number))
            for number in range(self._n)
        ]
        found = await asyncio.gather(*(self._engine.generate(one) for one in requests))
        texts = [strip_thinking(request.prompt.prefill + one.text) for one in found]
        whole = [i for i in range(self._n) if found[i].finish == "stop" and texts[i]]
        best = self._best(request.prompt.messages, texts, whole) if whole else 0
        return replace(found[best], fingerprint=self.fingerprint)

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the log-probabilities of options under the other engine."""
        return await self._engine.score(request)

    async def close(self) -> None:
        """Close the other engine."""
        await self._engine.close()

    def _best(self, messages: Conversation, texts: list[str], whole: list[int]) -> int:
        scorer = self._scorer
        fitting = [i for i in whole if len(scorer.ids(messages, texts[i])) <= scorer.context]
        if not fitting:
            raise PromptTooLong(
                f"no response fits the preference model's context of {scorer.context} tokens"
            )
        scores = scorer.score([(messages, texts[i]) for i in fitting])
        return fitting[max(range(len(fitting)), key=lambda place: scores[place])]


def kl_bound(n: int) -> float:
    """Return the most by which best-of-n differs from the model that it samples, in nats of KL.

    log n - (n - 1) / n: exact where all responses are different and none has much probability, an
    upper bound otherwise (Beirami et al. 2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def fingerprint_best_of(engine: str, scorer: str, n: int) -> str:
    """Name the answers of best-of-n by the fingerprints of its two models."""
    return content_hash("best of", engine, scorer, n)
