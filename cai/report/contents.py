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
from cai.errors import CaiError
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
from cai.report.reading import finite, stage_json, stage_rows, step_metrics
from cai.report.tallies import (
    tally_comparisons,
    tally_judgements,
    tally_prompts,
    tally_revisions,
)
from cai.report.truth import Grade
from cai.settings import (
    CompareSettings,
    EvaluateSettings,
    PipelineSettings,
    PPOSettings,
    PromptsSettings,
    ReportSettings,
    ReviseSettings,
    StageSettings,
)
from cai.workbench.statistics import principle_statistics

SCHEMA = 2
MEASURES_SCHEMA = 2
"""Of `measures.json`, which the evaluation writes."""
KINDS: tuple[type[StageSettings], ...] = (
    PromptsSettings,
    ReviseSettings,
    CompareSettings,
    PPOSettings,
    EvaluateSettings,
)
"""Stages whose files the page shows; a pipeline can have several of each."""
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
    names = {kind: list(settings.named(kind)) for kind in KINDS}

    def rows(kind: type[StageSettings], row_type: type[R], name: str = "rows") -> Iterator[R]:
        """Yield the rows of all stages of a kind and count their states in passing."""
        for stage in names[kind]:
            count = states.setdefault(f"{stage}/{name}", Counter())
            for row in stage_rows(run_dir / stage, row_type, name=name):
                count[row.state] += 1
                yield row

    prompts = tally_prompts(rows(PromptsSettings, PromptRow))
    revisions = tally_revisions(rows(ReviseSettings, RevisionRow), grade)
    labelled = rows(CompareSettings, ComparisonRow)
    human = rows(PromptsSettings, ComparisonRow, "comparisons")
    comparisons = tally_comparisons(chain(labelled, human), grade)
    judgements = tally_judgements(rows(CompareSettings, JudgementRow, "judgements"))
    for counted_only in (
        rows(CompareSettings, PairRow, "pairs"),
        rows(CompareSettings, JudgementRow, "fallback"),
        rows(EvaluateSettings, AnswerRow),
    ):
        deque(counted_only, maxlen=0)

    def result(kind: type[StageSettings], name: str) -> dict[str, Any]:
        """Read a file of the first stage of a kind."""
        return stage_json(run_dir, names[kind][0], name) if names[kind] else {}

    measures = result(EvaluateSettings, "measures.json")
    if measures and measures.get("schema") != MEASURES_SCHEMA:
        raise CaiError(
            f"{run_dir / names[EvaluateSettings][0] / 'measures.json'} was written by another "
            "version of cai. Run the pipeline again: answers that are there are not asked for anew."
        )

    return {
        "schema": SCHEMA,
        "name": settings.name,
        "seed": settings.seed,
        "constitution": settings.constitution,
        "grader": settings.of(EvaluateSettings).grader if names[EvaluateSettings] else None,
        "evaluation": result(EvaluateSettings, "summary.json"),
        "measures": measures,
        "stages": {
            name: _stage(run_dir, name, section.stage or name)
            for name, section in settings.sections.items()
            if not isinstance(section, ReportSettings) and (run_dir / name).is_dir()
        },
        "states": {where: dict(count.most_common()) for where, count in states.items() if count},
        "prompts": prompts,
        **_principles(run_dir, settings),
        "revisions": {
            **revisions,
            "scores": result(EvaluateSettings, "revisions.json").get("rounds", []),
        },
        "comparisons": comparisons,
        "judgements": judgements,
        "label_quality": result(CompareSettings, "quality.json"),
        "ppo": {name: _ppo(run_dir / name) for name in names[PPOSettings]},
        "provenance": {
            "cai": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": finite(settings.model_dump(mode="json")),
        },
    }


def _principles(run_dir: Path, settings: PipelineSettings) -> dict[str, Any]:
    """Join what the constitution says of each principle to what its rows show, in its order."""
    path = run_dir / "constitution.yaml"
    if not path.exists():
        return {"principles": {}, "suggestions": []}
    constitution = load_constitution(path)
    # Rows of two stages of a kind can have the same keys, so only the first ones are joined.
    chained, compared = (
        [run_dir / name for name in settings.named(kind)][:1]
        for kind in (ReviseSettings, CompareSettings)
    )
    found = principle_statistics(
        constitution,
        chain.from_iterable(stage_rows(folder, RevisionRow) for folder in chained),
        chain.from_iterable(stage_rows(folder, PairRow, "pairs") for folder in compared),
        chain.from_iterable(
            stage_rows(folder, JudgementRow, name)
            for folder in compared
            for name in ("judgements", "fallback")
        ),
        settings.of(CompareSettings).labels,
    )
    texts = {p.id: p.model_dump(include=WORDING, mode="json") for p in constitution.principles}
    return {
        "principles": {p.id: {**asdict(p), "text": texts[p.id]} for p in found.principles},
        "suggestions": found.suggestions,
    }


def _stage(run_dir: Path, name: str, stage: str) -> dict[str, Any]:
    manifest = stage_json(run_dir, name, "manifest.json")
    outputs: Mapping[str, Mapping[str, Any]] = manifest.get("outputs", {})
    return {
        "stage": stage,
        "complete": bool(manifest),
        "metrics": stage_json(run_dir, name, "metrics.json"),
        "provenance": {
            key: manifest[key]
            for key in ("version", "started", "seconds", "inputs", "environment")
            if key in manifest
        },
        "outputs": {file: output.get("hash") for file, output in outputs.items()},
    }


def _ppo(folder: Path) -> dict[str, Any]:
    steps = step_metrics(folder / "steps.jsonl")
    if not steps:
        return {"steps": 0}
    return {
        "steps": len(steps),
        "first": steps[0],
        "last": steps[-1],
        "curves": curves(steps),
        "guard": guard_checks(steps),
    }
