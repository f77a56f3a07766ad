"""`sft`, `dpo`, `preference` and `harmfulness`: rows in, a model trained on them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai.data.prompts import exclude_held_out, fingerprints, reader_of
from cai.data.records import PromptRow
from cai.data.store import read_rows, write_rows
from cai.pipeline.context import Context
from cai.pipeline.launch import launcher_of, run_training
from cai.pipeline.stage import (
    BASE,
    COMPARISONS,
    COMPLETIONS,
    HARMFULNESS_MODEL,
    HELPFUL,
    POLICY,
    PREFERENCE_MODEL,
    PROMPTS,
    Need,
    Output,
    Stage,
)
from cai.pipeline.training_data import TRAIN
from cai.settings import (
    DpoSettings,
    HarmfulnessSettings,
    PreferenceSettings,
    PromptsSettings,
    SftSettings,
)


def _train(context: Context[Any], train: str, data: Path) -> dict[str, Any]:
    """Train the model of a stage on rows, from the policy that it reads; return the metrics."""
    return run_training(
        train,
        context.settings,
        stage=context.name,
        data=data,
        base=context.policy,
        out=context.folder / "model",
        seed=context.seed,
        log_dir=context.log_dir,
        base_dir=context.base_dir,
        progress=context.progress,
    )


def _check(context: Context[Any]) -> None:
    launcher_of(context.settings, stage=context.name, base_dir=context.base_dir)


def _trained_on(kind: str, train: str) -> Callable[[Context[Any]], dict[str, Any]]:
    """Return the function of a stage that trains on the `train.parquet` of another stage."""

    def run(context: Context[Any]) -> dict[str, Any]:
        return _train(context, train, context.source(kind) / TRAIN)

    return run


def _harmfulness(context: Context[HarmfulnessSettings]) -> dict[str, Any]:
    reader = reader_of(context.settings.ratings, context.base_dir)
    rated = read = reader.ratings(seed=context.seed)
    if not reader.own_split:
        prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
        near = context.section_of(PROMPTS, PromptsSettings).near_duplicate
        rated = exclude_held_out(read, prompts, near)
    data = context.folder / "model-ratings.jsonl"
    write_rows(data, rated)
    found = _train(context, "cai.training.harmfulness:train_harmfulness", data)
    return {**found, "ratings_of_held_out_prompts": len(read) - len(rated)}


def _ratings(context: Context[HarmfulnessSettings]) -> dict[str, str]:
    return fingerprints([context.settings.ratings], "ratings", context.base_dir)


SFT = Stage(
    name="sft",
    settings=SftSettings,
    makes=Output("sl-cai", POLICY),
    needs=(Need(COMPLETIONS, ("revisions",)), Need(POLICY, (BASE,))),
    run=_trained_on(COMPLETIONS, "cai.training.sft:train_sft"),
    outputs=("model",),
    check=_check,
    trains=True,
)
DPO = Stage(
    name="dpo",
    settings=DpoSettings,
    makes=Output("dpo-cai", POLICY),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=_trained_on(COMPARISONS, "cai.training.dpo:train_dpo"),
    outputs=("model",),
    check=_check,
    trains=True,
)
PREFERENCE = Stage(
    name="preference",
    settings=PreferenceSettings,
    makes=Output("preference-model", PREFERENCE_MODEL),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=_trained_on(COMPARISONS, "cai.training.preference:train_preference"),
    outputs=("model",),
    check=_check,
    trains=True,
)
HARMFULNESS = Stage(
    name="harmfulness",
    settings=HarmfulnessSettings,
    makes=Output("harmfulness-model", HARMFULNESS_MODEL),
    needs=(Need(PROMPTS, ("prompts",)), Need(POLICY, (BASE,))),
    inputs=_ratings,
    run=_harmfulness,
    outputs=("model",),
    check=_check,
    trains=True,
)
