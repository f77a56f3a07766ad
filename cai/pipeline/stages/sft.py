"""`sft`: fine-tuning data in, SL-CAI out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage
from cai.settings import SftSettings

VERSION = 1


def _settings(context: Context) -> SftSettings:
    return context.settings.sft or SftSettings()


def _run(context: Context) -> dict[str, Any]:
    from cai.sft import train_sft

    with context.progress.training("sft") as on_step:
        return dict(
            train_sft(
                _settings(context),
                data=context.stage_dir("revise") / "train.parquet",
                base=context.base,
                out=context.stage_dir("sft") / "model",
                seed=context.settings.seed,
                log_dir=context.log_dir / "sft",
                on_step=on_step,
            )
        )


STAGE = Stage(
    name="sft",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda _: ("revise",),
    inputs=lambda context: {"base model": context.fingerprint(context.base)},
    run=_run,
    outputs=("model",),
)
