"""`cai feedback`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cai.cli.console import bar, plain_console, plain_table, rate_cells, with_engine
from cai.cli.options import JsonFile, Model, ModelChanges, Seed, model_settings
from cai.compare import FeedbackJudge
from cai.constitution import load_constitution
from cai.data.records import ComparisonRow, JudgementRow
from cai.data.rows import run_rows
from cai.data.states import StateLimit
from cai.data.store import write_json
from cai.engines import Engine, Usage
from cai.errors import CaiError
from cai.pipeline.validation import validated
from cai.settings import CompareSettings, SourceSettings

if TYPE_CHECKING:
    from cai.compare.quality import LabelQuality
    from cai.evaluate.questions import ChoiceQuestion
    from cai.evaluate.results import Choices

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
            help="Files of comparisons whose better response is known, multiple-choice files, or "
            "`playground:feedback`."
        ),
    ],
    constitution_: Annotated[
        str | None,
        typer.Option("--constitution", help="A built-in name or a file; `playground` if left out."),
    ] = None,
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
    json_file: JsonFile = None,
    seed: Seed = 0,
) -> None:
    """Measure how good a feedback model's labels are, before anything is trained on them.

    Accuracy, trivial baselines, calibration, position bias and length bias, with intervals.
    """
    from cai.cli.feedback_questions import check_answered, show_questions, told_apart
    from cai.compare.quality import measure_quality
    from cai.data.prompts import load_comparisons

    constitution = load_constitution(constitution_ or "playground")
    settings = validated(CompareSettings, {}, changes or [])
    asked, given = model_settings(model, model_set), told_apart(comparisons, limit)
    if not given.comparisons:
        _check_used(constitution_, changes or [])
    sources = [SourceSettings(path=path, limit=limit) for path in given.comparisons]
    gold = load_comparisons(sources, "feedback", seed=seed, base_dir=Path.cwd())
    console, judge = plain_console(), FeedbackJudge(constitution, settings, seed)
    asking = partial(_ask, judge, gold, given.questions, console)
    judgements, chosen, usage = with_engine(console, asked, asking)
    found: dict[str, Any] = {}
    reasons = reasons_of(judgements)
    if given.comparisons:
        weights = {p.id: p.weight for p in constitution.principles}
        quality = measure_quality(gold, judgements, weights=weights, policy=settings.labels)
        _show(console, quality, reasons)
        found = {**asdict(quality), "not_usable": reasons}
    if chosen:
        show_questions(console, chosen)
        found["choices"] = {source: of_set.plain() for source, of_set in chosen.items()}
    counts = f"{len(judgements):,} judgements, " if given.comparisons else ""
    console.print(f"\n{counts}{_spent(usage)}")
    if json_file is not None:
        write_json(json_file, {**found, "usage": asdict(usage)})
    if given.comparisons:
        _check_labelled(found["labels"], reasons)
    check_answered(chosen)


def _spent(usage: Usage) -> str:
    return (
        f"{usage.engine_calls:,} engine calls, {usage.tokens_in:,} tokens in "
        f"({usage.tokens_cached:,} of them cached), {usage.tokens_out:,} out"
    )


async def _ask(
    judge: FeedbackJudge,
    gold: Sequence[ComparisonRow],
    questions: Sequence[ChoiceQuestion],
    console: Console,
    engine: Engine,
) -> tuple[list[JudgementRow], dict[str, Choices], Usage]:
    """Judge comparisons and put questions to one model."""
    from cai.cli.feedback_questions import ask_questions
    from cai.compare.quality import gold_pairs

    task, limit, most = bar(console, "Judging"), _limit(judge), judge.settings.concurrency
    rows: list[JudgementRow] = []
    if gold:
        items, row = judge.items(gold_pairs(gold), engine), partial(judge.row, engine=engine)
        made = await run_rows(items, row, concurrency=most, task=task, limit=limit)
        rows = made.rows
    limit = replace(limit, together=1)
    chosen = await ask_questions(questions, engine, concurrency=most, task=task, limit=limit)
    return rows, chosen, engine.usage


def _check_labelled(labels: Mapping[str, int], reasons: Mapping[str, Any]) -> None:
    """Refuse a result that measures nothing."""
    if not labels.get("ok"):
        why = " ".join(f"`{state}`: {reason['first']}" for state, reason in reasons.items())
        raise CaiError(
            f"No comparison got a label ({_counts(labels)}), so nothing was measured. "
            f"{why or 'Every judgement was even.'}"
        )


def _check_used(constitution: str | None, changes: Sequence[str]) -> None:
    """Refuse options that nothing would read, where there are only multiple-choice questions."""
    keys = [change.partition("=")[0].strip() for change in changes]
    unused = [f"--set {key}" for key in keys if key not in ("concurrency", "max_state_share")]
    unused += ["--constitution"] if constitution else []
    if unused:
        raise CaiError(
            f"Multiple-choice questions are asked as they are written, so nothing reads "
            f"{' and '.join(f'`{option}`' for option in unused)}. Leave them out, or give "
            "comparisons, too."
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
        table.add_row(said, *rate_cells(getattr(quality, name)))
    console.print(table)
    console.print("\nconfidence of labels, and how many are right:")
    table = plain_table("")
    table.show_header = False
    for one in quality.reliability:
        table.add_row(f"{one.confidence:.3f}", *rate_cells(one.right))
    console.print(table)
    for state, reason in reasons.items():
        console.print(f"{reason['rows']:,} judgements are `{state}`. The first: {reason['first']}")


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "none"
