"""`prompts`: sources in, de-duplicated and split prompts out."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

from cai.data.prompts import (
    PromptReport,
    exclude_held_out,
    fingerprints,
    load_comparisons,
    load_prompts,
    reader_of,
)
from cai.data.store import write_rows
from cai.evaluate.answer import evaluation_samples
from cai.evaluate.grading import plain_grader
from cai.pipeline.context import Context
from cai.pipeline.stage import PROMPTS, Output, Stage
from cai.settings import EvaluateSettings, PromptsSettings


def _inputs(context: Context[PromptsSettings]) -> dict[str, str]:
    settings, base_dir = context.settings, context.base_dir
    return {
        **fingerprints(settings.red_team, "red_team", base_dir),
        **fingerprints(settings.helpful, "helpful", base_dir),
        **fingerprints(settings.helpfulness_comparisons, "helpfulness", base_dir),
    }


def _run(context: Context[PromptsSettings]) -> dict[str, Any]:
    started = time.monotonic()
    settings, seed, base_dir = context.settings, context.seed, context.base_dir
    report = load_prompts(settings, seed=seed, base_dir=base_dir)
    run = context.run.pipeline.settings
    for evaluate in run.named(EvaluateSettings).values():  # say it now, not after hours
        if evaluate.grader != "judge":
            plain_grader(evaluate.grader)
        evaluation_samples(report.rows, evaluate.samples_per_side, stratum=evaluate.stratum)
    load = partial(load_comparisons, purpose="helpfulness", seed=seed, base_dir=base_dir)
    sources = settings.helpfulness_comparisons
    own_split = [source for source in sources if reader_of(source, base_dir).own_split]
    read = load([source for source in sources if source not in own_split])
    kept = exclude_held_out(read, report.rows, settings.near_duplicate)
    comparisons = sorted([*load(own_split), *kept], key=lambda row: row.key)
    folder = context.folder
    write_rows(folder / "comparisons.jsonl", comparisons)
    write_rows(folder / "rows.jsonl", sorted(report.rows, key=lambda row: row.key))
    return {
        "rows": len(report.rows),
        "rows_reused": 0,
        "states": dict(_states(report)),
        "splits": dict(Counter(f"{row.kind} {row.split}" for row in report.rows)),
        "comparisons": dict(Counter(row.state for row in comparisons)),
        "comparisons_of_held_out_prompts": len(read) - len(kept),
        **report.counts,
        "seconds": round(time.monotonic() - started, 2),
    }


def _states(report: PromptReport) -> Counter[str]:
    """Count the prompts by state, and rows that no prompt can be made of as `unparsed`."""
    unparsed = Counter({"unparsed": report.counts.get("unreadable", 0)})
    return Counter(row.state for row in report.rows) + unparsed


STAGE = Stage(
    name="prompts",
    settings=PromptsSettings,
    makes=Output("prompts", PROMPTS),
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", "comparisons.jsonl"),
)
