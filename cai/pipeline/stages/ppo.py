"""`ppo`: SL-CAI and the preference model in, RL-CAI out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage
from cai.records import PromptRow
from cai.settings import PPOSettings
from cai.store import read_rows

VERSION = 1


def _settings(context: Context) -> PPOSettings:
    return context.settings.ppo or PPOSettings()


def _pretraining(context: Context) -> Path | None:
    data = _settings(context).ptx_data
    return context.base_dir / data if data else None


def _inputs(context: Context) -> dict[str, str]:
    """Hash what the stage reads from outside the run folder."""
    model = {} if context.settings.sft else {"helpful model": context.fingerprint(context.helpful)}
    texts = _pretraining(context)
    if texts is None or not texts.is_file():
        return model
    with texts.open("rb") as file:
        return model | {"pretraining texts": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


def _run(context: Context) -> dict[str, Any]:
    from cai.ppo import PPO
    from cai.ppo.pretraining import read_texts

    settings = _settings(context)
    texts = _pretraining(context)
    prompts = read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)
    with context.progress.training("ppo") as show:

        def on_step(metrics: Mapping[str, float]) -> None:
            show({**metrics, "steps": settings.steps})

        ppo = PPO(
            context.sl_cai,
            context.stage_dir("preference") / "model",
            settings,
            seed=context.settings.seed,
        )
        return dict(
            ppo.train(
                [prompt for prompt in prompts if prompt.split == "train"],
                context.stage_dir("ppo"),
                pretraining=read_texts(texts) if texts else (),
                log_dir=context.log_dir / "ppo",
                on_step=on_step,
            )
        )


STAGE = Stage(
    name="ppo",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda settings: ("prompts", *(("sft",) if settings.sft else ()), "preference"),
    inputs=_inputs,
    run=_run,
    outputs=("model", "steps.jsonl"),
)
