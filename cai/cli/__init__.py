"""The command line: one function per command; what is heavy is imported when it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Annotated

import typer

from cai import __version__
from cai.cli import (
    chat,
    constitution,
    doctor,
    export,
    feedback,
    harmfulness,
    prompts,
    revisions,
    run,
    view,
    why,
)
from cai.cli.commands import Commands
from cai.cli.evaluate_options import EvaluateOptions
from cai.cli.options import from_fields

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


@from_fields(EvaluateOptions)
def _evaluate(options: EvaluateOptions) -> None:
    """Evaluate models: rates with intervals, Elo, known prompt sets, and more."""
    from cai.cli.evaluate import evaluate_command

    evaluate_command(options)


def _settings() -> None:
    """Print every setting of a pipeline file, as Markdown."""
    from cai.cli.settings import markdown

    typer.echo("\n".join(markdown()))


COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "report": run.report,
    "view": view.view,
    "why": why.why,
    "revisions": revisions.revisions,
    "feedback": feedback.feedback,
    "export": export.export,
    "evaluate": _evaluate,
    "harmfulness": harmfulness.harmfulness,
    "chat": chat.chat,
    "doctor": doctor.doctor,
    "settings": _settings,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Run the command line."""
    # Libraries' progress bars and remarks would break into ours; their errors still come through.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    app()
