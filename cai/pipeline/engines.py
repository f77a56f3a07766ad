"""The engines of a stage: each opened at its first request, at most once, and closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from cai.engines import Completion, Engine, GenerateRequest, ScoreRequest, Scores, Usage
from cai.settings import ModelSettings

T = TypeVar("T")

Fingerprint = Callable[[ModelSettings], str]
"""Returns the fingerprint of a model's weights and format."""


class LazyEngine:
    """Opens a model on its first request, so that a stage with nothing to do loads nothing."""

    def __init__(self, settings: ModelSettings, fingerprint: str) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._closed = False

        self.name = settings.path
        self.fingerprint = fingerprint

    @property
    def usage(self) -> Usage:
        """The usage of the engine so far."""
        return self._engine.usage if self._engine else Usage()

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt."""
        return await self._opened().generate(request)

    async def score(self, request: ScoreRequest) -> Scores:
        """Score options."""
        return await self._opened().score(request)

    async def close(self) -> None:
        """Free the memory; the engine cannot be used again."""
        if self._engine and not self._closed:
            await self._engine.close()
        self._closed = True

    def _opened(self) -> Engine:
        if self._closed:
            raise RuntimeError(f"the stage has closed the engine of {self._settings.path} already")
        if self._engine is None:
            from cai.engines.opening import open_engine

            self._engine = open_engine(self._settings)
        return self._engine


class Engines:
    """The engines of a stage, one for each model, and the event loop of them all.

    Opening may take a minute (vLLM), and two models may not fit into memory together. So a stage
    asks a model everything in a row, and then says which models it still needs (`keep`).
    """

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._engines: dict[ModelSettings, LazyEngine] = {}
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._runner:
            self.keep()

    def __getitem__(self, model: ModelSettings) -> LazyEngine:
        """Return the engine of a model; it is opened at its first request."""
        if model not in self._engines:
            self._engines[model] = LazyEngine(model, self._fingerprint(model))
        return self._engines[model]

    @property
    def usage(self) -> Usage:
        """The usage of all engines so far."""
        return sum((engine.usage for engine in self._engines.values()), start=Usage())

    def tokens(self) -> int:
        """Count the tokens that went in and came out so far."""
        usage = self.usage
        return usage.tokens_in + usage.tokens_out

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the stage until it ends."""
        return self._runner.run(work)

    def keep(self, *models: ModelSettings | None) -> None:
        """Close all engines except those of these models."""

        async def close() -> None:
            for model, engine in self._engines.items():
                if model not in models:
                    await engine.close()

        self.run(close())
