"""Engines that show the requests to a model and its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cai.data.records import Provenance
from cai.engines import Completion, Engine, GenerateRequest, ScoreRequest, Scores, Usage
from cai.errors import CaiError


@dataclass(frozen=True)
class Exchange:
    """One request to a model, and the answer."""

    request: GenerateRequest | ScoreRequest
    answer: Completion | Scores


class Witness:
    """Passes requests on to another engine, and reports each exchange."""

    def __init__(self, engine: Engine, tell: Callable[[Exchange], None]) -> None:
        """Wrap an engine; `tell` is called after each answer."""
        self.name = engine.name
        self.fingerprint = engine.fingerprint
        self._engine = engine
        self._tell = tell

    @property
    def usage(self) -> Usage:
        """The usage of the engine."""
        return self._engine.usage

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt with the engine."""
        completion = await self._engine.generate(request)
        self._tell(Exchange(request, completion))
        return completion

    async def score(self, request: ScoreRequest) -> Scores:
        """Score options with the engine."""
        scores = await self._engine.score(request)
        self._tell(Exchange(request, scores))
        return scores

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()


class Replay:
    """Returns the answers of a stored row, in order, without a model.

    Inside a `Witness`, it shows the prompts of the row exactly as the row function builds them.
    """

    def __init__(
        self,
        provenance: Provenance,
        texts: Iterable[str] = (),
        scores: Iterable[tuple[float, ...]] = (),
    ) -> None:
        """Take the answers.

        Args:
            provenance: Of the row: the model that gave the answers.
            texts: The completions.
            scores: The log-probabilities of the options, in nats.
        """
        self.usage = Usage()
        self.name = provenance.model
        self.fingerprint = provenance.model_fingerprint
        self._texts = iter(texts)
        self._scores = iter(scores)

    async def generate(self, request: GenerateRequest) -> Completion:
        """Return the next text.

        Raises:
            EndOfReplayError: The row has no more.
        """
        for text in self._texts:
            return Completion(text, (), (), "stop", self.fingerprint)
        raise EndOfReplayError(request)

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the next scores.

        Raises:
            EndOfReplayError: The row has no more.
        """
        for scores in self._scores:
            return Scores(scores, self.fingerprint)
        raise EndOfReplayError(request)

    async def close(self) -> None:
        """Do nothing."""


class EndOfReplayError(CaiError):
    """The row does not have the answer to this request."""

    def __init__(self, request: GenerateRequest | ScoreRequest) -> None:
        super().__init__("the row ends here")
        self.request = request
