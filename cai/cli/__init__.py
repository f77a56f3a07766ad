"""The command line: one thin function per command."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from cai import __version__
from cai.cli import completion, constitution, prompts
from cai.cli.commands import Commands
from cai.cli.evaluate_options import EvaluateOptions
from cai.cli.options import (
    MODEL_HELP,
    Model,
    ModelChanges,
    Seed,
    compare_settings,
    from_fields,
    model_settings,
)
from cai.constitution import load_constitution

app = typer.Typer(
    cls=Commands,
    name="cai",
    help="Constitutional AI: from a YAML constitution to a harmless, helpful model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(constitution.app, name="constitution")
app.add_typer(prompts.app, name="prompts")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ["CAI_DEBUG"] = "1"
    if version:
        typer.echo(f"cai {__version__}")
        raise typer.Exit


@app.command("run")
def _run(
    pipeline: Annotated[
        Path,
        typer.Argument(
            help="A pipeline file, or the name of a shipped one (`quickstart`).",
            autocompletion=completion.shipped,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder; `runs/NAME` if left out.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: `ppo.steps=10`."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Run only this stage.", autocompletion=completion.stage_names),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and why, without running it.")
    ] = False,
) -> None:
    """Run a pipeline. Stages that are up to date are skipped; interrupted ones continue."""
    from cai.cli.run import run_command

    run_command(pipeline, out=out, changes=changes or [], only=only, dry_run=dry_run)


@app.command("report")
def _report(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second run to compare with the first.")
    ] = None,
) -> None:
    """Print the results of a run and write its report again, or compare two runs."""
    from cai.cli.run import compare_command, report_command

    if other is None:
        report_command(run_folder)
    else:
        compare_command(run_folder, other)


@app.command("view")
def _view(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    constitution: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The constitution to try and edit; the run's own if left out."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model to try: one of the run (`helpful-only`, `sl-cai`, `rl-cai`, …), a "
            "model folder, a hub id, or `playground`.",
            autocompletion=completion.model_names,
        ),
    ] = "helpful-only",
    model_set: ModelChanges = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, or only print its link.")
    ] = True,
) -> None:
    """Open a run's report in the browser, and try and edit its constitution there."""
    from cai.cli.view import view_command

    view_command(
        run_folder,
        constitution=constitution,
        model=model,
        model_changes=model_set,
        port=port,
        browser=browser,
    )


@app.command("why")
def _why(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    row: Annotated[str, typer.Argument(help="The key of a chain, a pair, a judgement or a label.")],
    prompts: Annotated[
        bool, typer.Option("--prompts/--no-prompts", help="Print every prompt in full.")
    ] = True,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Print prompts as the model's chat template writes them."),
    ] = False,
) -> None:
    """Show how a revision or a label was made: prompts, principles, numbers, policy, result."""
    from cai.cli.why import why_command

    why_command(run_folder, row, prompts=prompts, exact=exact)


@app.command("revisions")
def _revisions(
    target: Annotated[
        str, typer.Argument(help="A run folder, or a file of chains (docs/revisions.md).")
    ],
    constitution_: Annotated[
        str | None,
        typer.Option(
            "--constitution",
            help="Whose worked examples and principles were shown; a run's own if left out.",
        ),
    ] = None,
    flaw: Annotated[
        str | None, typer.Option(help="Show every text with this flaw: `copied`, `echo`, …")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it to this file.")
    ] = None,
) -> None:
    """Show whether critiques and revisions are fit to train on, and what is wrong with them."""
    from cai.cli.revisions import revisions_command

    revisions_command(target, constitution=constitution_, flaw=flaw, json_file=json_file)


@app.command("feedback")
def _feedback(
    comparisons: Annotated[
        list[str],
        typer.Argument(
            help="Files of comparisons whose better response is known, or `playground:feedback`."
        ),
    ],
    constitution_: Annotated[
        str, typer.Option("--constitution", help="A built-in name or a file.")
    ] = "playground",
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
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all measures to this file.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure how good a feedback model's labels are, before anything is trained on them.

    Accuracy, two baselines, calibration, position bias and length bias, with intervals.
    """
    from cai.cli.feedback import feedback_command

    feedback_command(
        comparisons,
        constitution=load_constitution(constitution_),
        model=model_settings(model, model_set),
        settings=compare_settings(changes),
        limit=limit,
        seed=seed,
        json_file=json_file,
    )


@app.command("export")
def _export(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    stage: Annotated[
        str,
        typer.Argument(
            help="The stage: `revise`, `compare`, …", autocompletion=completion.data_stages
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    file_format: Annotated[
        str,
        typer.Option("--format", help="`jsonl` (all rows), `parquet` (trainable ones), or `trl`."),
    ] = "jsonl",
) -> None:
    """Write the data set of a stage to a file."""
    from cai.cli.export import export_command

    export_command(run_folder, stage, out=out, file_format=file_format)


@app.command("evaluate")
@from_fields(EvaluateOptions)
def _evaluate(options: EvaluateOptions) -> None:
    """Evaluate models: rates with intervals, Elo, known prompt sets, and more."""
    from cai.cli.evaluate import evaluate_command

    evaluate_command(options)


@app.command("harmfulness")
def _harmfulness(
    ratings: Annotated[
        str,
        typer.Argument(help="Conversations with a `rating` from 0 to 4, or `playground:ratings`."),
    ],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="The folder of the new model.")],
    model_set: ModelChanges = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A training setting: `learning_rate=…`."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a model that rates how harmful a response is, for `cai evaluate --harmfulness`."""
    from cai.cli.harmfulness import harmfulness_command
    from cai.cli.options import model_settings

    harmfulness_command(
        ratings, base=model_settings(model, model_set), out=out, changes=changes or [], seed=seed
    )


@app.command("chat")
def _chat(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    model_set: ModelChanges = None,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Use Human/Assistant transcripts (base models).")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    seed: Annotated[
        int, typer.Option(help="The seed; the same seed gives the same responses.")
    ] = 0,
) -> None:
    """Chat with a model."""
    from cai.cli.chat import chat_command

    chat_command(
        model_settings(model, [*(model_set or []), *(["format=transcript"] if transcript else [])]),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )


@app.command("doctor")
def _doctor() -> None:
    """Show what this machine can run, and what is missing."""
    from cai.cli.doctor import doctor_command

    doctor_command()


@app.command("settings")
def _settings() -> None:
    """Print every setting of a pipeline file, as Markdown."""
    from cai.cli.settings import settings_command

    settings_command()


def main() -> None:
    """Run the command line."""
    # Libraries' progress bars and remarks would break into ours; their errors still come through.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    app()
