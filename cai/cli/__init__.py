"""The command line: one function per command, imported when it is asked for."""

from __future__ import annotations

import logging
import os
from typing import Annotated, ClassVar

import typer

from cai import __version__
from cai.cli.commands import Commands


class _Cai(Commands):
    deferred: ClassVar = {
        "run": "cai.cli.run:run",
        "report": "cai.cli.run:report",
        "view": "cai.cli.view:view",
        "why": "cai.cli.why:why",
        "revisions": "cai.cli.revisions:revisions",
        "feedback": "cai.cli.feedback:feedback",
        "export": "cai.cli.export:export",
        "evaluate": "cai.cli.evaluate:command",
        "harmfulness": "cai.cli.harmfulness:harmfulness",
        "chat": "cai.cli.chat:chat",
        "doctor": "cai.cli.doctor:doctor",
        "settings": "cai.cli.settings:settings",
        "constitution": "cai.cli.constitution:app",
        "prompts": "cai.cli.prompts:app",
    }


app = typer.Typer(
    cls=_Cai,
    name="cai",
    help="Constitutional AI: from a YAML constitution to a harmless, helpful model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def main() -> None:
    """Run the command line."""
    # Libraries' progress bars and remarks would break into ours; their errors still come through.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    app()
