"""Run the constitution on prompts, and report each step at once."""

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
from cai.report.wording import shown, visible
from cai.revise import Reviser
from cai.settings import CompareSettings, ModelSettings, ReviseSettings
from cai.workbench.trying import Step, pinned, try_chain, try_comparison

Event = dict[str, Any]
Tell = Callable[[Event], None]


class Model:
    """The only model in memory: loaded when it is first needed, used by one page at a time."""

    def __init__(
        self, settings: ModelSettings, open_engine: Callable[[ModelSettings], Engine]
    ) -> None:
        """Take the settings of a model, and the function that loads it (called in a thread)."""
        self.settings = settings
        self._open = open_engine
        self._loading: asyncio.Task[Engine] | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, tell: Tell) -> AsyncGenerator[Engine]:
        """Wait for the model and keep it; reports `waiting` and `loading`.

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
        """Free the memory."""
        if self._loading is not None:
            with suppress(CaiError):
                await (await self._loaded()).close()

    async def _loaded(self) -> Engine:
        """Return the engine; loading continues if the page that waits for it is closed."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._open, self.settings))
        try:
            return await asyncio.shield(self._loading)
        except Exception:
            self._loading = None
            raise


@dataclass(frozen=True)
class Wish:
    """A trial of a constitution on prompts.

    `principle` is the only one to use, where it has the texts; None to draw them as in a run.
    """

    constitution: Constitution
    prompts: list[tuple[Kind, Conversation]]
    principle: str | None
    revise: ReviseSettings
    compare: CompareSettings
    seed: int


async def trials(model: Model, wish: Wish, grade: Grade, tell: Tell) -> None:
    """Run a trial on all prompts together, and report each step, each failure and the end.

    Events about a prompt have its number as `prompt`.
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
    """Try one prompt under the `chosen` principles, or under all if these do not have the text."""
    kind, messages = wish.prompts[number]

    def step(step: Step) -> None:
        principle, criticised = step.principle, step.kind == "critique"
        half = "critique" if criticised else "revision"
        label = None if criticised else word(grade(kind, messages, step.text))
        tell(
            {
                "event": "step",
                "prompt": number,
                "kind": step.kind,
                "round": step.round,
                "principle": principle and principle.id,
                "asked": principle and shown(str(getattr(principle, half))),
                "text": shown(step.text),
                "label": label and visible(label),
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
    """Return a vote as in the report, but with P(the revision is better)."""
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
    """Return an error message for the page."""
    if isinstance(error, CaiError):
        return shown(str(error))
    logging.getLogger(__name__).error("cai view", exc_info=error)
    return shown(f"{type(error).__name__}: {error}. This is a bug of cai.")
