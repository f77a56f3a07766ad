"""Decide which stages are stale, run them in order, and print messages."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cai.data.store import check_output, write_atomically
from cai.errors import CaiError
from cai.pipeline.context import Context, Run
from cai.pipeline.manifest import (
    Manifest,
    changes,
    environment,
    outputs_hash,
    read_manifest,
    significant,
    stamp_files,
    write_metrics,
)

NOTICED_SECONDS = 10.0
"""There is no hint about a stage whose engine took less."""
NOTICED_SHARE = 0.1
"""There is a remark if a larger share of the rows ends in a state other than `ok`."""


def plan(run: Run, only: str | None = None) -> dict[str, list[str]]:
    """Return by stage why it would run; a stage without a reason is up to date.

    Raises:
        CaiError: `only` cannot run alone (as in `run_pipeline`), or the run folder is a file.
    """
    check_output(run.folder, folder=True)
    reasons: dict[str, list[str]] = {}
    for placed in run.stages:
        upstream = [name for name in placed.upstream if reasons[name]]
        # What an upstream stage will make is not known yet, so its hash cannot be compared.
        reasons[placed.name] = (
            [f"{', '.join(upstream)} will run"] if upstream else _reasons(run.context(placed))
        )
    if only is None:
        return reasons
    _check_only(only, run, reasons)
    return {only: reasons[only]}


def run_pipeline(run: Run, only: str | None = None) -> list[str]:
    """Run every stale stage in order; with `only`, just this one.

    Returns:
        The names of the stages that ran.

    Raises:
        CaiError: `only` is not a stage of this pipeline or its inputs are stale; a stage that would
            run lacks a model, a key, a server or an engine; or a stage fails. Finished rows and
            checkpoints are kept.
    """
    ran: list[str] = []
    with _locked(run):
        _check_ahead(run, only)
        _write_pipeline(run)
        for placed in run.stages:
            if only not in (None, placed.name):
                continue
            context = run.context(placed)
            reasons = _reasons(context)
            if reasons:
                _run_stage(context, reasons)
                ran.append(placed.name)
            else:
                run.progress.say(f"{placed.name}: up to date")
    return ran


def _check_only(only: str, run: Run, reasons: Mapping[str, Sequence[str]]) -> None:
    known = {placed.name: placed for placed in run.stages}
    if only not in known:
        raise CaiError(f"This pipeline has no stage `{only}`. It has: {', '.join(known)}.")
    for need in known[only].upstream:
        if reasons[need]:
            raise CaiError(
                f"`{only}` reads what `{need}` makes, and `{need}` is stale "
                f"({reasons[need][0]}). Run it first (`--only {need}`), or run the whole "
                "pipeline without `--only`."
            )


def _check_ahead(run: Run, only: str | None) -> None:
    """Say what a stage will lack from outside the run before any stage works for hours."""
    reasons = plan(run, only)
    for placed in run.stages:
        if reasons.get(placed.name):
            context = run.context(placed)
            _inputs_from_outside(context)  # finds model folders, keys, servers and their models
            placed.stage.check(context)


def _run_stage(context: Context[Any], reasons: list[str]) -> None:
    folder, stage, say = context.folder, context.placed.stage, context.progress.say
    folder.mkdir(parents=True, exist_ok=True)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    say(f"{context.name}: {reasons[0]}{more}")
    # Whatever happens from here on, this stage is not complete until its manifest is there again.
    inputs, settings = _inputs(context), _settings(context)
    (folder / "manifest.json").unlink(missing_ok=True)
    started, clock, processor = datetime.now(UTC), time.monotonic(), time.process_time()
    metrics = stage.run(context)
    # Of all threads of this process; processes of `launch` and vLLM's are not counted.
    metrics["processor_seconds"] = round(time.process_time() - processor, 2)
    write_metrics(folder, metrics)
    context.run.forget_fingerprints()
    manifest = Manifest(
        stage=context.name,
        version=stage.version,
        settings=settings,
        inputs=inputs,
        outputs=stamp_files(folder, stage.outputs),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 2),
        environment=environment(),
    )
    write_atomically(folder / "manifest.json", [manifest.model_dump_json(indent=2).encode()])
    say(f"{context.name}: done in {manifest.seconds:.1f} s{_remark(metrics)}")
    for said in (*losses(context.name, metrics), hint(context.name, metrics)):
        if said:
            say(said)


def _reasons(context: Context[Any]) -> list[str]:
    """Say why a stage is stale, given that the stages before it are as they will be."""
    folder, stage = context.folder, context.placed.stage
    manifest = read_manifest(folder)
    if manifest is None:
        return ["not finished before" if folder.exists() else "never ran"]
    if manifest.version != stage.version:
        return [f"made by version {manifest.version} of this stage, now {stage.version}"]
    reasons = changes(manifest.settings, _settings(context), context.name)
    now = _inputs(context)
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


def _settings(context: Context[Any]) -> dict[str, Any]:
    """Return the settings that determine what a stage makes."""
    return {**significant(context.settings), "seed": context.seed}


def _inputs(context: Context[Any]) -> dict[str, str]:
    """Return the hashes of all that a stage reads."""
    upstream = {name: _output(context.run.folder / name) for name in context.placed.upstream}
    return {**upstream, **_inputs_from_outside(context)}


def _inputs_from_outside(context: Context[Any]) -> dict[str, str]:
    return {**context.fingerprints_of_given(), **context.placed.stage.inputs(context)}


def _output(folder: Path) -> str:
    manifest = read_manifest(folder)
    return (manifest and outputs_hash(folder, manifest)) or "not finished"


def _write_pipeline(run: Run) -> None:
    """Keep the pipeline and the constitution as they are now beside what is made from them."""
    resolved = {
        "pipeline.yaml": run.pipeline.settings.model_dump(mode="json", exclude_none=True),
        "constitution.yaml": {
            "schema": 1,
            **run.pipeline.constitution.model_dump(mode="json", exclude_none=True),
        },
    }
    for name, value in resolved.items():
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
        write_atomically(run.folder / name, [text.encode()])


def _remark(metrics: dict[str, Any]) -> str:
    if "states" in metrics:
        states = ", ".join(f"{count} {state}" for state, count in sorted(metrics["states"].items()))
        reused = metrics["rows_reused"]
        return f": {states or 'no rows'}" + (f" ({reused} reused)" if reused else "")
    if "first_loss" in metrics:
        return f": loss {metrics['first_loss']:.3f} to {metrics['final_loss']:.3f}"
    return ""


def losses(stage: str, metrics: dict[str, Any]) -> list[str]:
    """Return why rows were lost, if many of them were; a tie is not a loss."""
    rows, states = metrics.get("rows", 0), metrics.get("states", {})
    return [
        f"  {stage}: {states[state]:,} of {rows:,} rows are `{state}`. The first: {error}"
        for state, error in sorted(metrics.get("errors", {}).items())
        if state != "tie" and states[state] > NOTICED_SHARE * rows
    ]


def hint(stage: str, metrics: dict[str, Any]) -> str | None:
    """Return how to make a data stage faster, if rows waited although its engine had room."""
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
def _locked(run: Run) -> Generator[None]:
    """Keep a second process out of the run folder."""
    check_output(run.folder, folder=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaiError(
                f"Another process is running in {run.folder}. Wait for it, or give this run "
                "another folder with `--out`."
            ) from None
        yield
