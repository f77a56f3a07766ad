"""`ppo`: SL-CAI and the preference model in, RL-CAI out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage
from cai.records import PromptRow, content_hash
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
    rows = read_rows(context.stage_dir("prompts") / "rows.jsonl", PromptRow)
    prompts = [prompt for prompt in rows if prompt.split == "train"]
    held_out = watched(prompts, settings.guard.prompts) if settings.guard else []
    kept = {prompt.key for prompt in held_out}
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
                [prompt for prompt in prompts if prompt.key not in kept],
                context.stage_dir("ppo"),
                held_out=held_out,
                pretraining=read_texts(texts) if texts else (),
                log_dir=context.log_dir / "ppo",
                on_step=on_step,
            )
        )


def watched(prompts: Sequence[PromptRow], count: int) -> list[PromptRow]:
    """Choose the guard's prompts among those for training, so that evaluation sees none of them.

    Whole tasks, at most a tenth of the prompts of each kind, and about `count` of each.
    """
    chosen: list[PromptRow] = []
    for kind in ("red_team", "helpful"):
        by_task: dict[str, list[PromptRow]] = {}
        of_kind = [prompt for prompt in prompts if prompt.kind == kind]
        for prompt in of_kind:
            by_task.setdefault(prompt.task, []).append(prompt)
        room = min(count, len(of_kind) // 10)
        for task in sorted(by_task, key=lambda task: content_hash("guard", task)):
            if len(by_task[task]) <= room:
                chosen += by_task[task]
                room -= len(by_task[task])
    return chosen


STAGE = Stage(
    name="ppo",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda settings: ("prompts", *(("sft",) if settings.sft else ()), "preference"),
    inputs=_inputs,
    run=_run,
    outputs=("model", "steps.jsonl", "snapshots"),
)
