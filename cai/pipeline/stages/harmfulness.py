"""`harmfulness`: rated conversations in, a model that rates harm from 0 to 4 out."""

from __future__ import annotations

from typing import Any

from cai.data.prompts import exclude_held_out, fingerprints, reader_of
from cai.data.records import PromptRow
from cai.data.store import read_rows, write_rows
from cai.pipeline.context import Context
from cai.pipeline.stage import BASE, HARMFULNESS_MODEL, POLICY, PROMPTS, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, train_model
from cai.settings import HarmfulnessSettings, PromptsSettings

TRAIN = "cai.training.harmfulness:train_harmfulness"


def _run(context: Context[HarmfulnessSettings]) -> dict[str, Any]:
    settings, folder = context.settings, context.source(PROMPTS)
    reader = reader_of(settings.ratings, context.base_dir)
    rated = read = reader.ratings(seed=context.seed)
    if not reader.own_split:
        prompts = read_rows(folder / "rows.jsonl", PromptRow)
        near = context.section_of(PROMPTS, PromptsSettings).near_duplicate
        rated = exclude_held_out(read, prompts, near)
    data = context.folder / "model-ratings.jsonl"
    write_rows(data, rated)
    found = train_model(context, TRAIN, data)
    return {**found, "ratings_of_held_out_prompts": len(read) - len(rated)}


def _inputs(context: Context[HarmfulnessSettings]) -> dict[str, str]:
    return fingerprints([context.settings.ratings], "ratings", context.base_dir)


STAGE = Stage(
    name="harmfulness",
    settings=HarmfulnessSettings,
    makes=Output("harmfulness-model", HARMFULNESS_MODEL),
    needs=(Need(PROMPTS, ("prompts",)), Need(POLICY, (BASE,))),
    inputs=_inputs,
    run=_run,
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
