"""`cai feedback`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cai.cli.console import bar, plain_console
from cai.compare import FeedbackJudge
from cai.compare.quality import LabelQuality, gold_comparisons, gold_pairs, measure_quality
from cai.constitution import Constitution
from cai.data.records import ComparisonRow, JudgementRow
from cai.data.rows import run_rows
from cai.data.states import StateLimit
from cai.data.store import write_json
from cai.errors import CaiError
from cai.evaluate.rates import Rate
from cai.settings import CompareSettings, ModelSettings, SourceSettings

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


def feedback_command(
    sources: list[str],
    *,
    constitution: Constitution,
    model: ModelSettings,
    settings: CompareSettings,
    limit: int | None,
    seed: int,
    json_file: Path | None,
) -> None:
    """Measure a feedback model on comparisons whose better response is known.

    Raises:
        CaiError: A source cannot be read, or no comparison gets a label.
    """
    from cai.engines.opening import open_engine

    gold = gold_comparisons(
        [SourceSettings(path=path, limit=limit) for path in sources],
        seed=seed,
        base_dir=Path.cwd(),
    )
    console = plain_console()
    with console.status(f"Loading {model.path} …"):
        engine = open_engine(model)
    judge = FeedbackJudge(constitution, settings, seed)

    async def run() -> list[JudgementRow]:
        try:
            result = await run_rows(
                judge.items(gold_pairs(gold), engine),
                partial(judge.row, engine=engine),
                concurrency=settings.concurrency,
                task=bar(console, "Judging"),
                limit=_limit(judge),
            )
            return result.rows
        finally:
            await engine.close()

    judgements = asyncio.run(run())
    quality = measure_quality(
        gold,
        judgements,
        weights={p.id: p.weight for p in constitution.principles},
        policy=settings.labels,
    )
    reasons = reasons_of(judgements)
    _show(console, quality, gold)
    for state, reason in reasons.items():
        console.print(f"{reason['rows']:,} judgements are `{state}`. The first: {reason['first']}")
    usage = engine.usage
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


def _show(console: Console, quality: LabelQuality, gold: list[ComparisonRow]) -> None:
    console.print(f"{len(gold):,} comparisons: {_counts(quality.comparisons)}")
    console.print(f"labels: {_counts(quality.labels)}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("measure")
    for heading in ("value", "95% interval", "n"):
        table.add_column(heading, justify="right")
    for name, said in _MEASURES.items():
        table.add_row(said, *_cells(getattr(quality, name)))
    console.print(table)
    console.print("\nconfidence of labels, and how many are right:")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for one in quality.reliability:
        table.add_row(f"{one.confidence:.3f}", *_cells(one.right))
    console.print(table)


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "none"


def _cells(rate: Rate) -> tuple[str, str, str]:
    if rate.value is None:
        return ("not measured", "", "0")
    known = rate.low is not None and rate.high is not None
    interval = f"{rate.low:.3f} to {rate.high:.3f}" if known else ""
    return (f"{rate.value:.3f}", interval, f"{rate.n:,}")
