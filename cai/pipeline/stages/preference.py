"""`preference`: comparisons in, the preference model out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage
from cai.settings import PreferenceSettings

VERSION = 1


def _settings(context: Context) -> PreferenceSettings:
    return context.settings.preference or PreferenceSettings()


def _run(context: Context) -> dict[str, Any]:
    from cai.preference import train_preference

    with context.progress.training("preference") as on_step:
        return dict(
            train_preference(
                _settings(context),
                data=context.stage_dir("compare") / "train.parquet",
                base=context.sl_cai,
                out=context.stage_dir("preference") / "model",
                seed=context.settings.seed,
                log_dir=context.log_dir / "preference",
                on_step=on_step,
            )
        )


STAGE = Stage(
    name="preference",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda settings: ("compare", "sft") if settings.sft else ("compare",),
    inputs=lambda context: (
        {} if context.settings.sft else {"helpful model": context.fingerprint(context.helpful)}
    ),
    run=_run,
    outputs=("model",),
)
