"""`harmfulness`: rated conversations in, a model that rates harm from 0 to 4 out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.sets import RATINGS, rated_fingerprint, read_rated
from cai.pipeline.stage import Context, Stage, check_launcher, train_model
from cai.prompts import exclude_held_out
from cai.records import PromptRow
from cai.settings import HarmfulnessSettings
from cai.store import read_rows, write_rows

VERSION = 1
TRAIN = "cai.training.harmfulness:train_harmfulness"


def _settings(context: Context) -> HarmfulnessSettings:
    settings = context.settings.harmfulness
    assert settings is not None, "the stage runs when its section is present"
    return settings


def _run(context: Context) -> dict[str, Any]:
    settings, seed = _settings(context), context.settings.seed
    rated = read = read_rated(settings.ratings, seed=seed, base_dir=context.base_dir)
    if settings.ratings.path != RATINGS:  # the playground's keep to its own split
        prompts = read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)
        rated = exclude_held_out(read, prompts, context.settings.prompts.near_duplicate)
    data = context.stage_dir("harmfulness") / "model-ratings.jsonl"
    write_rows(data, rated)
    found = train_model(context, "harmfulness", TRAIN, settings, data, context.base)
    return {**found, "ratings_of_held_out_prompts": len(read) - len(rated)}


def _inputs(context: Context) -> dict[str, str]:
    source = _settings(context).ratings
    return {
        "base model": context.fingerprint(context.base),
        source.path: rated_fingerprint(source, base_dir=context.base_dir),
    }


STAGE = Stage(
    name="harmfulness",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda _: ("prompts",),
    inputs=_inputs,
    run=_run,
    outputs=("model",),
    check=lambda context: check_launcher(context, "harmfulness", _settings(context)),
)
