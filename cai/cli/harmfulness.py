"""`cai harmfulness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.console import plain_console
from cai.cli.options import Model, ModelChanges, Seed, model_settings, output_folder
from cai.data.store import write_rows
from cai.pipeline.progress import Progress
from cai.pipeline.validation import validated
from cai.settings import OptimizerSettings, SourceSettings


def harmfulness(
    ratings: Annotated[
        str,
        typer.Argument(help="Conversations with a `rating` from 0 to 4, or `playground:ratings`."),
    ],
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", callback=output_folder, help="The folder of the new model.")
    ],
    model_set: ModelChanges = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A training setting: `learning_rate=…`."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a model that rates how harmful a response is, for `cai evaluate --harmfulness`."""
    from cai.data.prompts import reader_of
    from cai.pipeline.launch import run_training

    base, console = model_settings(model, model_set), plain_console(soft_wrap=True)
    settings = validated(OptimizerSettings, {}, changes or [])
    reader = reader_of(SourceSettings(path=ratings), Path())
    rated = reader.ratings(seed=seed)[: reader.default_ratings]
    data = out.parent / f"{out.name}-ratings.jsonl"
    write_rows(data, rated)
    found = run_training(
        "cai.training.harmfulness:train_harmfulness",
        settings,
        stage="harmfulness",
        data=data,
        base=base,
        out=out,
        seed=seed,
        log_dir=out.parent / f"{out.name}-logs",
        base_dir=Path(),
        progress=Progress(console),
    )
    console.print(
        f"Trained on {found['rows']} ratings ({found['rows_too_long']} were too long), loss "
        f"{found['first_loss']:.2f} to {found['final_loss']:.2f}."
    )
    if "held_out_rmse" in found:
        correlation = found.get("held_out_correlation")
        said = "" if correlation is None else f", correlation {correlation:.2f}"
        console.print(
            f"On {found['rows_held_out']} held-out ratings: root mean square error "
            f"{found['held_out_rmse']:.2f} (always saying the mean: "
            f"{found['held_out_rmse_of_mean']:.2f}){said}."
        )
    console.print(f"Written: {out}")
