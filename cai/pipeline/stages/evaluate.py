"""`evaluate`: held-out prompts in, graded answers of every model out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.data.records import ComparisonRow, PromptRow, RevisionRow
from cai.data.store import read_rows, write_json
from cai.engines.opening import check_engines
from cai.evaluate.answer import evaluation_samples
from cai.evaluate.summarise import summarise_revisions
from cai.evaluate.texts import BenignText
from cai.pipeline.context import Context
from cai.pipeline.data_stage import data_metrics
from cai.pipeline.evaluation import JUDGE, Checkpoint, Evaluation, evaluate, preference_loader
from cai.pipeline.stage import (
    COMPARISONS,
    HARMFULNESS_MODEL,
    HELPFUL,
    POLICY,
    PREFERENCE_MODEL,
    PROMPTS,
    REVISIONS,
    Every,
    Need,
    Stage,
)
from cai.settings import EvaluateSettings, ModelSettings

if TYPE_CHECKING:
    from cai.models.preference_model import PreferenceModel


def _settings(context: Context[EvaluateSettings]) -> EvaluateSettings:
    """Return the settings, with the run's own models where none are named."""
    settings = context.settings
    own = _folder(context, HARMFULNESS_MODEL)
    return settings.model_copy(
        update={
            "judge": settings.judge or context.feedback,
            "harmfulness": settings.harmfulness or (str(own / "model") if own else None),
        }
    )


def _folder(context: Context[EvaluateSettings], kind: str) -> Path | None:
    return next(iter(context.folders(kind).values()), None)


def planned(
    context: Context[EvaluateSettings], folder: Path, *, all_checkpoints: bool = False
) -> Evaluation:
    """Return the evaluation of a run: its models, on its held-out prompts; results in `folder`.

    With `all_checkpoints`, the checkpoints of trainings are asked as much as the other models.
    """
    settings = _settings(context)
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)

    def asked(samples: int) -> Any:  # noqa: ANN401
        return evaluation_samples(prompts, samples, stratum=settings.stratum)

    samples = settings.samples_per_side if all_checkpoints else settings.checkpoint_samples
    kept = _checkpoints(context) if samples else ()
    scorer = _folder(context, PREFERENCE_MODEL)
    is_labelled = any(p.output and p.output.kind == COMPARISONS for p in context.run.stages)
    return Evaluation(
        folder=folder,
        settings=settings,
        seed=context.seed,
        models=context.policies,
        asked=asked(settings.samples_per_side),
        checkpoints=kept,
        checkpoint_asked=asked(samples) if kept else (),
        texts=_benign_texts(context, settings.benign_texts),
        preference=scorer and preference_loader(scorer / "model"),
        starts=_starts(context),
        followed=_followed(context),
        labelled_by=context.fingerprint(context.feedback) if is_labelled else None,
    )


def _run(context: Context[EvaluateSettings]) -> dict[str, Any]:
    started = time.monotonic()
    evaluation = planned(context, context.folder)
    result, found, usage = evaluate(evaluation, context.fingerprint, context.progress)
    results = found.plain()
    write_json(evaluation.folder / "summary.json", results["evaluation"])
    write_json(evaluation.folder / "measures.json", results["measures"])
    load = evaluation.preference
    chains = _chains(context, evaluation.settings.samples_per_side) if load else []
    scores = _revision_scores(load(), chains) if load else {}
    rounds = summarise_revisions(chains, scores)
    write_json(evaluation.folder / "revisions.json", rounds.plain())
    return data_metrics(result, usage, started)


def _checkpoints(context: Context[EvaluateSettings]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that trainings have kept, in order."""
    from cai.training.snapshots import snapshots

    models, folders = context.policies, context.folders(POLICY)
    return tuple(
        Checkpoint(name, folder.name, step, models[name].model_copy(update={"path": str(path)}))
        for name, folder in folders.items()
        for step, path in snapshots(folder).items()
    )


def _starts(context: Context[EvaluateSettings]) -> dict[str, str]:
    """Say what each policy was trained from; what is given counts as the helpful-only model."""
    models = context.policies
    made = {p.output.name: p for p in context.run.stages if p.output and p.output.name in models}
    first = {name: p.sources[POLICY][0].name for name, p in made.items() if p.sources.get(POLICY)}
    return {name: start if start in models else HELPFUL for name, start in first.items()}


def _followed(context: Context[EvaluateSettings]) -> tuple[str, ...]:
    """Name the policies that were trained on the scores of the evaluation's preference model."""
    scorer = context.placed.sources.get(PREFERENCE_MODEL)
    return tuple(
        placed.output.name
        for placed in context.run.stages
        if scorer
        and placed.output
        and placed.output.name in context.policies
        and placed.sources.get(PREFERENCE_MODEL) == scorer
    )


def _benign_texts(context: Context[EvaluateSettings], count: int) -> list[BenignText]:
    """Take responses that people preferred; no language model of the run has trained on them."""
    rows = read_rows(context.source(PROMPTS) / "comparisons.jsonl", ComparisonRow)
    told = [row for row in rows if row.state == "ok" and row.label not in (None, 0.5)]
    return [
        BenignText(row.messages, row.responses[0 if (row.label or 0.0) > 0.5 else 1], row.task)
        for row in told[:count]
    ]


def _chains(context: Context[EvaluateSettings], most: int) -> list[RevisionRow]:
    """Take at most so many usable chains; rows are sorted by a hash, so the first are random."""
    folder = _folder(context, REVISIONS)
    rows = read_rows(folder / "rows.jsonl", RevisionRow) if folder else []
    return [row for row in rows if row.state == "ok" and row.steps][:most]


def _revision_scores(
    model: PreferenceModel, chains: Sequence[RevisionRow]
) -> dict[str, list[float]]:
    """Score first responses and revisions, by row key; a text that did not change only once."""
    texts = {row.key: [row.response, *(step.revision for step in row.steps)] for row in chains}
    asked = {(row.messages, text): None for row in chains for text in texts[row.key]}
    scores = dict(zip(asked, model.score(list(asked)), strict=True))
    return {row.key: [scores[row.messages, text] for text in texts[row.key]] for row in chains}


def _inputs(context: Context[EvaluateSettings]) -> dict[str, str]:
    """Name the judges from outside the run."""
    settings = _settings(context)
    found: dict[str, str] = {}
    if settings.judge and JUDGE in (settings.grader, settings.elo, settings.harmfulness):
        found["judge"] = context.fingerprint(settings.judge)
    rated_by = context.settings.harmfulness
    if rated_by not in (None, JUDGE):
        found["harmfulness model"] = context.fingerprint(ModelSettings(path=str(rated_by)))
    return found


def _check(context: Context[EvaluateSettings]) -> None:
    check_engines(*context.policies.values(), context.settings.judge)


STAGE = Stage(
    name="evaluate",
    settings=EvaluateSettings,
    needs=(
        Need(PROMPTS, ("prompts",)),
        Need(REVISIONS, ("revisions",), optional=True),
        Every(POLICY),
        Need(PREFERENCE_MODEL, ("preference-model",), optional=True),
        Need(HARMFULNESS_MODEL, ("harmfulness-model",), optional=True),
    ),
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", "checkpoints.jsonl", "summary.json", "measures.json", "revisions.json"),
    check=_check,
    version=4,
)
