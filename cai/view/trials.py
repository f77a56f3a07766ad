"""Prompts through the constitution, each step told while the next is made."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cai.compare import FeedbackJudge
from cai.constitution import Constitution
from cai.data.conversation import Conversation
from cai.data.records import JudgementRow, Kind
from cai.engines import Engine
from cai.errors import CaiError
from cai.report.browser import vote
from cai.report.truth import Grade, word
from cai.report.wording import shorten, visible
from cai.revise import Reviser
from cai.settings import CompareSettings, ModelSettings, ReviseSettings
from cai.workbench.trying import Step, pinned, try_chain, try_comparison

Event = dict[str, Any]
Tell = Callable[[Event], None]


class Model:
    """The one model in memory: loaded when first needed, used by one page at a time."""

    def __init__(
        self, settings: ModelSettings, open_engine: Callable[[ModelSettings], Engine]
    ) -> None:
        """Name a model without loading it.

        Args:
            settings: Which one, and what runs it.
            open_engine: Loads it; called in a thread.
        """
        self.settings = settings
        self._open = open_engine
        self._loading: asyncio.Task[Engine] | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, tell: Tell) -> AsyncGenerator[Engine]:
        """Wait for the model and hold it; tells `waiting` and `loading` where that takes time.

        Raises:
            CaiError: It cannot be loaded. The next turn tries again.
        """
        if self._turn.locked():
            tell({"event": "waiting"})
        async with self._turn:
            if self._loading is None or not self._loading.done():
                tell({"event": "loading", "model": visible(self.settings.path)})
            yield await self._loaded()

    async def close(self) -> None:
        """Give the memory back."""
        if self._loading is not None:
            with suppress(CaiError):
                await (await self._loaded()).close()

    async def _loaded(self) -> Engine:
        """Return the engine; a load goes on when those who wait for it have gone."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._open, self.settings))
        try:
            return await asyncio.shield(self._loading)
        except Exception:
            self._loading = None
            raise


@dataclass(frozen=True)
class Wish:
    """What to try.

    Attributes:
        constitution: With the edits.
        prompts: What people say, and of which kind it is.
        principle: The one principle to go by, for the halves it has; None to draw as a run does.
        revise: Rounds and sampling.
        compare: How to judge.
        seed: Decides draws and samples.
    """

    constitution: Constitution
    prompts: list[tuple[Kind, Conversation]]
    principle: str | None
    revise: ReviseSettings
    compare: CompareSettings
    seed: int


async def trials(model: Model, wish: Wish, grade: Grade, tell: Tell) -> None:
    """Try all prompts together, and tell of each step, each failure and the end.

    Args:
        model: Who answers, criticises, revises and judges.
        wish: What to try.
        grade: The run's grader, for labels beside the texts.
        tell: Takes the events; those of a prompt have its place as `prompt`.
    """
    try:
        async with model.turn(tell) as engine:
            started = time.perf_counter()
            tell({"event": "started"})
            chosen = wish.constitution
            if wish.principle is not None:
                chosen = pinned(chosen, wish.principle)
            await asyncio.gather(
                *(
                    _trial(engine, wish, chosen, number, grade, tell)
                    for number in range(len(wish.prompts))
                )
            )
            tell({"event": "done", "seconds": round(time.perf_counter() - started, 2)})
    except Exception as error:  # noqa: BLE001 (the page shows it)
        tell({"event": "error", "message": told(error)})


async def _trial(
    engine: Engine,
    wish: Wish,
    chosen: Constitution,
    number: int,
    grade: Grade,
    tell: Tell,
) -> None:
    """Try one prompt under the chosen principles, or any where they lack the half that is asked."""
    kind, messages = wish.prompts[number]

    def step(step: Step) -> None:
        principle = step.principle
        half = "critique" if step.kind == "critique" else "revision"
        tell(
            {
                "event": "step",
                "prompt": number,
                "kind": step.kind,
                "round": step.round,
                "principle": principle and principle.id,
                "asked": principle and shown(str(getattr(principle, half))),
                "text": shown(step.text),
                "label": None
                if step.kind == "critique"
                else _label(word(grade(kind, messages, step.text))),
            }
        )

    constitution = wish.constitution
    try:
        supervised = chosen if chosen.supervised else constitution
        reviser = Reviser(supervised, wish.revise, wish.seed)
        chain = await try_chain(reviser, messages, engine, step)
        if chain.state != "ok":
            raise CaiError(f"Stopped: {chain.state}, {chain.error}")
        if not constitution.comparisons:
            return
        compared = chosen if chosen.comparisons else constitution
        judge = FeedbackJudge(compared, wish.compare, wish.seed)
        judgement = await try_comparison(judge, chain, engine)
        tell({"event": "verdict", "prompt": number, **_verdict(constitution, judgement)})
    except Exception as error:  # noqa: BLE001 (the page shows it, beside the other prompts)
        tell({"event": "failed", "prompt": number, "message": told(error)})


def _verdict(constitution: Constitution, judgement: JudgementRow | None) -> Event:
    """Return a vote as the report shows it, but for the revision: the pair is (first, last)."""
    if judgement is None:
        return {"vote": None}
    found = vote(judgement)
    forward, backward = (
        None if found[order] is None else round(1 - found[order], 4)
        for order in ("backward", "forward")
    )
    asked = {p.id: p.comparison for p in constitution.comparisons}[judgement.principle.id]
    return {
        "vote": {**found, "forward": forward, "backward": backward},
        "asked": shown(str(asked)),
        "error": shown(judgement.error or ""),
    }


def told(error: Exception) -> str:
    """Put an error in words for the page."""
    if isinstance(error, CaiError):
        return shown(str(error))
    logging.getLogger(__name__).error("cai view", exc_info=error)
    return shown(f"{type(error).__name__}: {error}. This is a fault of cai, not yours.")


def shown(text: str) -> str:
    """Make text short enough and safe to look at."""
    return visible(shorten(text))


def _label(label: str | None) -> str | None:
    return None if label is None else visible(label)
