"""`ppo`: SL-CAI and the preference model in, RL-CAI out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.data.records import PromptRow, content_hash
from cai.data.store import read_rows
from cai.pipeline.context import Context
from cai.pipeline.launch import Job, launcher_of, run_job
from cai.pipeline.stage import HELPFUL, POLICY, PREFERENCE_MODEL, PROMPTS, Need, Output, Stage
from cai.settings import ModelSettings, PPOSettings
from cai.training.snapshots import SNAPSHOTS


def _pretraining(context: Context[PPOSettings]) -> Path | None:
    data = context.settings.ptx_data
    return context.base_dir / data if data else None


def _independent(context: Context[PPOSettings]) -> ModelSettings | None:
    guard = context.settings.guard
    if guard is None or guard.independent is None:
        return None
    return ModelSettings(path=str(context.base_dir / guard.independent))


def _inputs(context: Context[PPOSettings]) -> dict[str, str]:
    """Hash what the stage reads from outside the run folder."""
    read: dict[str, str] = {}
    if independent := _independent(context):
        read["independent preference model"] = context.fingerprint(independent)
    texts = _pretraining(context)
    if texts is None or not texts.is_file():
        return read
    with texts.open("rb") as file:
        return read | {"pretraining texts": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


class PPOJob(Job, frozen=True):
    """The inputs and the output of PPO, so that other processes can run it.

    Attributes:
        policy: SL-CAI.
        preference_model: Its folder.
        independent: The folder of the preference model that only the guard asks.
        settings: The section of the stage.
        seed: The seed of the run.
        prompts: The rows of the `prompts` stage.
        pretraining: The texts of PPO-ptx.
        folder: The folder of the stage.
        log_dir: The folder of its TensorBoard logs.
    """

    work: str = f"{__name__}:PPOJob"
    policy: ModelSettings
    preference_model: Path
    independent: Path | None
    settings: PPOSettings
    seed: int
    prompts: Path
    pretraining: Path | None
    folder: Path
    log_dir: Path

    def run(self, on_step: Callable[[Mapping[str, float]], None]) -> dict[str, Any]:
        """Train, in this process or as one of several; return the metrics."""
        from cai.ppo import PPO
        from cai.ppo.pretraining import read_texts

        guard = self.settings.guard
        prompts = [row for row in read_rows(self.prompts, PromptRow) if row.split == "train"]
        held_out = watched(prompts, guard.prompts) if guard else []
        kept = {prompt.key for prompt in held_out}
        ppo = PPO(self.policy, self.preference_model, self.settings, seed=self.seed)
        metrics = ppo.train(
            [prompt for prompt in prompts if prompt.key not in kept],
            folder=self.folder,
            held_out=held_out,
            independent=self.independent,
            pretraining=read_texts(self.pretraining) if self.pretraining else (),
            log_dir=self.log_dir,
            on_step=on_step,
        )
        return dict(metrics)


def _run(context: Context[PPOSettings]) -> dict[str, Any]:
    settings, independent = context.settings, _independent(context)
    job = PPOJob(
        policy=context.policy,
        preference_model=context.source(PREFERENCE_MODEL) / "model",
        independent=Path(independent.path) if independent else None,
        settings=settings,
        seed=context.seed,
        prompts=context.source(PROMPTS) / "rows.jsonl",
        pretraining=_pretraining(context),
        folder=context.folder,
        log_dir=context.log_dir,
    )
    with context.progress.training(context.name) as show:

        def on_step(metrics: Mapping[str, float]) -> None:
            show({**metrics, "steps": settings.steps})

        launcher = launcher_of(settings, stage=context.name, base_dir=context.base_dir)
        file = job.folder / "job.json"
        return run_job(job, file, launcher, on_step=on_step, warn=context.progress.say)


def _check(context: Context[PPOSettings]) -> None:
    """Refuse a launcher or an engine that would not do, and texts that cannot be read."""
    settings = context.settings
    if settings.rollouts == "vllm":
        from cai.engines.vllm_arguments import check_vllm

        check_vllm()
    if found := launcher_of(settings, stage=context.name, base_dir=context.base_dir):
        from cai.ppo.check import check_shares
        from cai.training.processes import Processes

        sharded, deepspeed = found.kind == "FSDP", found.kind == "DEEPSPEED"
        check_shares(
            settings, Processes(count=found.processes, sharded=sharded, deepspeed=deepspeed)
        )
    if texts := _pretraining(context):
        from cai.ppo.pretraining import read_texts

        read_texts(texts)


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
    settings=PPOSettings,
    makes=Output("rl-cai", POLICY),
    needs=(
        Need(PROMPTS, ("prompts",)),
        Need(POLICY, ("sl-cai", HELPFUL)),
        Need(PREFERENCE_MODEL, ("preference-model",)),
    ),
    inputs=_inputs,
    run=_run,
    outputs=("model", "steps.jsonl", SNAPSHOTS),
    check=_check,
    trains=True,
)
