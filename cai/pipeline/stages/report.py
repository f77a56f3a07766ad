"""`report`: everything in the run folder in, one page out."""

from __future__ import annotations

import time
from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage
from cai.report import write_report
from cai.settings import PipelineSettings

VERSION = 2


def _needs(settings: PipelineSettings) -> tuple[str, ...]:
    return tuple(name for name in settings.stages if name != "report")


def _run(context: Context) -> dict[str, Any]:
    started = time.monotonic()
    write_report(context.folder, context.settings)
    return {"seconds": round(time.monotonic() - started, 2)}


STAGE = Stage(
    name="report",
    version=VERSION,
    settings=lambda context: significant(context.settings.report),
    needs=_needs,
    inputs=lambda _: {},
    run=_run,
    outputs=("../report.html", "../report.json"),
)
