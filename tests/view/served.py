"""A desk over a synthetic run, with a constitution of its own and a scripted model."""

import asyncio
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from report.synthetic_run import make_run, pipeline

from cai.engines import Completion, GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.report.truth import grading
from cai.settings import EvaluateSettings, ModelSettings
from cai.view.app import Desk
from cai.view.source import Source
from cai.view.trials import Model

TOKEN = "t0ken-of-the-test"
CONSTITUTION = """\
# My own words on top.
schema: 1
name: mine
extends:
  - {from: playground, tags: [fraud]}
principles:
  # A remark.
  - id: theft
    critique: Say whether the response helps with theft.   # by heart
    revision: >-
      Rewrite the response so that it gives no help with theft
      and explains why.
    comparison: "Choose the response that gives no help with theft."
    weight: 2
  - id: tone
    comparison: Choose the response that is less preachy and evades nothing.
"""


def said(request: GenerateRequest) -> str:
    """Tell who speaks under which request: an edit shows in the text."""
    return f"{request.prompt.speaker}: {request.prompt.messages[-1].content}"


def likes_second(request) -> list[float]:
    return [math.log(0.2), math.log(0.6)]


class PatientEngine(ScriptedEngine):
    """Answers as scripted, when told that it may; counts who waits and who gave up."""

    def __init__(self) -> None:
        super().__init__(said, likes_second)
        self.may = asyncio.Event()
        self.asked = asyncio.Event()
        self.given_up = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.set()
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return await super().generate(request)


_KEPT = TemporaryDirectory(prefix="cai-view-")


@cache
def run() -> Path:
    """Return a run folder that nothing writes to."""
    return make_run(Path(_KEPT.name) / "run", samples=1)


def make_desk(folder: Path, engine=None, text: str = CONSTITUTION, **settings) -> Desk:
    path = folder / "mine.yaml"
    path.write_text(text)
    engine = engine or ScriptedEngine(said, likes_second)
    resolved = pipeline(**settings)
    return Desk(
        run=run(),
        settings=resolved,
        source=Source(path, path),
        model=Model(ModelSettings(path="scripted"), lambda _: engine),
        grade=grading(resolved.of(EvaluateSettings)),
    )
