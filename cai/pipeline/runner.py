"""Decide which stages are stale, run them in order, and say what happened."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from cai.errors import CaiError
from cai.pipeline.manifest import (
    Manifest,
    changes,
    environment,
    outputs_hash,
    read_manifest,
    stamp_files,
    write_metrics,
)
from cai.pipeline.stage import Context, Stage
from cai.pipeline.stages import STAGES
from cai.settings import PipelineSettings
from cai.store import write_atomically

NOTICED_SECONDS = 10.0
"""Stages whose engine took less are not worth a hint."""
NOTICED_SHARE = 0.1
"""A state that more of the rows end in is worth a word."""


@dataclass(frozen=True)
class Verdict:
    """Whether a stage has to run.

    Attributes:
        stage: Its name.
        reasons: Why it is stale; empty if it is not.
    """

    stage: str
    reasons: tuple[str, ...]


def stages_of(settings: PipelineSettings) -> list[Stage]:
    """Return the stages of a pipeline: `prompts`, and each whose section is present."""
    return [STAGES[name] for name in settings.stages]


def check_needs(settings: PipelineSettings) -> None:
    """Refuse a pipeline in which a stage's input is made by none.

    Raises:
        CaiError: A needed section is missing.
    """
    present = {stage.name for stage in stages_of(settings)}
    for stage in stages_of(settings):
        missing = [name for name in stage.needs(settings) if name not in present]
        if missing:
            raise CaiError(
                f"The pipeline {settings.name} has `{stage.name}:` but not `{missing[0]}:`, whose "
                f"files it reads. Add a `{missing[0]}:` section (it may be empty: "
                f"`{missing[0]}: {{}}`), or remove `{stage.name}:`."
            )


def plan(context: Context) -> list[Verdict]:
    """Say which stages would run, and why, without running anything."""
    verdicts: list[Verdict] = []
    stale: set[str] = set()
    for stage in stages_of(context.settings):
        upstream = [need for need in stage.needs(context.settings) if need in stale]
        # What an upstream stage will make is not known yet, so its hash cannot be compared.
        reasons = [f"{name} will run" for name in upstream] or _reasons(stage, context)
        if reasons:
            stale.add(stage.name)
        verdicts.append(Verdict(stage.name, tuple(reasons)))
    return verdicts


def run_pipeline(context: Context, only: str | None = None) -> list[str]:
    """Run every stale stage in order; with `only`, that one alone.

    Args:
        context: The run.
        only: The name of a stage.

    Returns:
        The names of the stages that ran.

    Raises:
        CaiError: `only` is not a stage of this pipeline or its inputs are stale; a stage that would
            run lacks a model, a key, a server or an engine; or whatever the stages raise. Finished
            rows and checkpoints are kept.
    """
    check_needs(context.settings)
    ran: list[str] = []
    with _locked(context):
        if only is not None:
            _check_only(only, context)
        _check_ahead(context, only)
        _write_pipeline(context)
        for stage in stages_of(context.settings):
            if only not in (None, stage.name):
                continue
            reasons = _reasons(stage, context)
            if reasons:
                _run_stage(stage, context, reasons)
                ran.append(stage.name)
            else:
                context.progress.say(f"{stage.name}: up to date")
    return ran


def _check_only(only: str, context: Context) -> None:
    known = {stage.name: stage for stage in stages_of(context.settings)}
    if only not in known:
        raise CaiError(f"This pipeline has no stage `{only}`. It has: {', '.join(known)}.")
    verdicts = {verdict.stage: verdict for verdict in plan(context)}
    for need in known[only].needs(context.settings):
        if verdicts[need].reasons:
            raise CaiError(
                f"`{only}` reads what `{need}` makes, and `{need}` is stale "
                f"({verdicts[need].reasons[0]}). Run it first (`--only {need}`), or run the whole "
                "pipeline without `--only`."
            )


def _check_ahead(context: Context, only: str | None) -> None:
    """Say what a stage will lack from outside the run before any stage works for hours."""
    verdicts = {verdict.stage: verdict for verdict in plan(context)}
    will_run = [
        stage
        for stage in stages_of(context.settings)
        if verdicts[stage.name].reasons and only in (None, stage.name)
    ]
    for stage in will_run:
        stage.inputs(context)  # finds model folders, keys, servers and their models
        stage.check(context)


def _run_stage(stage: Stage, context: Context, reasons: list[str]) -> None:
    folder = context.stage_dir(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    context.progress.say(f"{stage.name}: {reasons[0]}{more}")
    # Whatever happens from here on, this stage is not complete until its manifest is there again.
    inputs, settings = _inputs(stage, context), stage.settings(context)
    (folder / "manifest.json").unlink(missing_ok=True)
    started, clock = datetime.now(UTC), time.monotonic()
    metrics = stage.run(context)
    write_metrics(folder, metrics)
    context.forget_fingerprints()
    manifest = Manifest(
        stage=stage.name,
        version=stage.version,
        settings=settings,
        inputs=inputs,
        outputs=stamp_files(folder, stage.outputs),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 2),
        environment=environment(),
    )
    write_atomically(folder / "manifest.json", [manifest.model_dump_json(indent=2).encode()])
    context.progress.say(f"{stage.name}: done in {manifest.seconds:.1f} s{_remark(metrics)}")
    for said in (*losses(stage.name, metrics), hint(stage.name, metrics)):
        if said:
            context.progress.say(said)


def _reasons(stage: Stage, context: Context) -> list[str]:
    """Say why a stage is stale, given that the stages before it are as they will be."""
    folder = context.stage_dir(stage.name)
    manifest = read_manifest(folder)
    if manifest is None:
        return ["not finished before" if folder.exists() else "never ran"]
    if manifest.version != stage.version:
        return [f"made by version {manifest.version} of this stage, now {stage.version}"]
    reasons = changes(manifest.settings, stage.settings(context), stage.name)
    now = _inputs(stage, context)
    for name in sorted({*now, *manifest.inputs}):
        if name not in now:
            reasons.append(f"{name} was removed")
        elif name not in manifest.inputs:
            reasons.append(f"{name} was added")
        elif now[name] != manifest.inputs[name]:
            reasons.append(f"{name} changed")
    if not reasons and outputs_hash(folder, manifest) is None:
        reasons.append("its files are missing")
    return reasons


def _inputs(stage: Stage, context: Context) -> dict[str, str]:
    """Return the hashes of all that a stage reads."""
    upstream = {need: _output(need, context) for need in stage.needs(context.settings)}
    return {**upstream, **stage.inputs(context)}


def _output(name: str, context: Context) -> str:
    folder = context.stage_dir(name)
    manifest = read_manifest(folder)
    return (manifest and outputs_hash(folder, manifest)) or "not finished"


def _write_pipeline(context: Context) -> None:
    """Keep the pipeline and the constitution as they are now beside what is made from them."""
    resolved = {
        "pipeline.yaml": context.settings.model_dump(mode="json", exclude_none=True),
        "constitution.yaml": {
            "schema": 1,
            **context.constitution.model_dump(mode="json", exclude_none=True),
        },
    }
    for name, value in resolved.items():
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
        write_atomically(context.folder / name, [text.encode()])


def _remark(metrics: dict[str, Any]) -> str:
    if "states" in metrics:
        states = ", ".join(f"{count} {state}" for state, count in sorted(metrics["states"].items()))
        reused = metrics["rows_reused"]
        return f": {states or 'no rows'}" + (f" ({reused} reused)" if reused else "")
    if "first_loss" in metrics:
        return f": loss {metrics['first_loss']:.3f} to {metrics['final_loss']:.3f}"
    return ""


def losses(stage: str, metrics: dict[str, Any]) -> list[str]:
    """Say why rows were lost, where many of them were; a tie is no loss."""
    rows, states = metrics.get("rows", 0), metrics.get("states", {})
    return [
        f"  {stage}: {states[state]:,} of {rows:,} rows are `{state}`. The first: {error}"
        for state, error in sorted(metrics.get("errors", {}).items())
        if state != "tie" and states[state] > NOTICED_SHARE * rows
    ]


def hint(stage: str, metrics: dict[str, Any]) -> str | None:
    """Say what would make a data stage faster, if rows waited although its engine had room."""
    seconds = metrics.get("engine_seconds", 0.0)
    starved = metrics.get("engine_starved_seconds", 0.0)
    waited = metrics.get("rows_waited", 0)
    if not waited or seconds < NOTICED_SECONDS or starved < seconds / 2:
        return None
    return (
        f"  {stage}: for {starved:.0f} of {seconds:.0f} s the engine had few rows at once and room "
        f"for more, while up to {waited:,} rows waited. Raise `{stage}.concurrency`."
    )


@contextmanager
def _locked(context: Context) -> Generator[None]:
    """Keep a second process out of the run folder."""
    context.folder.mkdir(parents=True, exist_ok=True)
    with (context.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaiError(
                f"Another process is running in {context.folder}. Wait for it, or give this run a "
                "folder of its own with `--out`."
            ) from None
        yield
