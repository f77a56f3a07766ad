"""The contents of report.json, collected from a run folder."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from cai import __version__
from cai.constitution import load_constitution
from cai.data.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
    PairRow,
    PromptRow,
    RevisionRow,
    Row,
)
from cai.evaluate.results import Measures, ModelSummary, RevisionScores
from cai.report.curves import curves, guard_checks
from cai.report.facts import (
    SCHEMA,
    KnownLabels,
    PPOFacts,
    PrincipleFacts,
    Provenance,
    Report,
    StageFacts,
)
from cai.report.reading import finite, read_result, stage_json, stage_rows, step_metrics
from cai.report.tallies import (
    tally_comparisons,
    tally_judgements,
    tally_prompts,
    tally_revisions,
)
from cai.report.truth import Grade
from cai.revise.quality import RevisionQuality
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

WORDING = {"critique", "revision", "comparison", "weight", "tags"}

R = TypeVar("R", bound=Row)
T = TypeVar("T")


def collect(run_dir: Path, settings: PipelineSettings, grade: Grade) -> Report:
    """Collect the numbers of a run; any stage may be missing or unfinished.

    Raises:
        CaiError: A file of the run is damaged.
    """

    def result(kind: type[StageSettings], name: str, shape: type[T], absent: T) -> T:
        """Read a file of the first stage of this kind."""
        stages = [*settings.named(kind)][:1]
        return read_result(run_dir / stages[0] / name, shape, absent) if stages else absent

    scores = result(EvaluateSettings, "revisions.json", RevisionScores, RevisionScores())
    quality = result(ReviseSettings, "quality.json", RevisionQuality, None)
    principles, suggestions = _principles(run_dir, settings)
    evaluation = settings.first(EvaluateSettings)
    counted = _counted(run_dir, settings, grade)
    counted["revisions"] = counted["revisions"].model_copy(
        update={"scores": scores.rounds, "better": scores.by_principle, "quality": quality}
    )
    return Report(
        schema=SCHEMA,
        name=settings.name,
        seed=settings.seed,
        constitution=settings.constitution,
        grader=evaluation.grader if evaluation else None,
        evaluation=result(EvaluateSettings, "summary.json", dict[str, ModelSummary], {}),
        measures=result(EvaluateSettings, "measures.json", Measures, Measures()),
        stages={
            name: _stage(run_dir, name, section.stage or name)
            for name, section in settings.sections.items()
            if not isinstance(section, ReportSettings) and (run_dir / name).is_dir()
        },
        principles=principles,
        suggestions=suggestions,
        label_quality=result(CompareSettings, "quality.json", KnownLabels, None),
        ppo={name: _ppo(run_dir / name) for name in settings.named(PPOSettings)},
        provenance=Provenance(
            cai=__version__,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=finite(settings.model_dump(mode="json")),
        ),
        **counted,
    )


def _counted(run_dir: Path, settings: PipelineSettings, grade: Grade) -> dict[str, Any]:
    """Return the fields of a report that are counted over rows; each row is read once."""
    states: dict[str, Counter[str]] = {}

    def rows(kind: type[StageSettings], row_type: type[R], name: str = "rows") -> Iterator[R]:
        """Yield the rows of all stages of a kind, and count their states."""
        for stage in settings.named(kind):
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
    for only_states in (
        rows(CompareSettings, PairRow, "pairs"),
        rows(CompareSettings, JudgementRow, "fallback"),
        rows(EvaluateSettings, AnswerRow),
    ):
        deque(only_states, maxlen=0)
    return {
        "prompts": prompts,
        "revisions": revisions,
        "comparisons": comparisons,
        "judgements": judgements,
        "states": {where: dict(count.most_common()) for where, count in states.items() if count},
    }


def _principles(
    run_dir: Path, settings: PipelineSettings
) -> tuple[dict[str, PrincipleFacts], list[str]]:
    """Return each principle with its texts and its effect, in order, and suggestions for edits."""
    path = run_dir / "constitution.yaml"
    if not path.exists():
        return {}, []
    constitution = load_constitution(path)
    # Rows of two stages of a kind can have the same keys, so only the first stage is used.
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
    principles = {p.id: PrincipleFacts(**vars(p), text=texts[p.id]) for p in found.principles}
    return principles, found.suggestions


def _stage(run_dir: Path, name: str, stage: str) -> StageFacts:
    manifest = stage_json(run_dir, name, "manifest.json")
    return StageFacts(
        stage=stage,
        complete=bool(manifest),
        metrics=stage_json(run_dir, name, "metrics.json"),
        provenance={
            key: manifest[key]
            for key in ("version", "started", "seconds", "inputs", "environment")
            if key in manifest
        },
        outputs={file: made.get("hash") for file, made in manifest.get("outputs", {}).items()},
    )


def _ppo(folder: Path) -> PPOFacts:
    steps = step_metrics(folder / "steps.jsonl")
    if not steps:
        return PPOFacts(steps=0)
    return PPOFacts(
        steps=len(steps),
        first=steps[0],
        last=steps[-1],
        curves=curves(steps),
        guard=guard_checks(steps),
    )
