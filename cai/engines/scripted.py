"""An engine that says what a test or a demonstration tells it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cai.engines import Completion, GenerateRequest, ScoreRequest, Scores, Usage

FINGERPRINT = "scripted"


class ScriptedEngine:
    """Answers with functions; an exception that they return is raised to the one who asked."""

    def __init__(
        self,
        generate: Callable[[GenerateRequest], str | Exception],
        score: Callable[[ScoreRequest], Sequence[float] | Exception] | None = None,
        *,
        name: str = "scripted",
    ) -> None:
        """Script the engine.

        Args:
            generate: The text that completes a request.
            score: The log-probability of each option; None where nothing is scored.
            name: What rows call the model.
        """
        self.usage = Usage()
        self.name = name
        self.generated: list[GenerateRequest] = []
        self.scored: list[ScoreRequest] = []
        self._generate = generate
        self._score = score

    @property
    def fingerprint(self) -> str:
        """The same for every script."""
        return FINGERPRINT

    async def generate(self, request: GenerateRequest) -> Completion:
        """Return the scripted text, one made-up token per word."""
        self.generated.append(request)
        text = self._generate(request)
        if isinstance(text, Exception):
            raise text
        words = len(text.split())
        self.usage.engine_calls += 1
        self.usage.tokens_out += words
        return Completion(
            text=text,
            token_ids=tuple(range(words)),
            logprobs=(0.0,) * words,
            finish="stop",
            fingerprint=FINGERPRINT,
        )

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the scripted log-probabilities.

        Raises:
            NotImplementedError: The script scores nothing.
        """
        if self._score is None:
            raise NotImplementedError("this script has no `score`")
        self.scored.append(request)
        logprobs = self._score(request)
        if isinstance(logprobs, Exception):
            raise logprobs
        self.usage.engine_calls += 1
        return Scores(logprobs=tuple(logprobs), fingerprint=FINGERPRINT)

    async def close(self) -> None:
        """Do nothing."""
