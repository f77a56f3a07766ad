"""What report.json holds: every number of the page, collected from a run folder."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cai import __version__
from cai.constitution import load_constitution
from cai.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
    PairRow,
    PromptRow,
    RevisionRow,
    Row,
)
from cai.report.curves import curves, guard_checks
from cai.report.reading import STAGES, finite, stage_json, stage_rows, step_metrics
from cai.report.tallies import (
    tally_comparisons,
    tally_judgements,
    tally_prompts,
    tally_revisions,
)
from cai.report.truth import Grade
from cai.settings import PipelineSettings
from cai.workbench.statistics import principle_statistics

SCHEMA = 1
WORDING = {"critique", "revision", "comparison", "weight", "tags"}

R = TypeVar("R", bound=Row)


def collect(run_dir: Path, settings: PipelineSettings, grade: Grade) -> dict[str, Any]:
    """Collect the numbers of a run, finished or not.

    Args:
        run_dir: The run folder; any stage may be missing or unfinished.
        settings: The pipeline as resolved.
        grade: The run's grader.

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

    prompts = tally_prompts(rows("prompts", PromptRow))
    revisions = tally_revisions(rows("revise", RevisionRow), grade)
    comparisons = tally_comparisons(
        chain(rows("compare", ComparisonRow), rows("prompts", ComparisonRow, "comparisons")), grade
    )
    judgements = tally_judgements(rows("compare", JudgementRow, "judgements"))
    for counted_only in (
        rows("compare", PairRow, "pairs"),
        rows("compare", JudgementRow, "fallback"),
        rows("evaluate", AnswerRow),
    ):
        deque(counted_only, maxlen=0)
    steps = step_metrics(run_dir / "ppo" / "steps.jsonl")
    return {
        "schema": SCHEMA,
        "name": settings.name,
        "seed": settings.seed,
        "constitution": settings.constitution,
        "grader": settings.evaluate.grader if settings.evaluate else None,
        "evaluation": stage_json(run_dir, "evaluate", "summary.json"),
        "measures": stage_json(run_dir, "evaluate", "measures.json"),
        "stages": {stage: _stage(run_dir, stage) for stage in STAGES if (run_dir / stage).is_dir()},
        "states": {where: dict(count.most_common()) for where, count in states.items() if count},
        "prompts": prompts,
        **_principles(run_dir, settings),
        "revisions": {**revisions, "scores": _revision_scores(run_dir)},
        "comparisons": comparisons,
        "judgements": judgements,
        "label_quality": stage_json(run_dir, "compare", "quality.json"),
        "ppo": _ppo(steps),
        "provenance": {
            "cai": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": finite(settings.model_dump(mode="json")),
        },
    }


def _revision_scores(run_dir: Path) -> list[dict[str, Any]]:
    return stage_json(run_dir, "evaluate", "revisions.json").get("rounds", [])


def _principles(run_dir: Path, settings: PipelineSettings) -> dict[str, Any]:
    """Join what the constitution says of each principle to what its rows show, in its order."""
    path = run_dir / "constitution.yaml"
    if not path.exists():
        return {"principles": {}, "suggestions": []}
    constitution = load_constitution(path)
    found = principle_statistics(
        constitution,
        stage_rows(run_dir / "revise", RevisionRow),
        stage_rows(run_dir / "compare", PairRow, name="pairs"),
        chain.from_iterable(
            stage_rows(run_dir / "compare", JudgementRow, name=name)
            for name in ("judgements", "fallback")
        ),
        settings.compare_or_default.labels,
    )
    texts = {p.id: p.model_dump(include=WORDING, mode="json") for p in constitution.principles}
    return {
        "principles": {p.id: {**asdict(p), "text": texts[p.id]} for p in found.principles},
        "suggestions": found.suggestions,
    }


def _stage(run_dir: Path, stage: str) -> dict[str, Any]:
    manifest = stage_json(run_dir, stage, "manifest.json")
    outputs: Mapping[str, Mapping[str, Any]] = manifest.get("outputs", {})
    return {
        "complete": bool(manifest),
        "metrics": stage_json(run_dir, stage, "metrics.json"),
        "provenance": {
            name: manifest[name]
            for name in ("version", "started", "seconds", "inputs", "environment")
            if name in manifest
        },
        "outputs": {name: output.get("hash") for name, output in outputs.items()},
    }


def _ppo(steps: list[dict[str, float | None]]) -> dict[str, Any]:
    if not steps:
        return {"steps": 0}
    return {
        "steps": len(steps),
        "first": steps[0],
        "last": steps[-1],
        "curves": curves(steps),
        "guard": guard_checks(steps),
    }
