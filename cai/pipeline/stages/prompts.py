"""`prompts`: sources in, de-duplicated and split prompts out."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, get_args

from cai.errors import CaiError
from cai.evaluate.answer import evaluation_samples
from cai.evaluate.grading import plain_grader
from cai.pipeline.context import Context
from cai.pipeline.stage import PROMPTS, Output, Stage
from cai.prompts import exclude_held_out, load_comparisons, load_prompts, source_fingerprint
from cai.records import ComparisonRow, Kind, PromptRow
from cai.settings import EvaluateSettings, PromptsSettings, SourceSettings
from cai.store import write_rows

PLAYGROUND = "playground:"


def _inputs(context: Context[PromptsSettings]) -> dict[str, str]:
    settings = context.settings
    sources = [*settings.red_team, *settings.helpful, *settings.helpfulness_comparisons]
    return {source.path: _fingerprint(source, context) for source in sources}


def _fingerprint(source: SourceSettings, context: Context[PromptsSettings]) -> str:
    if _is_playground(source):
        from cai.playground.world import VERSION as WORLD_VERSION

        return f"playground world {WORLD_VERSION}"
    return source_fingerprint(source, base_dir=context.base_dir)


def _run(context: Context[PromptsSettings]) -> dict[str, Any]:
    started = time.monotonic()
    settings, seed = context.settings, context.seed
    report = load_prompts(
        settings, seed=seed, base_dir=context.base_dir, extra=_playground_prompts(context)
    )
    run = context.run.pipeline.settings
    for evaluate in run.named(EvaluateSettings).values():  # better said now than after hours
        if evaluate.grader != "judge":
            plain_grader(evaluate.grader)
        evaluation_samples(report.rows, evaluate.samples_per_side, stratum=evaluate.stratum)
    read = load_comparisons(
        [source for source in settings.helpfulness_comparisons if not _is_playground(source)],
        seed=seed,
        base_dir=context.base_dir,
    )
    kept = exclude_held_out(read, report.rows, settings.near_duplicate)
    comparisons = sorted([*_playground_comparisons(context), *kept], key=lambda row: row.key)
    folder = context.folder
    write_rows(folder / "comparisons.jsonl", comparisons)
    write_rows(folder / "rows.jsonl", sorted(report.rows, key=lambda row: row.key))
    return {
        "rows": len(report.rows),
        "rows_reused": 0,
        "states": dict(Counter(row.state for row in report.rows)),
        "splits": dict(Counter(f"{row.kind} {row.split}" for row in report.rows)),
        "comparisons": dict(Counter(row.state for row in comparisons)),
        "comparisons_of_held_out_prompts": len(read) - len(kept),
        **report.counts,
        "seconds": round(time.monotonic() - started, 2),
    }


def _playground_prompts(context: Context[PromptsSettings]) -> list[PromptRow]:
    settings, seed = context.settings, context.seed
    rows: list[PromptRow] = []
    for source in (*settings.red_team, *settings.helpful):
        if _is_playground(source):
            from cai.playground.sources import playground_prompts

            kind = _playground_part(source, get_args(Kind))
            rows += playground_prompts(kind, seed=seed, limit=source.limit)
    return rows


def _playground_comparisons(context: Context[PromptsSettings]) -> list[ComparisonRow]:
    rows: list[ComparisonRow] = []
    for source in context.settings.helpfulness_comparisons:
        if _is_playground(source):
            from cai.playground.sources import playground_comparisons

            _playground_part(source, ("helpfulness",))
            rows += playground_comparisons(seed=context.seed, limit=source.limit)
    return rows


def _is_playground(source: SourceSettings) -> bool:
    return source.path.startswith(PLAYGROUND)


def _playground_part(source: SourceSettings, known: tuple[str, ...]) -> Any:  # noqa: ANN401
    part = source.path.removeprefix(PLAYGROUND)
    if part not in known:
        raise CaiError(
            f"The playground has no {part!r} here. Use "
            f"{' or '.join(f'`{PLAYGROUND}{name}`' for name in known)}."
        )
    return part


STAGE = Stage(
    name="prompts",
    settings=PromptsSettings,
    makes=Output("prompts", PROMPTS),
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", "comparisons.jsonl"),
)
