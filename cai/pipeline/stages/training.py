"""`sft`, `dpo`, `kto`, `preference`, …: rows in, a model trained on them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai.data.prompts import fingerprints, reader_of
from cai.data.records import RatedRow
from cai.data.store import write_rows
from cai.data.tables import LABELLED_COLUMNS, write_parquet
from cai.pipeline.context import Context
from cai.pipeline.data_stage import not_held_out
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
from cai.pipeline.training_data import TRAIN, labelled, labelled_of_comparisons
from cai.settings import (
    DpoSettings,
    HarmfulnessSettings,
    KtoSettings,
    PreferenceSettings,
    SftSettings,
    SourceSettings,
    VerifierSettings,
)
from cai.training.snapshots import SNAPSHOTS


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


def _kto(context: Context[KtoSettings]) -> dict[str, Any]:
    """Train on rated responses, or on both responses of each comparison."""
    data, settings = context.folder / "labelled.parquet", context.settings
    left_out: dict[str, int] = {}
    if settings.ratings is None:
        rows = labelled_of_comparisons(context.source(COMPARISONS) / TRAIN)
    else:
        rated, left_out = _rated(context, settings.ratings)
        rows = [labelled(row, float(row.rating <= settings.acceptable)) for row in rated]
    write_parquet(data, rows, LABELLED_COLUMNS)
    return _train(context, "cai.training.kto:train_kto", data) | left_out


def _rated(context: Context[Any], source: SourceSettings) -> tuple[list[RatedRow], dict[str, int]]:
    """Read rated responses, without those to held-out prompts, which the metrics count."""
    reader = reader_of(source, context.base_dir)
    rated = read = reader.ratings(seed=context.seed)
    if not reader.own_split:
        rated = not_held_out(context, read)
    return rated, {"ratings_of_held_out_prompts": len(read) - len(rated)}


def _ratings(context: Context[Any]) -> dict[str, str]:
    source: SourceSettings | None = context.settings.ratings
    return fingerprints([source], "ratings", context.base_dir) if source else {}


def _verifier(context: Context[VerifierSettings]) -> dict[str, Any]:
    """Train a policy, and say of what its log-ratio is a score."""
    from cai.models.implicit_reward import write_reward

    found = _train(context, "cai.training.dpo:train_dpo", context.source(COMPARISONS) / TRAIN)
    write_reward(context.folder / "model", context.policy, context.settings.beta)
    return found


def _harmfulness(context: Context[HarmfulnessSettings]) -> dict[str, Any]:
    rated, left_out = _rated(context, context.settings.ratings)
    data = context.folder / "model-ratings.jsonl"
    write_rows(data, rated)
    return _train(context, "cai.training.harmfulness:train_harmfulness", data) | left_out


SFT = Stage(
    name="sft",
    settings=SftSettings,
    makes=Output("sl-cai", POLICY),
    needs=(Need(COMPLETIONS, ("revisions",)), Need(POLICY, (BASE,))),
    run=_trained_on(COMPLETIONS, "cai.training.sft:train_sft"),
    outputs=("model", SNAPSHOTS),
    check=_check,
    trains=True,
)
DPO = Stage(
    name="dpo",
    settings=DpoSettings,
    makes=Output("dpo-cai", POLICY),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=_trained_on(COMPARISONS, "cai.training.dpo:train_dpo"),
    outputs=("model", SNAPSHOTS),
    check=_check,
    trains=True,
)
KTO = Stage(
    name="kto",
    settings=KtoSettings,
    makes=Output("kto-cai", POLICY),
    needs=(
        Need(PROMPTS, ("prompts",)),
        Need(
            COMPARISONS,
            ("comparisons",),
            wanted=lambda settings: settings.ratings is None,
            instead="name rated responses (`{}.ratings`)",
        ),
        Need(POLICY, ("sl-cai", HELPFUL)),
    ),
    inputs=_ratings,
    run=_kto,
    outputs=("model", SNAPSHOTS),
    check=_check,
    trains=True,
)
VERIFIER = Stage(
    name="verifier",
    settings=VerifierSettings,
    makes=Output("verifier", PREFERENCE_MODEL),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=_verifier,
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
