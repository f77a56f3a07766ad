"""What report.json holds: every number of the page, collected from a run folder."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cai import __version__
from cai.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
    PairRow,
    PromptRow,
    RevisionRow,
    Row,
)
from cai.report.reading import STAGES, finite, stage_json, stage_rows, step_metrics
from cai.report.tallies import (
    tally_comparisons,
    tally_judgements,
    tally_prompts,
    tally_revisions,
)
from cai.settings import PipelineSettings

SCHEMA = 1

R = TypeVar("R", bound=Row)


def collect(run_dir: Path, settings: PipelineSettings) -> dict[str, Any]:
    """Collect the numbers of a run, finished or not.

    Args:
        run_dir: The run folder; any stage may be missing or unfinished.
        settings: The pipeline as resolved.

    Returns:
        The contents of report.json. `evaluation` is what `evaluate/summary.json` says.

    Raises:
        CaiError: A file of the run is damaged.
    """
    states: dict[str, Counter[str]] = {}

    def rows(stage: str, row_type: type[R], name: str = "rows") -> Iterator[R]:
        """Yield the rows of a stage and count their states in passing."""
        count = states.setdefault(f"{stage}/{name}", Counter())
        for row in stage_rows(run_dir / stage, row_type, name=name):
            count[row.state] += 1
            yield row

    tallies = {
        "prompts": tally_prompts(rows("prompts", PromptRow)),
        "revisions": tally_revisions(rows("revise", RevisionRow)),
        "comparisons": tally_comparisons(
            chain(rows("compare", ComparisonRow), rows("prompts", ComparisonRow, "comparisons"))
        ),
        "judgements": tally_judgements(rows("compare", JudgementRow, "judgements")),
    }
    for counted_only in (rows("compare", PairRow, "pairs"), rows("evaluate", AnswerRow)):
        deque(counted_only, maxlen=0)
    return {
        "schema": SCHEMA,
        "name": settings.name,
        "seed": settings.seed,
        "constitution": settings.constitution,
        "evaluation": stage_json(run_dir, "evaluate", "summary.json"),
        "stages": {stage: _stage(run_dir, stage) for stage in STAGES if (run_dir / stage).is_dir()},
        "states": {where: dict(count.most_common()) for where, count in states.items() if count},
        **tallies,
        "ppo": _first_and_last(step_metrics(run_dir / "ppo" / "steps.jsonl")),
        "provenance": {
            "cai": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": finite(settings.model_dump(mode="json")),
        },
    }


def _stage(run_dir: Path, stage: str) -> dict[str, Any]:
    manifest = stage_json(run_dir, stage, "manifest.json")
    return {
        "complete": bool(manifest),
        "metrics": stage_json(run_dir, stage, "metrics.json"),
        "provenance": {
            name: manifest[name]
            for name in ("version", "started", "seconds", "environment")
            if name in manifest
        },
    }


def _first_and_last(steps: list[dict[str, float | None]]) -> dict[str, Any]:
    if not steps:
        return {"steps": 0}
    return {"steps": len(steps), "first": steps[0], "last": steps[-1]}
