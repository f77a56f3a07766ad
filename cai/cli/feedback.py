"""`cai feedback`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cai.cli.console import bar, plain_console, plain_table, with_engine
from cai.cli.options import Model, ModelChanges, Seed, model_settings
from cai.compare import FeedbackJudge
from cai.constitution import load_constitution
from cai.data.records import JudgementRow
from cai.data.rows import run_rows
from cai.data.states import StateLimit
from cai.data.store import write_json
from cai.engines import Engine, Usage
from cai.errors import CaiError
from cai.evaluate.rates import Rate
from cai.pipeline.validation import validated
from cai.settings import CompareSettings, SourceSettings

if TYPE_CHECKING:
    from cai.compare.quality import LabelQuality

_MEASURES = {
    "accuracy": "accuracy of the labels",
    "always_first": "  always the first response",
    "longer_wins": "  always the longer response",
    "answered": "comparisons that got a label",
    "calibration_error": "expected calibration error",
    "swap_flips": "opinions that change with the order",
    "position_bias": "position bias (0 is fair)",
    "length_bias": "length bias (0 is fair)",
    "option_mass": "probability on the options",
    "principle_agreement": "principles that agree",
}


def feedback(
    comparisons: Annotated[
        list[str],
        typer.Argument(
            help="Files of comparisons whose better response is known, or `playground:feedback`."
        ),
    ],
    constitution_: Annotated[
        str, typer.Option("--constitution", help="A built-in name or a file.")
    ] = "playground",
    model: Model = "playground",
    model_set: ModelChanges = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of `compare`: `form=rating`, `labels=…`."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The number of comparisons to draw from each source.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all measures to this file.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure how good a feedback model's labels are, before anything is trained on them.

    Accuracy, two baselines, calibration, position bias and length bias, with intervals.
    """
    from cai.compare.quality import gold_pairs, measure_quality
    from cai.data.prompts import load_comparisons

    constitution = load_constitution(constitution_)
    settings = validated(CompareSettings, {}, changes or [])
    asked = model_settings(model, model_set)
    sources = [SourceSettings(path=path, limit=limit) for path in comparisons]
    gold = load_comparisons(sources, "feedback", seed=seed, base_dir=Path.cwd())
    console, judge = plain_console(), FeedbackJudge(constitution, settings, seed)

    async def ask(engine: Engine) -> tuple[list[JudgementRow], Usage]:
        items, row = judge.items(gold_pairs(gold), engine), partial(judge.row, engine=engine)
        task, limit, most = bar(console, "Judging"), _limit(judge), settings.concurrency
        made = await run_rows(items, row, concurrency=most, task=task, limit=limit)
        return made.rows, engine.usage

    judgements, usage = with_engine(console, asked, ask)
    weights = {p.id: p.weight for p in constitution.principles}
    quality = measure_quality(gold, judgements, weights=weights, policy=settings.labels)
    reasons = reasons_of(judgements)
    _show(console, quality, reasons)
    console.print(
        f"\n{len(judgements):,} judgements, {usage.engine_calls:,} engine calls,"
        f" {usage.tokens_in:,} tokens in ({usage.tokens_cached:,} of them cached),"
        f" {usage.tokens_out:,} out"
    )
    if json_file is not None:
        write_json(json_file, {**asdict(quality), "not_usable": reasons, "usage": asdict(usage)})
    if not quality.labels.get("ok"):
        why = " ".join(f"`{state}`: {reason['first']}" for state, reason in reasons.items())
        raise CaiError(
            f"No comparison got a label ({_counts(quality.labels)}), so nothing was measured. "
            f"{why or 'Every judgement was even.'}"
        )


def _limit(judge: FeedbackJudge) -> StateLimit:
    share, setting = judge.settings.max_state_share, "max_state_share"
    return StateLimit(share, "cai feedback", setting, together=judge.together)


def reasons_of(judgements: Sequence[JudgementRow]) -> dict[str, dict[str, Any]]:
    """Return, by state, how many judgements are not usable, and why the first of them is not."""
    found: dict[str, dict[str, Any]] = {}
    for row in judgements:
        if row.state != "ok":
            one = found.setdefault(row.state, {"rows": 0, "first": row.error or ""})
            one["rows"] += 1
    return found


def _show(console: Console, quality: LabelQuality, reasons: Mapping[str, Any]) -> None:
    total = sum(quality.comparisons.values())
    console.print(f"{total:,} comparisons: {_counts(quality.comparisons)}")
    console.print(f"labels: {_counts(quality.labels)}\n")
    table = plain_table("measure", "value", "95% interval", "n")
    for name, said in _MEASURES.items():
        table.add_row(said, *_cells(getattr(quality, name)))
    console.print(table)
    console.print("\nconfidence of labels, and how many are right:")
    table = plain_table("")
    table.show_header = False
    for one in quality.reliability:
        table.add_row(f"{one.confidence:.3f}", *_cells(one.right))
    console.print(table)
    for state, reason in reasons.items():
        console.print(f"{reason['rows']:,} judgements are `{state}`. The first: {reason['first']}")


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "none"


def _cells(rate: Rate) -> tuple[str, str, str]:
    if rate.value is None:
        return ("not measured", "", "0")
    known = rate.low is not None and rate.high is not None
    interval = f"{rate.low:.3f} to {rate.high:.3f}" if known else ""
    return (f"{rate.value:.3f}", interval, f"{rate.n:,}")
