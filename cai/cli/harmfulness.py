"""`cai harmfulness`."""

from __future__ import annotations

from pathlib import Path

from cai.cli.console import plain_console
from cai.data.prompts import reader_of
from cai.data.store import write_rows
from cai.pipeline.launch import run_training
from cai.pipeline.progress import Progress
from cai.pipeline.validation import validated
from cai.settings import ModelSettings, OptimizerSettings, SourceSettings


def harmfulness_command(
    ratings: str, *, base: ModelSettings, out: Path, changes: list[str], seed: int
) -> None:
    """Train a harmfulness model and say how good it is on ratings that it has not seen."""
    console = plain_console(soft_wrap=True)
    settings = validated(OptimizerSettings, {}, changes)
    reader = reader_of(SourceSettings(path=ratings), Path())
    rated = reader.ratings(seed=seed)[: reader.default_ratings]
    data = out.parent / f"{out.name}-ratings.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
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
