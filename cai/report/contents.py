"""What report.json holds: every number of the page, collected from a run folder."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cai import __version__
from cai.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
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

ROW_TYPES: dict[str, type[Row]] = {
    "prompts": PromptRow,
    "revise": RevisionRow,
    "compare": ComparisonRow,
    "evaluate": AnswerRow,
}


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
    return {
        "schema": SCHEMA,
        "name": settings.name,
        "seed": settings.seed,
        "constitution": settings.constitution,
        "evaluation": stage_json(run_dir, "evaluate", "summary.json"),
        "stages": {
            stage: _stage(run_dir, stage) for stage in STAGES if (run_dir / stage).is_dir()
        },
        "prompts": tally_prompts(stage_rows(run_dir / "prompts", PromptRow)),
        "revisions": tally_revisions(stage_rows(run_dir / "revise", RevisionRow)),
        "comparisons": tally_comparisons(stage_rows(run_dir / "compare", ComparisonRow)),
        "judgements": tally_judgements(
            stage_rows(run_dir / "compare", JudgementRow, name="judgements")
        ),
        "ppo": _first_and_last(step_metrics(run_dir / "ppo" / "steps.jsonl")),
        "provenance": {
            "cai": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": finite(settings.model_dump(mode="json")),
        },
    }


def _stage(run_dir: Path, stage: str) -> dict[str, Any]:
    folder = run_dir / stage
    manifest = stage_json(run_dir, stage, "manifest.json")
    contents: dict[str, Any] = {
        "complete": bool(manifest),
        "metrics": stage_json(run_dir, stage, "metrics.json"),
        "provenance": {
            name: manifest[name]
            for name in ("version", "started", "seconds", "environment")
            if name in manifest
        },
    }
    if stage in ROW_TYPES:
        states = Counter(row.state for row in stage_rows(folder, ROW_TYPES[stage]))
        contents["states"] = dict(states.most_common())
    return contents


def _first_and_last(steps: list[dict[str, float | None]]) -> dict[str, Any]:
    if not steps:
        return {"steps": 0}
    return {"steps": len(steps), "first": steps[0], "last": steps[-1]}
