"""The application of `cai view`: the report, and the trials of the constitution."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cai.data.conversation import Conversation, user
from cai.data.records import Kind
from cai.errors import CaiError
from cai.report.page import live_policy
from cai.report.truth import Grade
from cai.report.wording import shown
from cai.report.write import draw_live_report
from cai.settings import CompareSettings, PipelineSettings, PromptsSettings, ReviseSettings
from cai.settings.wording import first_in_words
from cai.view.guard import MOST_BYTES, Guard
from cai.view.prompts import Choice, run_prompts
from cai.view.source import Edit, FileChangedError, Source, draft, placed, read, save
from cai.view.trials import Event, Model, Wish, trials

MOST_PROMPTS = 8
LONGEST_PROMPT = 20_000

B = TypeVar("B", bound=BaseModel)


class PromptWish(BaseModel):
    """A prompt of the run by its key, or a user's text."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = None
    text: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.key is None) == (self.text is None):
            raise ValueError("needs either `key` or `text`")
        return self


class Edits(BaseModel):
    """Edits of a version of the constitution file."""

    model_config = ConfigDict(extra="forbid")

    version: str
    edits: list[Edit]


class Trial(Edits):
    """The request of a trial."""

    prompts: Annotated[list[PromptWish], Field(max_length=MOST_PROMPTS)]
    principle: str | None = None
    rounds: Annotated[int, Field(ge=1, le=16)] = 1
    reasoning: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


@dataclass
class Desk:
    """The data of the served page, with the running trials (`works`).

    `source` is another file after a copy was saved.
    """

    run: Path
    settings: PipelineSettings
    source: Source
    model: Model
    grade: Grade
    prompts: dict[str, Choice] = field(default_factory=dict[str, Choice])
    works: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a trial."""
        task = asyncio.create_task(work)
        self.works.add(task)
        task.add_done_callback(self.works.discard)
        return task

    def end(self) -> None:
        """Stop all trials; their streams end normally."""
        for work in self.works:
            work.cancel()


def make_app(desk: Desk, *, token: str, hosts: Collection[str]) -> ASGIApp:
    """Return the application, with access control (see `Guard`)."""
    saving = asyncio.Lock()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        await desk.model.close()

    async def page(_: Request) -> Response:
        try:
            html = await asyncio.to_thread(draw_live_report, desk.run, desk.settings)
        except CaiError as problem:
            return PlainTextResponse(shown(str(problem)), 500)
        return HTMLResponse(html, headers={"Content-Security-Policy": live_policy()})

    async def constitution(_: Request) -> Response:
        desk.prompts = await asyncio.to_thread(
            run_prompts, desk.run, desk.settings.named(PromptsSettings)
        )
        return JSONResponse(await asyncio.to_thread(_facts, desk))

    async def try_it(request: Request) -> Response:
        return await _try(desk, await _body(request, Trial))

    async def save_it(request: Request) -> Response:
        wanted = await _body(request, Edits)
        async with saving:  # Two pages must not write at the same time.
            source = desk.source
            desk.source, written = await asyncio.to_thread(
                save, source, wanted.edits, wanted.version
            )
        found = {"findings": placed(written, source)}
        return JSONResponse(found, 422 if written.resolved is None else 200)

    routes = [
        Route("/", page),
        Route("/api/constitution", constitution),
        Route("/api/try", try_it, methods=["POST"]),
        Route("/api/save", save_it, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={CaiError: _refused}, lifespan=lifespan)
    return Guard(app, token=token, hosts=hosts)


class _RequestError(CaiError):
    """An invalid request, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Lines(StreamingResponse):
    """Events as lines of JSON; the trial is stopped when the client disconnects."""

    def __init__(self, work: asyncio.Task[None], events: asyncio.Queue[Event | None]) -> None:
        async def lines() -> AsyncIterator[str]:
            while (event := await events.get()) is not None:
                yield json.dumps(event, ensure_ascii=False) + "\n"

        super().__init__(lines(), media_type="application/x-ndjson")
        work.add_done_callback(lambda _: events.put_nowait(None))
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.cancel()


async def _try(desk: Desk, wanted: Trial) -> Response:
    source = desk.source
    found = await asyncio.to_thread(draft, source, wanted.edits, wanted.version)
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    events.put_nowait({"event": "findings", "findings": placed(found, source)})
    resolved = found.resolved
    prompts = [_prompt(desk, prompt) for prompt in wanted.prompts]

    async def work() -> None:
        if resolved is None:
            return
        wish = Wish(
            constitution=resolved.constitution,
            prompts=prompts,
            principle=wanted.principle,
            revise=desk.settings.of(ReviseSettings).model_copy(update={"rounds": wanted.rounds}),
            compare=desk.settings.of(CompareSettings).model_copy(
                update={"reasoning": wanted.reasoning}
            ),
            seed=wanted.seed,
        )
        await trials(desk.model, wish, desk.grade, events.put_nowait)

    return _Lines(desk.start(work()), events)


def _prompt(desk: Desk, wanted: PromptWish) -> tuple[Kind, Conversation]:
    if wanted.text is not None:
        return "red_team", user(wanted.text)
    choice = desk.prompts.get(wanted.key or "")
    if choice is None:
        raise CaiError("The run no longer has this prompt: reload the page.")
    return choice.kind, choice.messages


def _facts(desk: Desk) -> dict[str, Any]:
    models = desk.settings.models
    feedback = models.feedback.path if models.feedback else models.helpful.path
    return {
        **read(desk.source),
        "model": shown(desk.model.settings.path),
        "reviser": models.reviser and shown(models.reviser.path),
        "feedback": None if feedback == desk.model.settings.path else shown(feedback),
        "diff": shown(shlex.join(_diff(desk))),
        "rounds": max(1, min(2, desk.settings.of(ReviseSettings).rounds)),
        "reasoning": desk.settings.of(CompareSettings).reasoning,
        "prompts": [choice.told() for choice in desk.prompts.values()],
        "most": MOST_PROMPTS,
        "longest": LONGEST_PROMPT,
    }


def _diff(desk: Desk) -> list[str]:
    """Return the command that lists the rows that the saved constitution changes."""
    before = str(desk.run / "constitution.yaml")
    after = str(desk.source.target)
    return ["cai", "constitution", "diff", before, after, "--run", str(desk.run)]


async def _body(request: Request, model: type[B]) -> B:
    """Read a body of JSON.

    Raises:
        _RequestError: It is too long or not valid.
    """
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > MOST_BYTES:
                raise _RequestError(
                    413, f"The request is longer than {MOST_BYTES:,} bytes: shorten it."
                )
    except ClientDisconnect:
        raise _RequestError(400, "The request is incomplete.") from None
    try:
        return model.model_validate_json(bytes(raw))
    except ValidationError as problem:
        raise _RequestError(400, f"The request: {first_in_words(problem)}.") from None


async def _refused(_: Request, error: Exception) -> Response:
    status = 409 if isinstance(error, FileChangedError) else getattr(error, "status", 400)
    return JSONResponse({"error": shown(str(error))}, status)
