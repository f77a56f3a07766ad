"""`sample`, `select`, `pair` and `best-of-n`: methods that choose among a policy's responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cai.data.records import ComparisonRow, PromptRow, SamplesRow
from cai.data.store import RowStore, read_rows, write_json, write_rows
from cai.data.tables import SFT_COLUMNS, write_parquet
from cai.engines.best_of import kl_bound
from cai.engines.opening import check_engines
from cai.errors import CaiError
from cai.evaluate.grading import Grader, NoVerdict, is_right, plain_grader
from cai.pipeline.context import Context
from cai.pipeline.data_stage import data_metrics, make_rows
from cai.pipeline.engines import Engines
from cai.pipeline.stage import (
    COMPARISONS,
    COMPLETIONS,
    HELPFUL,
    POLICY,
    PREFERENCE_MODEL,
    PROMPTS,
    SAMPLES,
    Need,
    Output,
    Placed,
    Stage,
)
from cai.pipeline.training_data import TRAIN, completion, write_comparisons
from cai.samples.choosing import pairs, selected, tally
from cai.samples.drawing import VERSION, Sampler
from cai.settings import (
    BestOfNSettings,
    BestOfSettings,
    ModelSettings,
    PairSettings,
    SampleSettings,
    SelectSettings,
)
from cai.settings.samples import PREFERENCE


def _sample(context: Context[SampleSettings]) -> dict[str, Any]:
    started = time.monotonic()
    settings = context.settings
    sampler = Sampler(settings, context.policy_name, context.seed)
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    with Engines(context.fingerprint) as engines:
        engine = engines[context.policy]
        result = make_rows(
            context,
            engines,
            sampler.items(prompts, engine),
            partial(sampler.row, engine=engine),
            store=RowStore(context.folder, SamplesRow, "responses"),
            concurrency=settings.concurrency,
            title=context.name,
        )
    if settings.scored_by == PREFERENCE:
        score_by_preference(result.rows, context.source(PREFERENCE_MODEL) / "model")
    else:
        name = settings.scored_by
        asyncio.run(grade(result.rows, plain_grader(name), name))
    write_rows(context.folder / "rows.jsonl", result.rows)
    counts = tally(result.rows)
    if not counts["usable"]:
        raise CaiError(
            f"None of the {counts.total()} samples of `{context.name}` can be used: "
            f"{_counted(counts)}. What was said is in {context.folder / 'rows.jsonl'}. Raise "
            f"`{context.name}.max_new_tokens` if they were cut off, or use another model."
        )
    scores = [s.score for row in result.rows for s in row.samples if s.score is not None]
    figures = {f"samples_{name}": count for name, count in sorted(counts.items())}
    mean = sum(scores) / len(scores)
    return data_metrics(result, engines.usage, started, **figures, score=mean)


def score_by_preference(rows: Sequence[SamplesRow], model: Path) -> None:
    """Score whole samples with a preference model, in nats; too long ones get no score."""
    from cai.models.implicit_reward import load_scorer

    scorer = load_scorer(model)
    fitting = [
        (row.messages, sample)
        for row in rows
        for sample in row.samples
        if sample.text
        and sample.ended
        and len(scorer.ids(row.messages, sample.text)) <= scorer.context
    ]
    scores = scorer.score([(messages, sample.text) for messages, sample in fitting])
    for (_, sample), score in zip(fitting, scores, strict=True):
        sample.score = score * scorer.std
    for row in rows:
        row.scored_by = PREFERENCE


async def grade(rows: Sequence[SamplesRow], grader: Grader, name: str) -> None:
    """Call whole samples right (1) or wrong (0); those without a verdict get no score."""
    for row in rows:
        row.scored_by = name
        for sample in row.samples:
            if sample.text and sample.ended:
                with suppress(NoVerdict):
                    grades = await grader.grade(row.kind, row.messages, sample.text)
                    right = is_right(row.kind, grades)
                    sample.score = None if right is None else float(right)


def _check_sample(context: Context[SampleSettings]) -> None:
    check_engines(context.policy)


def _select(context: Context[SelectSettings]) -> dict[str, Any]:
    rows = read_rows(context.source(SAMPLES) / "rows.jsonl", SamplesRow)
    kept = [row.model_copy(update={"samples": selected(row, context.settings)}) for row in rows]
    kept = [row for row in kept if row.samples]
    if not kept:
        raise CaiError(
            f"`{context.name}` keeps none of the samples of {len(rows)} prompts. Lower "
            f"`{context.name}.above`."
        )
    write_rows(context.folder / "rows.jsonl", kept)
    examples = [
        completion(row.key, row.kind, row.messages, sample.text, round_number=number)
        for row in kept
        for number, sample in enumerate(row.samples)
    ]
    write_parquet(context.folder / TRAIN, examples, SFT_COLUMNS)
    scores = [sample.score or 0.0 for row in kept for sample in row.samples]
    return {
        "prompts": len(rows),
        "prompts_left_out": len(rows) - len(kept),
        "samples": tally(rows).total(),
        "selected": len(scores),
        "score": sum(scores) / len(scores),
    }


def _pair(context: Context[PairSettings]) -> dict[str, Any]:
    rows = read_rows(context.source(SAMPLES) / "rows.jsonl", SamplesRow)
    found: list[ComparisonRow] = [one for row in rows for one in pairs(row, context.settings)]
    if not found:
        raise CaiError(
            f"`{context.name}` finds no two samples of a prompt whose scores differ by more than "
            f"{context.settings.margin:g}, among {len(rows)} prompts. Lower "
            f"`{context.name}.margin`, or draw more samples."
        )
    found.sort(key=lambda row: row.key)
    write_rows(context.folder / "rows.jsonl", found)
    write_comparisons(context.folder / TRAIN, found)
    return {
        "prompts": len(rows),
        "prompts_left_out": len(rows) - len({row.messages for row in found}),
        "rows": len(found),
        "mean_label": sum(row.label or 0.0 for row in found) / len(found),
    }


def _best_of_n(context: Context[BestOfNSettings]) -> dict[str, Any]:
    n, model = context.settings.n, context.run.models[context.made]
    write_json(
        context.folder / "model.json",
        {"model": model.model_dump(mode="json"), "fingerprint": context.fingerprint(model)},
    )
    return {"n": n, "kl_bound": kl_bound(n)}


def _best_of_model(placed: Placed, run: Path, start: ModelSettings) -> ModelSettings:
    (scorer,) = placed.sources[PREFERENCE_MODEL]
    assert isinstance(placed.settings, BestOfNSettings)
    by = str(run / (scorer.stage or "") / "model")
    best_of = BestOfSettings(n=placed.settings.n, by=by)
    return start.model_copy(update={"best_of": best_of})


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()))


SAMPLE = Stage(
    name="sample",
    settings=SampleSettings,
    makes=Output("samples", SAMPLES),
    needs=(
        Need(PROMPTS, ("prompts",)),
        Need(POLICY, ("sl-cai", HELPFUL)),
        Need(
            PREFERENCE_MODEL,
            ("preference-model",),
            wanted=lambda settings: settings.scored_by == PREFERENCE,
            instead="set `{}.scored_by` to a grader",
        ),
    ),
    run=_sample,
    outputs=("responses.jsonl", "rows.jsonl"),
    check=_check_sample,
    version=VERSION,
)
SELECT = Stage(
    name="select",
    settings=SelectSettings,
    makes=Output("selected", COMPLETIONS),
    needs=(Need(SAMPLES, ("samples",)),),
    run=_select,
    outputs=("rows.jsonl", TRAIN),
)
PAIR = Stage(
    name="pair",
    settings=PairSettings,
    makes=Output("sampled-comparisons", COMPARISONS),
    needs=(Need(SAMPLES, ("samples",)),),
    run=_pair,
    outputs=("rows.jsonl", TRAIN),
)
BEST_OF_N = Stage(
    name="best-of-n",
    settings=BestOfNSettings,
    makes=Output("best-of-n", POLICY),
    needs=(
        Need(POLICY, ("sl-cai", HELPFUL)),
        Need(PREFERENCE_MODEL, ("preference-model",)),
    ),
    run=_best_of_n,
    outputs=("model.json",),
    model=_best_of_model,
)
