"""`compare`: SL-CAI's response pairs, the feedback model's labels, and preference data."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from cai import compare
from cai.conversation import Message
from cai.engines import Engine, Usage
from cai.errors import CaiError
from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage, data_metrics, tokens_of, with_engines
from cai.records import ComparisonRow, JudgementRow, PairRow, PromptRow, content_hash
from cai.rows import RowsResult, run_rows
from cai.settings import CompareSettings, ModelSettings, PipelineSettings
from cai.store import RowStore, read_rows, write_rows
from cai.tables import COMPARISON_COLUMNS, write_parquet


def _settings(context: Context) -> CompareSettings:
    return context.settings.compare or CompareSettings()


def _needs(settings: PipelineSettings) -> tuple[str, ...]:
    return ("prompts", "sft") if settings.sft else ("prompts",)


def _inputs(context: Context) -> dict[str, str]:
    constitution = context.constitution
    return {
        "feedback model": context.fingerprint(context.feedback),
        "helpful model": context.fingerprint(context.helpful),
        "comparison examples": content_hash(constitution.few_shot.comparison),
        **{
            f"principle {principle.id}": f"{principle.comparison_hash}, weight {principle.weight}"
            for principle in constitution.comparisons
        },
    }


def _run(context: Context) -> dict[str, Any]:
    started = time.monotonic()
    _check_principles(context)
    pairs, pair_usage = _make_pairs(context)
    judgements, judge_usage = _judge_pairs(context, pairs.rows)
    labels = _label(context, pairs, judgements)
    human_path = context.stage_dir("prompts") / "comparisons.jsonl"
    human = read_rows(human_path, ComparisonRow)
    _write_training_data(context, [*labels.rows, *human])
    return data_metrics(
        labels,
        pair_usage + judge_usage,
        started,
        pairs_made=len(pairs.rows) - len(pairs.reused),
        judgements=len(judgements.rows),
        judgements_made=len(judgements.rows) - len(judgements.reused),
        judgement_states=judgements.states,
        human_comparisons=len(human),
    )


def _check_principles(context: Context) -> None:
    constitution, wanted = context.constitution, _settings(context).principles
    if not constitution.comparisons:
        raise CaiError(
            f"The constitution {constitution.name} has no principle with `comparison`, which the "
            "compare stage draws from. Add one, or leave out `compare`."
        )
    if wanted != "all" and wanted > len(constitution.comparisons):
        raise CaiError(
            f"`compare.principles` asks for {wanted} principles per pair, but the constitution "
            f"{constitution.name} has {len(constitution.comparisons)} with `comparison`. Lower it, "
            "or say `all`."
        )


def _make_pairs(context: Context) -> tuple[RowsResult[PairRow], Usage]:
    settings, seed = _settings(context), context.settings.seed
    policy, helpful = context.sl_cai, context.helpful
    items = [
        compare.pair_item(
            prompt,
            sample,
            settings=settings,
            policy_fingerprint=context.fingerprint(policy),
            helpful_fingerprint=context.fingerprint(helpful),
            seed=seed,
        )
        for prompt in read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)
        if prompt.split == "train" and prompt.kind == "red_team"
        for sample in range(settings.pairs_per_prompt)
    ]

    async def body(engines: Mapping[ModelSettings, Engine]) -> RowsResult[PairRow]:
        make = partial(
            compare.respond_twice,
            settings=settings,
            policy=engines[policy],
            helpful=engines[helpful],
            names=("sl-cai" if context.settings.sft else "helpful-only", "helpful-only"),
            seed=seed,
        )
        return await run_rows(
            items,
            make,
            store=RowStore(context.stage_dir("compare"), PairRow, "pairs"),
            concurrency=settings.concurrency,
            task=partial(context.progress.rows, "compare: pairs", tokens=tokens_of(engines)),
        )

    return with_engines(context, {policy, helpful}, body)


def _judge_pairs(
    context: Context, pairs: Iterable[PairRow]
) -> tuple[RowsResult[JudgementRow], Usage]:
    settings, seed = _settings(context), context.settings.seed
    items = [
        item
        for pair in pairs
        for item in compare.judgement_items(
            pair,
            constitution=context.constitution,
            settings=settings,
            model_fingerprint=context.fingerprint(context.feedback),
            seed=seed,
        )
    ]

    async def body(engines: Mapping[ModelSettings, Engine]) -> RowsResult[JudgementRow]:
        make = partial(
            compare.judge,
            constitution=context.constitution,
            settings=settings,
            engine=engines[context.feedback],
            model=context.feedback.path,
            seed=seed,
        )
        return await run_rows(
            items,
            make,
            store=RowStore(context.stage_dir("compare"), JudgementRow, "judgements"),
            concurrency=settings.concurrency,
            task=partial(context.progress.rows, "compare: judgements", tokens=tokens_of(engines)),
        )

    return with_engines(context, [context.feedback], body)


def _label(
    context: Context, pairs: RowsResult[PairRow], judgements: RowsResult[JudgementRow]
) -> RowsResult[ComparisonRow]:
    """Derive every label; a row counts as reused when nothing behind it was made anew."""
    weights = {p.id: p.weight for p in context.constitution.comparisons}
    by_pair: dict[str, list[JudgementRow]] = defaultdict(list)
    for judgement in judgements.rows:
        by_pair[judgement.pair].append(judgement)
    reused: set[str] = set()
    rows: list[ComparisonRow] = []
    for pair in pairs.rows:
        row = compare.label_pair(
            pair, by_pair[pair.key], weights=weights, policy=_settings(context).labels
        )
        rows.append(row)
        if pair.key in pairs.reused and judgements.reused.issuperset(row.judgements):
            reused.add(row.key)
    rows.sort(key=lambda row: row.key)
    write_rows(context.stage_dir("compare") / "rows.jsonl", rows)
    return RowsResult(rows, frozenset(reused), dict(Counter(row.state for row in rows)))


def _write_training_data(context: Context, rows: Iterable[ComparisonRow]) -> None:
    """Write the trainable comparisons, the likelier response as `chosen`."""
    examples: list[dict[str, Any]] = []
    for row in rows:
        if row.state != "ok" or row.label is None:
            continue
        answers = [[Message(role="assistant", content=text).model_dump()] for text in row.responses]
        chosen, rejected = answers if row.label >= 0.5 else reversed(answers)
        examples.append(
            {
                "key": row.key,
                "kind": row.kind,
                "source": row.source,
                "prompt": [message.model_dump() for message in row.messages],
                "chosen": chosen,
                "rejected": rejected,
                "chosen_probability": max(row.label, 1 - row.label),
            }
        )
    write_parquet(context.stage_dir("compare") / "train.parquet", examples, COMPARISON_COLUMNS)


STAGE = Stage(
    name="compare",
    version=compare.VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=_needs,
    inputs=_inputs,
    run=_run,
    outputs=("pairs.jsonl", "judgements.jsonl", "rows.jsonl", "train.parquet"),
)
