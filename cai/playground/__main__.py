"""`python -m cai.playground`: train the tiny model, and check it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The folder to write the model to.")] = Path(
        "playground-model"
    ),
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 5000,
    minutes: Annotated[
        float | None, typer.Option(help="Train for about this long instead of --steps.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and documents.")] = 0,
) -> None:
    """Pretrain the tiny model, or continue from its checkpoint."""
    from cai.playground.training import train as pretrain

    pretrain(
        out,
        steps=sys.maxsize if minutes else steps,
        minutes=minutes,
        seed=seed,
        on_log=lambda row: typer.echo(json.dumps(row)),
    )


@app.command()
def samples(seed: Annotated[int, typer.Option(help="Of the documents.")] = 0) -> None:
    """Print one pretraining document of each kind."""
    from cai.constitution import load_constitution
    from cai.playground.documents import DocumentWriter
    from cai.playground.tokens import plain_text
    from cai.playground.world import build_world

    writer, rng = DocumentWriter(build_world(), load_constitution("playground")), Random(seed)
    for kind in writer.kinds:
        typer.echo(f"--- {kind.__name__}\n{plain_text(kind(rng))}\n")


@app.command()
def gates(
    model: Annotated[str, typer.Argument(help="A model folder.")] = "playground",
) -> None:
    """Print the measurements of a model on held-out tasks; status 1 if one is out of its bounds."""
    from cai.playground.gates import measure, show

    if not show(measure(model)):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
