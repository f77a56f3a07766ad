"""`cai constitution test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cai.cli.console import bar, plain_console, plain_table, with_engine
from cai.cli.options import (
    ConstitutionFile,
    Model,
    ModelChanges,
    Reasoning,
    Seed,
    model_settings,
    output_file,
)
from cai.compare import FeedbackJudge
from cai.constitution import load_constitution
from cai.data.store import write_atomically
from cai.errors import CaiError
from cai.settings import CompareSettings
from cai.workbench.testing import Outcome, accuracy, by_principle, failing, junit, run_tests, told


def judge_tests(
    file: ConstitutionFile,
    model: Model = "playground",
    model_set: ModelChanges = None,
    reasoning: Reasoning = False,
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="The share of each principle's tests that must pass."),
    ] = 1.0,
    junit_path: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="PATH", callback=output_file, help="Write the outcomes as JUnit XML."
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="The temperature of critiques and reasoning.")
    ] = 0.0,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The longest critique or chain of thought, in tokens.")
    ] = 256,
    seed: Seed = 0,
) -> None:
    """Run the tests in a constitution against a feedback model.

    The exit status is 1 if a principle passes a smaller share of its tests than the threshold.
    """
    constitution = load_constitution(file)
    settings = CompareSettings(
        reasoning=reasoning,
        reasoning_tokens=max_new_tokens,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    if not any(principle.tests for principle in constitution.principles):
        raise CaiError(
            f"No principle of {constitution.name!r} has tests: add some under `tests:`, such as"
            " {prompt, better, worse} or {prompt, response, flagged}."
        )
    console, judge = plain_console(), FeedbackJudge(constitution, settings, seed)
    task = bar(console, "Testing")
    outcomes = with_engine(
        console, model_settings(model, model_set), lambda engine: run_tests(judge, engine, task)
    )
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
    table = plain_table("principle", "tests", "passed", "accuracy (95% interval)", "P(A)+P(B)")
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
