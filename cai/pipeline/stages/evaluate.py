"""`evaluate`: held-out prompts in, graded answers of every model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.engines.opening import check_engines
from cai.evaluate.answer import evaluation_samples
from cai.evaluate.summarise import summarise_revisions
from cai.evaluate.texts import BenignText
from cai.pipeline.evaluation import JUDGE, Evaluation, evaluate
from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage, data_metrics
from cai.records import ComparisonRow, PromptRow, RevisionRow
from cai.settings import EvaluateSettings, ModelSettings, PipelineSettings
from cai.store import read_rows, write_json

if TYPE_CHECKING:
    from cai.training.preference_model import PreferenceModel

VERSION = 3
_BEFORE = ("revise", "sft", "preference", "ppo", "harmfulness")


def _settings(context: Context) -> EvaluateSettings:
    """Return the settings, with the run's own models where none are named."""
    settings = context.settings.evaluate or EvaluateSettings()
    own = context.stage_dir("harmfulness") / "model" if context.settings.harmfulness else None
    return settings.model_copy(
        update={
            "judge": settings.judge or context.feedback,
            "harmfulness": settings.harmfulness or (str(own) if own else None),
        }
    )


def _needs(settings: PipelineSettings) -> tuple[str, ...]:
    others = [n for n in _BEFORE if getattr(settings, n)]
    return ("prompts", *others)


def planned(context: Context, folder: Path, *, all_checkpoints: bool = False) -> Evaluation:
    """Return the evaluation of a run: its models, on its held-out prompts.

    Args:
        context: The run.
        folder: Where the results go.
        all_checkpoints: Ask the kept checkpoints of PPO as much as the other models.
    """
    settings = _settings(context)
    prompts = read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)

    def asked(samples: int) -> Any:  # noqa: ANN401
        return evaluation_samples(prompts, samples, stratum=settings.stratum)

    samples = settings.samples_per_side if all_checkpoints else settings.checkpoint_samples
    policies = _checkpoints(context) if samples else {}
    return Evaluation(
        folder=folder,
        settings=settings,
        seed=context.settings.seed,
        models=_models(context),
        asked=asked(settings.samples_per_side),
        checkpoints=policies,
        checkpoint_asked=asked(samples) if policies else (),
        texts=_benign_texts(context, settings.benign_texts),
        preference=_preference(context),
        labelled_by=context.fingerprint(context.feedback) if context.settings.compare else None,
    )


def _run(context: Context) -> dict[str, Any]:
    started = time.monotonic()
    evaluation = planned(context, context.stage_dir("evaluate"))
    result, found, usage = evaluate(evaluation, context, context.progress)
    write_json(evaluation.folder / "summary.json", found["evaluation"])
    write_json(evaluation.folder / "measures.json", found["measures"])
    load = evaluation.preference
    chains = _chains(context, evaluation.settings.samples_per_side) if load else []
    scores = _revision_scores(load(), chains) if load else {}
    rounds = summarise_revisions(chains, scores)
    write_json(evaluation.folder / "revisions.json", {"rounds": rounds})
    return data_metrics(result, usage, started)


def _models(context: Context) -> dict[str, ModelSettings]:
    """Name the models to look at: whatever this pipeline has, in the method's order."""
    models = {"helpful-only": context.helpful}
    if context.settings.sft:
        models["sl-cai"] = context.sl_cai
    if context.settings.ppo:
        models["rl-cai"] = context.rl_cai
    return models


def _checkpoints(context: Context) -> dict[int, ModelSettings]:
    """Return the policies that PPO has kept on its way, by step."""
    if not context.settings.ppo:
        return {}
    from cai.ppo.train import snapshots

    return {
        step: context.rl_cai.model_copy(update={"path": str(path)})
        for step, path in snapshots(context.stage_dir("ppo")).items()
    }


def _preference(context: Context) -> Callable[[], PreferenceModel] | None:
    """Return what loads the run's preference model, once; None if it has none."""
    if not context.settings.preference:
        return None

    @cache
    def load() -> PreferenceModel:
        from cai.training.preference_model import PreferenceModel

        return PreferenceModel.load(context.stage_dir("preference") / "model")

    return load


def _benign_texts(context: Context, count: int) -> list[BenignText]:
    """Take responses that people preferred; no language model of the run has trained on them."""
    rows = read_rows(context.stage_dir("prompts") / "comparisons.jsonl", ComparisonRow)
    told = [row for row in rows if row.state == "ok" and row.label not in (None, 0.5)]
    return [
        BenignText(row.messages, row.responses[0 if (row.label or 0.0) > 0.5 else 1], row.task)
        for row in told[:count]
    ]


def _chains(context: Context, most: int) -> list[RevisionRow]:
    """Take so many usable chains; rows are stored by a hash, so the first are as good as any."""
    if not context.settings.revise:
        return []
    rows = read_rows(context.stage_dir("revise") / "rows.jsonl", RevisionRow)
    return [row for row in rows if row.state == "ok" and row.steps][:most]


def _revision_scores(
    model: PreferenceModel, chains: Sequence[RevisionRow]
) -> dict[str, list[float]]:
    """Score first responses and revisions, by row key; a text that did not change only once."""
    texts = {row.key: [row.response, *(step.revision for step in row.steps)] for row in chains}
    asked = {(row.messages, text): None for row in chains for text in texts[row.key]}
    scores = dict(zip(asked, model.score(list(asked)), strict=True))
    return {row.key: [scores[row.messages, text] for text in texts[row.key]] for row in chains}


def _inputs(context: Context) -> dict[str, str]:
    """Name the models from outside the run that have a part in it."""
    settings = _settings(context)
    found = {"helpful model": context.fingerprint(context.helpful)}
    if settings.judge and JUDGE in (settings.grader, settings.elo, settings.harmfulness):
        found["judge"] = context.fingerprint(settings.judge)
    rated_by = context.settings.evaluate.harmfulness if context.settings.evaluate else None
    if rated_by not in (None, JUDGE):
        found["harmfulness model"] = context.fingerprint(ModelSettings(path=str(rated_by)))
    return found


def _check(context: Context) -> None:
    judge = context.settings.evaluate and context.settings.evaluate.judge
    check_engines(*_models(context).values(), judge)


STAGE = Stage(
    name="evaluate",
    version=VERSION,
    settings=lambda context: {
        **significant(context.settings.evaluate),
        "seed": context.settings.seed,
    },
    needs=_needs,
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", "checkpoints.jsonl", "summary.json", "measures.json", "revisions.json"),
    check=_check,
)
