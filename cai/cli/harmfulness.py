"""`cai harmfulness`."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console

from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.pipeline.progress import Progress
from cai.pipeline.sets import RATINGS, read_rated
from cai.records import RatedRow
from cai.settings import ModelSettings, OptimizerSettings, SourceSettings

PLAYGROUND_ROWS = 600


def harmfulness_command(
    ratings: str, *, base: ModelSettings, out: Path, changes: list[str], seed: int
) -> None:
    """Train a harmfulness model and say how good it is on ratings that it has not seen."""
    from cai.harmfulness import train_harmfulness

    console = Console(soft_wrap=True)
    settings, rated = _settings(changes), _rated(ratings, seed)
    with Progress(console).training("harmfulness") as show:
        found = train_harmfulness(
            settings,
            rated=rated,
            base=base,
            out=out,
            seed=seed,
            log_dir=out.parent / f"{out.name}-logs",
            on_step=show,
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
    console.print(f"Written: {out}", markup=False, highlight=False)


def _rated(ratings: str, seed: int) -> list[RatedRow]:
    limit = PLAYGROUND_ROWS if ratings == RATINGS else None
    return read_rated(SourceSettings(path=ratings, limit=limit), seed=seed, base_dir=Path())


def _settings(changes: list[str]) -> OptimizerSettings:
    values: dict[str, object] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in OptimizerSettings.model_fields:
            hint = did_you_mean(key, OptimizerSettings.model_fields)
            raise CaiError(f"`--set {change}` names no setting of a training, {hint}")
        values[key] = yaml.safe_load(text)
    try:
        return OptimizerSettings.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise CaiError(f"`--set {first['loc'][0]}=…`: {first['msg']}") from None
