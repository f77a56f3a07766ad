"""`revise`: prompts in, critique-revision chains and fine-tuning data out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from cai import revise
from cai.data.conversation import Message
from cai.data.records import PromptRow, RevisionRow, content_hash
from cai.data.store import RowStore, read_rows
from cai.data.tables import SFT_COLUMNS, write_parquet
from cai.engines.opening import check_engines
from cai.errors import CaiError
from cai.evaluate.wrappers import Unwrapped, Wrapping, unwrap
from cai.pipeline.context import Context
from cai.pipeline.data_stage import data_metrics, make_rows
from cai.pipeline.engines import Engines
from cai.pipeline.stage import HELPFUL, POLICY, PROMPTS, REVISIONS, Need, Output, Stage
from cai.settings import ReviseSettings

WRAPPINGS: dict[Wrapping, str] = {
    "unchanged": "revisions say that nothing needs to change (see `wrappers` in docs/settings.md)",
    "wrapped": "revisions have words about themselves around them (`wrappers`)",
}
"""What is counted and printed."""


def _inputs(context: Context[ReviseSettings]) -> dict[str, str]:
    constitution = context.constitution
    return {
        "critique examples": content_hash(constitution.few_shot.critique),
        **{
            f"principle {principle.id}": f"{principle.supervised_hash}, weight {principle.weight}"
            for principle in constitution.supervised
        },
    }


def _run(context: Context[ReviseSettings]) -> dict[str, Any]:
    started = time.monotonic()
    reviser = revise.Reviser(context.constitution, context.settings, context.seed)
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    with Engines(context.fingerprint) as engines:
        engine = engines[context.policy]
        result = make_rows(
            context,
            engines,
            reviser.items(prompts, engine),
            partial(reviser.row, engine=engine),
            store=RowStore(context.folder, RevisionRow),
            concurrency=context.settings.concurrency,
            title=context.name,
        )
    _check_chains(result.rows, context.folder)
    wrapped = _write_training_data(context, result.rows)
    for kind, what in WRAPPINGS.items():
        if wrapped[kind]:
            total = sum(wrapped.values())
            context.progress.say(f"  {context.name}: {wrapped[kind]:,} of {total:,} {what}.")
    figures = {f"revisions_{kind}": wrapped[kind] for kind in WRAPPINGS}
    return data_metrics(result, engines.usage, started, **figures)


def _check(context: Context[ReviseSettings]) -> None:
    """Refuse a constitution to draw nothing from, and an engine that is not installed."""
    check_engines(context.policy)
    if context.settings.rounds and not context.constitution.supervised:
        raise CaiError(
            f"The constitution {context.constitution.name} has no principle with `critique` and "
            f"`revision`, which `{context.name}` draws from. Add one, or set "
            f"`{context.name}.rounds` to 0."
        )


def _check_chains(rows: Iterable[RevisionRow], folder: Path) -> None:
    """Refuse to continue with a fine-tuning that would see no revision."""
    chains = [row for row in rows if row.kind == "red_team"]
    if chains and all(row.state != "ok" for row in chains):
        said = (chains[0].error or "").rstrip(".")
        raise CaiError(
            f"No critique chain of {len(chains)} was completed; the first is "
            f"`{chains[0].state}` ({said}). Where the constitution's worked examples "
            "(`few_shot.critique`) are too long for the model, take another constitution or a "
            "model with a longer context. What was said is in "
            f"{folder / 'rows.jsonl'}."
        )


def _write_training_data(
    context: Context[ReviseSettings], rows: Iterable[RevisionRow]
) -> Counter[Wrapping]:
    """Write one row per revision (of all rounds) and one per helpful sample.

    First responses to red-team prompts and critiques are not training targets (paper, section 3.5).
    So a revision that says that nothing needs to change is replaced by the revision before it, and
    left out if there is none. `rows.jsonl` keeps all revisions unchanged.

    Returns:
        How many revisions have words about themselves, by kind.
    """
    found: Counter[Wrapping] = Counter()

    def example(row: RevisionRow, number: int, text: str, ended: bool) -> dict[str, Any]:
        answer = Message(role="assistant", content=text)
        return {
            "key": row.key,
            "kind": row.kind,
            "round": number,
            "prompt": [m.model_dump() for m in row.messages],
            "completion": [answer.model_dump()],
            "ended": ended,
        }

    examples: list[dict[str, Any]] = []
    for row in rows:
        if row.state != "ok":
            continue
        if row.kind == "helpful":
            examples.append(example(row, 0, row.response, row.ended))
        before = row.response
        for number, step in enumerate(row.steps, start=1):
            plain = unwrap(step.revision, before)
            found[plain.kind] += 1
            if context.settings.wrappers == "keep":
                plain = Unwrapped(step.revision, "none")
            lost = plain.kind == "wrapped" and context.settings.wrappers == "drop"
            first = plain.kind == "unchanged" and before == row.response
            if not lost and not first:
                examples.append(example(row, number, plain.text, step.ended))
            before = plain.text
    write_parquet(context.folder / "train.parquet", examples, SFT_COLUMNS)
    return found


STAGE = Stage(
    name="revise",
    settings=ReviseSettings,
    makes=Output("revisions", REVISIONS),
    needs=(Need(PROMPTS, ("prompts",)), Need(POLICY, (HELPFUL,))),
    inputs=_inputs,
    run=_run,
    outputs=("rows.jsonl", "train.parquet"),
    check=_check,
    version=revise.VERSION,
)
