"""`evaluate`: held-out prompts in, graded answers of every model out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cai.engines import Engine
from cai.evaluate.answer import Sample, answer, answer_item, evaluation_items
from cai.evaluate.grading import GRADERS
from cai.evaluate.summarise import summarise, summarise_revisions
from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage, data_metrics, tokens_of, with_engines
from cai.records import AnswerRow, PromptRow, RevisionRow
from cai.rows import Item, RowsResult, run_rows
from cai.settings import EvaluateSettings, ModelSettings, PipelineSettings
from cai.store import RowStore, read_rows, write_json

if TYPE_CHECKING:
    from cai.preference_model import PreferenceModel

VERSION = 2


def _settings(context: Context) -> EvaluateSettings:
    return context.settings.evaluate or EvaluateSettings()


def _models(context: Context) -> dict[str, ModelSettings]:
    """Name the models to look at: whatever this pipeline has, in the method's order."""
    models = {"helpful-only": context.helpful}
    if context.settings.sft:
        models["sl-cai"] = context.sl_cai
    if context.settings.ppo:
        models["rl-cai"] = context.rl_cai
    return models


def _needs(settings: PipelineSettings) -> tuple[str, ...]:
    others = [n for n in ("revise", "sft", "preference", "ppo") if getattr(settings, n)]
    return ("prompts", *others)


def _run(context: Context) -> dict[str, Any]:
    started = time.monotonic()
    settings, seed = _settings(context), context.settings.seed
    grader = GRADERS[settings.grader]()
    models = _models(context)
    prompts = read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)
    asked = evaluation_items(prompts, settings.samples_per_side, stratum=settings.stratum)
    items: list[Item[Sample]] = []
    answers_for: dict[str, str] = {}
    for name, model in models.items():
        for prompt, sample in asked:
            item = answer_item(
                prompt,
                sample,
                model_name=name,
                model_fingerprint=context.fingerprint(model),
                settings=settings,
                seed=seed,
                grader=grader,
            )
            items.append(item)
            answers_for[item.key] = name

    async def body(engines: Mapping[ModelSettings, Engine]) -> RowsResult[AnswerRow]:
        async def make(item: Item[Sample]) -> AnswerRow:
            prompt, sample = item.inputs
            name = answers_for[item.key]
            return await answer(
                prompt,
                sample=sample,
                model_name=name,
                engine=engines[models[name]],
                settings=settings,
                seed=seed,
                grader=grader,
            )

        return await run_rows(
            items,
            make,
            store=RowStore(context.stage_dir("evaluate"), AnswerRow),
            concurrency=settings.concurrency,
            task=partial(context.progress.rows, "evaluate", tokens=tokens_of(engines)),
        )

    result, usage = with_engines(context, set(models.values()), body)
    preference = _preference_model(context)
    folder = context.stage_dir("evaluate")
    scores = _answer_scores(preference, result.rows) if preference else None
    write_json(folder / "summary.json", summarise(result.rows, scores=scores))
    chains = _chains(context, settings.samples_per_side) if preference else []
    revised = _revision_scores(preference, chains) if preference else {}
    write_json(folder / "revisions.json", {"rounds": summarise_revisions(chains, revised)})
    return data_metrics(result, usage, started)


def _preference_model(context: Context) -> PreferenceModel | None:
    """Load the run's preference model; None if it has none."""
    if not context.settings.preference:
        return None
    from cai.preference_model import PreferenceModel

    return PreferenceModel.load(context.stage_dir("preference") / "model")


def _answer_scores(model: PreferenceModel, rows: Sequence[AnswerRow]) -> dict[str, float]:
    """Score the answers, by row key."""
    answered = [row for row in rows if row.state == "ok"]
    scores = model.score([(row.messages, row.response) for row in answered])
    return {row.key: score for row, score in zip(answered, scores, strict=True)}


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


STAGE = Stage(
    name="evaluate",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=_needs,
    inputs=lambda context: {"helpful model": context.fingerprint(context.helpful)},
    run=_run,
    outputs=("rows.jsonl", "summary.json", "revisions.json"),
)
