"""`report`: everything in the run folder in, one page out."""

from __future__ import annotations

import time
from typing import Any

from cai.pipeline.context import Context
from cai.pipeline.stage import Every, Stage
from cai.settings import ReportSettings


def _run(context: Context[ReportSettings]) -> dict[str, Any]:
    from cai.report.write import write_report

    started = time.monotonic()
    write_report(context.run.folder, context.run.pipeline.settings)
    return {"seconds": round(time.monotonic() - started, 2)}


STAGE = Stage(
    name="report",
    settings=ReportSettings,
    needs=(Every(),),
    run=_run,
    outputs=("../report.html", "../report.json"),
    version=2,
)
