"""Engines that let a person see what passes between cai and a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cai.data.records import Provenance
from cai.engines import Completion, Engine, GenerateRequest, ScoreRequest, Scores, Usage
from cai.errors import CaiError


@dataclass(frozen=True)
class Exchange:
    """One request to a model, and what came back."""

    request: GenerateRequest | ScoreRequest
    answer: Completion | Scores


class Witness:
    """An engine that passes everything on to another, and tells of it."""

    def __init__(self, engine: Engine, tell: Callable[[Exchange], None]) -> None:
        """Watch an engine.

        Args:
            engine: Who answers.
            tell: Called after each answer.
        """
        self._engine = engine
        self._tell = tell

    @property
    def usage(self) -> Usage:
        """The watched engine's."""
        return self._engine.usage

    @property
    def name(self) -> str:
        """The watched engine's."""
        return self._engine.name

    @property
    def fingerprint(self) -> str:
        """The watched engine's."""
        return self._engine.fingerprint

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt, and tell."""
        completion = await self._engine.generate(request)
        self._tell(Exchange(request, completion))
        return completion

    async def score(self, request: ScoreRequest) -> Scores:
        """Score options, and tell."""
        scores = await self._engine.score(request)
        self._tell(Exchange(request, scores))
        return scores

    async def close(self) -> None:
        """Close the watched engine."""
        await self._engine.close()


class Replay:
    """An engine that says again, in order, what a stored row says it said.

    It has no model. Put behind a `Witness`, it shows the prompts of a row exactly as the row
    function builds them.
    """

    def __init__(
        self,
        provenance: Provenance,
        texts: Iterable[str] = (),
        scores: Iterable[tuple[float, ...]] = (),
    ) -> None:
        """Take what will be said.

        Args:
            provenance: The model that said it.
            texts: The completions.
            scores: The log-probabilities of the options, in nats.
        """
        self._provenance = provenance
        self._texts = iter(texts)
        self._scores = iter(scores)

    @property
    def usage(self) -> Usage:
        """Nothing: no model works here."""
        return Usage()

    @property
    def name(self) -> str:
        """The model's that said it."""
        return self._provenance.model

    @property
    def fingerprint(self) -> str:
        """The model's that said it."""
        return self._provenance.model_fingerprint

    async def generate(self, request: GenerateRequest) -> Completion:
        """Say the next text.

        Raises:
            EndOfReplayError: The row has no more.
        """
        try:
            text = next(self._texts)
        except StopIteration:
            raise EndOfReplayError(request) from None
        return Completion(text, (), (), "stop", self.fingerprint)

    async def score(self, request: ScoreRequest) -> Scores:
        """Give the next scores.

        Raises:
            EndOfReplayError: The row has no more.
        """
        try:
            return Scores(next(self._scores), self.fingerprint)
        except StopIteration:
            raise EndOfReplayError(request) from None

    async def close(self) -> None:
        """Do nothing."""


class EndOfReplayError(CaiError):
    """The model was asked, but its answer is not in the row."""

    def __init__(self, request: GenerateRequest | ScoreRequest) -> None:
        super().__init__("the row ends here")
        self.request = request
