"""`compare`: SL-CAI's response pairs, the feedback model's labels, and preference data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from cai import compare
from cai.compare import Form
from cai.compare.quality import gold_fingerprints, gold_pairs, measure_quality, misses
from cai.data.prompts import load_comparisons
from cai.data.records import ComparisonRow, JudgementRow, PairRow, PromptRow, content_hash
from cai.data.rows import RowsResult
from cai.data.store import RowStore, read_rows, write_json, write_rows
from cai.engines.opening import check_engines
from cai.errors import CaiError
from cai.pipeline.context import Context
from cai.pipeline.data_stage import data_metrics, make_rows
from cai.pipeline.engines import Engines
from cai.pipeline.stage import COMPARISONS, HELPFUL, POLICY, PROMPTS, Need, Output, Stage
from cai.pipeline.training_data import TRAIN, write_comparisons
from cai.settings import CompareSettings, ModelSettings

TAKEN_OVER = ("refused", "unparsed", "too_long")
"""States of judgements for which a fallback judge is there."""
HARD = ("refused", "too_long")
"""States that are usual where another judge has given no verdict."""


def _form(context: Context[CompareSettings]) -> Form:
    return compare.FORMS[context.settings.form]


def _judge(context: Context[CompareSettings]) -> compare.FeedbackJudge:
    return compare.FeedbackJudge(context.constitution, context.settings, context.seed)


def _inputs(context: Context[CompareSettings]) -> dict[str, str]:
    form = _form(context)
    fallback, gate = context.fallback, context.settings.gate
    return {
        "feedback model": context.fingerprint(context.feedback),
        "helpful model": context.fingerprint(context.helpful),
        "fallback model": context.fingerprint(fallback) if fallback else "none",
        "examples": content_hash(form.examples(_judge(context))),
        **(gold_fingerprints(gate.comparisons, base_dir=context.base_dir) if gate else {}),
        **{
            f"principle {principle.id}": f"{form.text_hash(principle)}, weight {principle.weight}"
            for principle in form.principles(context.constitution)
        },
    }


def _run(context: Context[CompareSettings]) -> dict[str, Any]:
    started = time.monotonic()
    with Engines(context.fingerprint) as engines:
        pairs = _make_pairs(context, engines)
        engines.keep(context.feedback, context.fallback)
        quality = _gate(context, engines)
        normal = TAKEN_OVER if context.fallback else ()
        judgements = _judged(context, engines, pairs.rows, "judgements", normal=normal)
        engines.keep(context.fallback)
        fallback = _asked_again(context, engines, pairs.rows, judgements.rows)
    labels = _label(context, pairs, [judgements, fallback])
    labels.waited = max(result.waited for result in (pairs, judgements, fallback))
    human_path = context.source(PROMPTS) / "comparisons.jsonl"
    human = read_rows(human_path, ComparisonRow)
    write_comparisons(context.folder / TRAIN, [*labels.rows, *human])
    return data_metrics(
        labels,
        engines.usage,
        started,
        pairs_made=len(pairs.rows) - len(pairs.reused),
        judgements=len(judgements.rows),
        judgements_made=len(judgements.rows) - len(judgements.reused),
        judgement_states=judgements.states,
        fallback_states=fallback.states,
        human_comparisons=len(human),
        **quality,
    )


def _check(context: Context[CompareSettings]) -> None:
    """Refuse a constitution that has not the principles asked for, and engines not installed."""
    check_engines(context.policy, context.helpful, context.feedback, context.fallback)
    form, wanted = _form(context), context.settings.principles
    name, there = context.constitution.name, len(form.principles(context.constitution))
    if not there:
        raise CaiError(
            f"The constitution {name} has no principle with `{form.half}`, which `{context.name}` "
            f"draws from. Add one, choose another `{context.name}.form`, or leave `{context.name}` "
            "out."
        )
    if wanted != "all" and wanted > there:
        raise CaiError(
            f"`{context.name}.principles` asks for {wanted} principles per pair, but the "
            f"constitution {name} has {there} with `{form.half}`. Lower it, or set it to `all`."
        )


def _gate(context: Context[CompareSettings], engines: Engines) -> dict[str, Any]:
    """Measure the feedback model on known comparisons; returns what metrics say of it.

    Raises:
        CaiError: A bound is missed, and `gate.action` is `stop`.
    """
    gate = context.settings.gate
    path = context.folder / "quality.json"
    if gate is None:
        path.unlink(missing_ok=True)
        return {}
    seed, base_dir = context.seed, context.base_dir
    gold = load_comparisons(gate.comparisons, "feedback", seed=seed, base_dir=base_dir)
    judged = _judged(context, engines, gold_pairs(gold), "quality")
    quality = measure_quality(
        gold,
        judged.rows,
        weights={p.id: p.weight for p in context.constitution.principles},
        policy=context.settings.labels,
    )
    missed = misses(quality, gate)
    write_json(path, {**asdict(quality), "missed": missed})
    said = (
        f"The labels of {context.feedback.path} on {len(gold)} known comparisons are not good "
        f"enough: {'; '.join(missed)}. All measures are in {path}."
    )
    if missed and gate.action == "stop":
        raise CaiError(
            f"{said} Fix the constitution's comparisons or `{context.name}`, use a better feedback "
            f"model, or set `{context.name}.gate.action` to `warn` to continue anyway."
        )
    if missed:
        context.progress.say(said)
    return {"label_accuracy": quality.accuracy.value, "gate_missed": missed}


def _make_pairs(context: Context[CompareSettings], engines: Engines) -> RowsResult[PairRow]:
    settings = context.settings
    responder = compare.Responder(settings, context.seed, (context.policy_name, HELPFUL))
    policy, helpful = engines[context.policy], engines[context.helpful]
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    return make_rows(
        context,
        engines,
        responder.items(prompts, policy, helpful),
        partial(responder.row, policy=policy, helpful=helpful),
        store=RowStore(context.folder, PairRow, "pairs"),
        concurrency=settings.concurrency,
        title=f"{context.name}: pairs",
    )


def _judged(
    context: Context[CompareSettings],
    engines: Engines,
    pairs: Iterable[PairRow],
    name: str,
    *,
    model: ModelSettings | None = None,
    only: Iterable[JudgementRow] | None = None,
    normal: Collection[str] = (),
) -> RowsResult[JudgementRow]:
    """Ask the feedback model, or another `model`, about pairs; `name` is the file of the rows.

    With `only`, ask again for these judgements alone, to replace them. Many rows may have the
    states in `normal`.
    """
    engine, judge = engines[model or context.feedback], _judge(context)
    items = judge.items(pairs, engine)
    if only is not None:
        items = compare.instead_of(items, only)
    result = make_rows(
        context,
        engines,
        items,
        partial(judge.row, engine=engine),
        store=RowStore(context.folder, JudgementRow, name),
        concurrency=judge.settings.concurrency,
        title=f"{context.name}: {name}",
        normal=normal,
        together=judge.together,
    )
    failed = [row for row in result.rows if row.state == "failed"]
    if failed and len(failed) == len(result.rows):
        raise CaiError(
            f"{engine.name} answered none of {len(failed)} questions; the first error: "
            f"{failed[0].error}. Fix the model or its engine, then run again."
        )
    return result


def _asked_again(
    context: Context[CompareSettings],
    engines: Engines,
    pairs: Iterable[PairRow],
    judgements: Iterable[JudgementRow],
) -> RowsResult[JudgementRow]:
    """Ask the fallback model, if there is one, where the feedback model gave no usable verdict."""
    fallback, policy = context.fallback, context.settings.labels
    unusable = [row for row in judgements if fallback and not compare.is_usable(row, policy)]
    without = {row.pair for row in unusable}
    pairs = [pair for pair in pairs if pair.key in without]
    return _judged(context, engines, pairs, "fallback", model=fallback, only=unusable, normal=HARD)


def _label(
    context: Context[CompareSettings],
    pairs: RowsResult[PairRow],
    judged: Sequence[RowsResult[JudgementRow]],
) -> RowsResult[ComparisonRow]:
    """Derive every label; a row counts as reused when nothing behind it was made anew."""
    policy = context.settings.labels
    weights = {p.id: p.weight for p in context.constitution.principles}
    by_pair = compare.by_pair((row for result in judged for row in result.rows), policy)
    kept = frozenset[str]().union(*(result.reused for result in judged))
    reused: set[str] = set()
    rows: list[ComparisonRow] = []
    for pair in pairs.rows:
        labels = compare.label_all(pair, by_pair.get(pair.key, ()), weights=weights, policy=policy)
        rows += labels
        if pair.key in pairs.reused:
            reused |= {row.key for row in labels if kept.issuperset(row.judgements)}
    rows.sort(key=lambda row: row.key)
    write_rows(context.folder / "rows.jsonl", rows)
    return RowsResult(rows, frozenset(reused), dict(Counter(row.state for row in rows)))


STAGE = Stage(
    name="compare",
    settings=CompareSettings,
    makes=Output("comparisons", COMPARISONS),
    needs=(Need(PROMPTS, ("prompts",)), Need(POLICY, ("sl-cai", HELPFUL))),
    inputs=_inputs,
    run=_run,
    outputs=("pairs.jsonl", "judgements.jsonl", "fallback.jsonl", "rows.jsonl", TRAIN),
    check=_check,
    version=compare.VERSION,
)
