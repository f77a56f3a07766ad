"""`demonstrations`: answers to imitate, from files or from comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai.data.prompts import fingerprints, reader_of
from cai.data.records import ComparisonRow, DemonstrationRow, Kind
from cai.data.store import read_rows, write_rows
from cai.data.tables import SFT_COLUMNS, write_parquet
from cai.errors import CaiError
from cai.pipeline.context import Context
from cai.pipeline.data_stage import not_held_out
from cai.pipeline.stage import COMPARISONS, COMPLETIONS, PROMPTS, Need, Output, Stage
from cai.pipeline.training_data import TRAIN, completion
from cai.settings import DemonstrationsSettings


def _run(context: Context[DemonstrationsSettings]) -> dict[str, Any]:
    found = _of_files(context) if context.settings.files else _of_comparisons(context)
    write_rows(context.folder / "rows.jsonl", [row for _, row in found])
    rows = [completion(row.key, kind, row.messages, row.response) for kind, row in found]
    write_parquet(context.folder / TRAIN, rows, SFT_COLUMNS)
    return {"rows": len(rows)}


def _of_files(context: Context[DemonstrationsSettings]) -> list[tuple[Kind, DemonstrationRow]]:
    """Read the files, without answers to prompts that are held out."""
    rows: dict[str, DemonstrationRow] = {}
    for source in context.settings.files:
        for row in reader_of(source, context.base_dir).demonstrations(seed=context.seed):
            rows[row.key] = row
    kept = not_held_out(context, list(rows.values()))
    if not kept:
        raise CaiError(
            f"All {len(rows)} demonstrations of `{context.name}` answer held-out prompts. Give "
            "others, or lower `prompts.held_out`."
        )
    return [("helpful", row) for row in kept]


def _of_comparisons(
    context: Context[DemonstrationsSettings],
) -> list[tuple[Kind, DemonstrationRow]]:
    """Take the better response of each comparison: the stage's own, and human ones."""
    least = context.settings.probability
    files = (context.source(COMPARISONS) / "rows.jsonl", _human(context))
    rows = [row for file in files for row in read_rows(file, ComparisonRow)]
    found: list[tuple[Kind, DemonstrationRow]] = []
    for row in rows:
        if row.state == "ok" and row.label is not None and max(row.label, 1 - row.label) > least:
            text = row.responses[0 if row.label > 0.5 else 1]
            one = DemonstrationRow(key=row.key, messages=row.messages, response=text)
            found.append((row.kind, one))
    if not found:
        raise CaiError(
            f"None of {len(rows)} comparisons has a response that is better with a probability "
            f"above {least:g}. Lower `{context.name}.probability`."
        )
    return found


def _human(context: Context[DemonstrationsSettings]) -> Path:
    return context.source(PROMPTS) / "comparisons.jsonl"


def _inputs(context: Context[DemonstrationsSettings]) -> dict[str, str]:
    return fingerprints(context.settings.files, "demonstrations", context.base_dir)


STAGE = Stage(
    name="demonstrations",
    settings=DemonstrationsSettings,
    makes=Output("demonstrations", COMPLETIONS),
    needs=(
        Need(PROMPTS, ("prompts",)),
        Need(
            COMPARISONS,
            ("comparisons",),
            wanted=lambda settings: not settings.files,
            instead="name files with answers (`{}.files`)",
        ),
    ),
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", TRAIN),
)
