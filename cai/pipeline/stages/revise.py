"""`revise`: prompts in, critique-revision chains and fine-tuning data out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cai import revise
from cai.data.records import PromptRow, RevisionRow, content_hash
from cai.data.rows import RowsResult
from cai.data.store import RowStore, read_rows, write_json, write_rows
from cai.data.tables import SFT_COLUMNS, write_parquet
from cai.engines.opening import check_engines
from cai.errors import CaiError
from cai.pipeline.context import Context
from cai.pipeline.data_stage import data_metrics, make_rows
from cai.pipeline.engines import Engines
from cai.pipeline.stage import (
    COMPLETIONS,
    HELPFUL,
    POLICY,
    PROMPTS,
    REVISIONS,
    Need,
    Output,
    Stage,
)
from cai.pipeline.training_data import TRAIN, completion
from cai.revise.flaws import FLAWS
from cai.revise.quality import Assessed, Assessor, FlawsRow, RevisionQuality, measure_revisions
from cai.revise.wrappers import Wrapping
from cai.settings import ModelSettings, ReviseSettings

RESPONSES = "responses"
"""The file of first responses, where another model revises them."""

WRAPPINGS: dict[Wrapping, str] = {
    "unchanged": "revisions say that nothing needs to change (see `wrappers` in docs/settings.md)",
    "wrapped": "revisions have words about themselves around them (`wrappers`)",
}
"""What is counted and printed."""


def _inputs(context: Context[ReviseSettings]) -> dict[str, str]:
    constitution, reviser = context.constitution, context.reviser
    other = {"reviser model": context.fingerprint(reviser)} if reviser != context.policy else {}
    return {
        **other,
        "critique examples": content_hash(constitution.few_shot.critique),
        **{
            f"principle {principle.id}": f"{principle.supervised_hash}, weight {principle.weight}"
            for principle in constitution.supervised
        },
    }


def _run(context: Context[ReviseSettings]) -> dict[str, Any]:
    started = time.monotonic()
    with Engines(context.fingerprint) as engines:
        first = _first_responses(context, engines)
        result = _made(context, engines, _reviser(context), context.reviser, first)
    _check_chains(result.rows, context.folder)
    assessor = Assessor(context.constitution, context.settings.flaws)
    chains = [assessor.rounds(row) if row.state == "ok" else [] for row in result.rows]
    wrapped = Counter(one.wrapping for chain in chains for one in chain)
    for kind, what in WRAPPINGS.items():
        if wrapped[kind]:
            total = sum(wrapped.values())
            context.progress.say(f"  {context.name}: {wrapped[kind]:,} of {total:,} {what}.")
    flaws = [
        FlawsRow(key=row.key, fingerprint=row.fingerprint, rounds=[one.found for one in chain])
        for row, chain in zip(result.rows, chains, strict=True)
        if chain
    ]
    write_rows(context.folder / "flaws.jsonl", flaws)
    quality = _assess(context, chains)
    left_out = _write_training_data(context, result.rows, chains)
    figures = {f"revisions_{kind}": wrapped[kind] for kind in WRAPPINGS}
    return data_metrics(
        result,
        engines.usage,
        started,
        **figures,
        **_of_first(first),
        revisions_flawed=quality.flawed,
        revisions_left_out=left_out.total(),
        **({"gate_missed": _misses(context, quality)} if context.settings.gate else {}),
    )


def _reviser(context: Context[ReviseSettings]) -> revise.Reviser:
    return revise.Reviser(context.constitution, context.settings, context.seed)


def _first_responses(
    context: Context[ReviseSettings], engines: Engines
) -> RowsResult[RevisionRow] | None:
    """Make the first responses, if another model is to revise them, and close their model."""
    if context.reviser == context.policy:
        (context.folder / f"{RESPONSES}.jsonl").unlink(missing_ok=True)
        return None
    responder = _reviser(context).responder
    first = _made(context, engines, responder, context.policy, None, name=RESPONSES)
    engines.keep(context.reviser)
    return first


def _made(
    context: Context[ReviseSettings],
    engines: Engines,
    reviser: revise.Reviser,
    model: ModelSettings,
    first: RowsResult[RevisionRow] | None,
    *,
    name: str = "rows",
) -> RowsResult[RevisionRow]:
    """Make chains with a model, from the first responses if these are there."""
    engine = engines[model]
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    return make_rows(
        context,
        engines,
        reviser.items(prompts, engine, first and {row.key: row for row in first.rows}),
        partial(reviser.row, engine=engine),
        store=RowStore(context.folder, RevisionRow, name),
        concurrency=context.settings.concurrency,
        title=context.name if name == "rows" else f"{context.name}: {name}",
    )


def _of_first(first: RowsResult[RevisionRow] | None) -> dict[str, Any]:
    """Return what metrics say of first responses that a model of their own gave."""
    if first is None:
        return {}
    made = len(first.rows) - len(first.reused)
    return {"responses_made": made, "response_states": first.states}


def _check(context: Context[ReviseSettings]) -> None:
    """Refuse a constitution to draw nothing from, and an engine that is not installed."""
    check_engines(context.policy, context.reviser)
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


def _assess(
    context: Context[ReviseSettings], chains: Sequence[Sequence[Assessed]]
) -> RevisionQuality:
    """Write the flaws of the revisions to `quality.json`; say which there are.

    Raises:
        CaiError: More of them are flawed than the gate allows, and its action is `stop`.
    """
    settings, gate = context.settings, context.settings.gate
    quality = measure_revisions(chains)
    path = context.folder / "quality.json"
    write_json(path, asdict(quality))
    if not quality.flawed:
        return quality
    flaws = ", ".join(
        f"{count:,} {FLAWS[flaw]}"
        for flaw, count in quality.flaws.items()
        if flaw in settings.flaws
    )
    said = f"{quality.flawed:,} of {quality.revisions:,} revisions have flaws: {flaws}."
    look = f"`cai revisions {context.folder.parent}` shows them."
    missed = _misses(context, quality)
    if gate and missed:
        said += f" That is more than a share of {gate.flawed:g} (`{context.name}.gate`)."
    if gate and missed and gate.action == "stop":
        raise CaiError(
            f"{said} {look} "
            f"Use another model, fewer worked examples (`{context.name}.few_shot`) or another "
            f"constitution, or set `{context.name}.gate.action` to `warn` to continue anyway."
        )
    if settings.keep == "sound" and quality.flawed == quality.revisions:
        raise CaiError(
            f"{said} So no revision is left to train on. {look} Use another model or constitution, "
            f"or set `{context.name}.keep` to `all` to train on them anyway."
        )
    treated = "left out of training" if settings.keep == "sound" else "trained on (`keep: all`)"
    context.progress.say(f"  {context.name}: {said} They are {treated}. {look}")
    return quality


def _misses(context: Context[ReviseSettings], quality: RevisionQuality) -> list[str]:
    """Return the bound of the gate that the revisions miss, if they do."""
    gate = context.settings.gate
    if gate is None or quality.flawed <= gate.flawed * quality.revisions:
        return []
    share = quality.flawed / quality.revisions
    return [f"flawed is {share:.3f} (wanted: at most {gate.flawed:g})"]


def _write_training_data(
    context: Context[ReviseSettings],
    rows: Iterable[RevisionRow],
    chains: Sequence[Sequence[Assessed]],
) -> Counter[str]:
    """Write one row per revision (of all rounds) and one per helpful sample.

    First responses to red-team prompts and critiques are not training targets (paper, section 3.2).
    So a revision that says that nothing needs to change is replaced by the revision before it, and
    left out if there is none. `rows.jsonl` keeps all revisions unchanged.

    Returns:
        The revisions that are left out, by reason.
    """
    examples: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()

    def add(row: RevisionRow, number: int, text: str, ended: bool) -> None:
        examples.append(
            completion(row.key, row.kind, row.messages, text, ended=ended, round_number=number)
        )

    for row, chain in zip(rows, chains, strict=True):
        if row.kind == "helpful" and row.state == "ok":
            add(row, 0, row.response, row.ended)
        for one in chain:
            if reason := _unfit(one, context.settings):
                left_out[reason] += 1
            else:
                whole = context.settings.wrappers == "keep"
                add(row, one.number, one.said if whole else one.revision, one.ended)
    write_parquet(context.folder / TRAIN, examples, SFT_COLUMNS)
    return left_out


def _unfit(one: Assessed, settings: ReviseSettings) -> str | None:
    """Return why a revision is not trained on; None if it is."""
    if one.wrapping == "unchanged" and one.on_first and settings.wrappers != "keep":
        return "unchanged"
    if one.wrapping == "wrapped" and settings.wrappers == "drop":
        return "wrapped"
    if settings.keep == "sound" and one.flawed:
        return "flawed"
    return None


STAGE = Stage(
    name="revise",
    settings=ReviseSettings,
    makes=Output("revisions", REVISIONS, also=COMPLETIONS),
    needs=(Need(PROMPTS, ("prompts",)), Need(POLICY, (HELPFUL,))),
    inputs=_inputs,
    run=_run,
    outputs=(f"{RESPONSES}.jsonl", "rows.jsonl", TRAIN, "flaws.jsonl", "quality.json"),
    check=_check,
    version=revise.VERSION,
)
