"""`cai constitution test`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer
from rich.table import Table

from cai.cli.console import bar, plain_console
from cai.compare import FeedbackJudge
from cai.constitution import Constitution
from cai.data.store import write_atomically
from cai.errors import CaiError
from cai.settings import CompareSettings, ModelSettings
from cai.workbench.testing import Outcome, accuracy, by_principle, failing, junit, run_tests, told


def test_command(
    constitution: Constitution,
    *,
    model: ModelSettings,
    settings: CompareSettings,
    threshold: float,
    junit_path: Path | None,
    seed: int,
) -> None:
    """Run a constitution's tests and print accuracies.

    Raises:
        CaiError: There are no tests.
        typer.Exit: With status 1, when a principle falls below the threshold.
    """
    from cai.engines.opening import open_engine

    if not any(principle.tests for principle in constitution.principles):
        raise CaiError(
            f"No principle of {constitution.name!r} has tests: add some under `tests:`, such as"
            " {prompt, better, worse} or {prompt, response, flagged}."
        )
    console = plain_console()
    with console.status(f"Loading {model.path} …"):
        engine = open_engine(model)
    judge = FeedbackJudge(constitution, settings, seed)

    async def run() -> list[Outcome]:
        try:
            return await run_tests(judge, engine, bar(console, "Testing"))
        finally:
            await engine.close()

    outcomes = asyncio.run(run())
    if junit_path is not None:
        write_atomically(junit_path, [junit(constitution.name, outcomes)])
    console.print(_table(outcomes))
    for outcome in outcomes:
        if not outcome.passed:
            line = f"{outcome.principle}, test {outcome.number}, {outcome.test.prompt!r}"
            console.print(f"\n{line}\n  {told(outcome)}", soft_wrap=True)
    below = failing(outcomes, threshold)
    if below:
        console.print(f"\nBelow the threshold of {threshold:g}: {', '.join(below)}", style="red")
        raise typer.Exit(1)


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("principle", overflow="fold")
    for heading in ("tests", "passed", "accuracy (95% interval)", "P(A)+P(B)"):
        table.add_column(heading, justify="right")
    for name, group in by_principle(outcomes).items():
        table.add_row(name, *_cells(group))
    if len(by_principle(outcomes)) > 1:
        table.add_row("all", *_cells(outcomes), style="bold")
    return table


def _cells(outcomes: list[Outcome]) -> list[str]:
    found = accuracy(outcomes)
    masses = [o.mass for o in outcomes if o.mass is not None]
    if found.value is None or found.low is None or found.high is None:
        interval = "no verdict"
    else:
        interval = f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    mass = f"{sum(masses) / len(masses):.3f}" if masses else ""
    return [str(len(outcomes)), str(sum(bool(o.passed) for o in outcomes)), interval, mass]
