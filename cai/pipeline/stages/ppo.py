"""`ppo`: SL-CAI and the preference model, or the principles themselves, in; RL-CAI out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cai.constitution import Constitution
from cai.data.records import PromptRow, content_hash
from cai.data.store import read_rows
from cai.errors import CaiError
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
    if context.settings.reward is not None:
        from cai.ppo.principles import PrincipleReward

        asked = PrincipleReward(context.constitution, context.feedback, context.settings.reward)
        held_out = asked.held_out()
        read |= {"feedback model": context.fingerprint(context.feedback), **asked.inputs()}
        read |= held_out.inputs() if held_out else {}
    texts = _pretraining(context)
    if texts is None or not texts.is_file():
        return read
    with texts.open("rb") as file:
        return read | {"pretraining texts": hashlib.file_digest(file, "sha256").hexdigest()[:16]}


class PPOJob(Job, frozen=True):
    """The inputs and the output of PPO, so that other processes can run it.

    Attributes:
        policy: SL-CAI.
        preference_model: Its folder; None if the reward does not need it.
        constitution: With the principles of the reward; None if no principle is asked about.
        feedback: The model that is asked about them.
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
    preference_model: Path | None
    constitution: Constitution | None = None
    feedback: ModelSettings | None = None
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
        with ExitStack() as stack:
            reward, independent = self._rewards(stack)
            metrics = PPO(self.policy, reward, self.settings, seed=self.seed).train(
                [prompt for prompt in prompts if prompt.key not in kept],
                folder=self.folder,
                held_out=held_out,
                independent=independent,
                pretraining=read_texts(self.pretraining) if self.pretraining else (),
                log_dir=self.log_dir,
                on_step=on_step,
            )
        return dict(metrics)

    def _rewards(self, stack: ExitStack) -> tuple[Any, Any]:
        """Return the reward, and the independent score of the guard; `stack` closes their model."""
        from cai.ppo import PrincipleReward

        settings = self.settings.reward
        if settings is None:
            return self.preference_model, self.independent
        assert self.constitution is not None
        assert self.feedback is not None
        asked = PrincipleReward(self.constitution, self.feedback, settings, seed=self.seed)
        stack.callback(asked.close)
        reward: dict[str, Any] = {"principles": (asked, settings.weight)}
        if settings.preference_weight:
            reward["preference"] = (self.preference_model, settings.preference_weight)
        held_out = asked.held_out()
        return reward, {"held_out": held_out} if held_out else self.independent


def _run(context: Context[PPOSettings]) -> dict[str, Any]:
    settings, independent = context.settings, _independent(context)
    asks = settings.reward is not None
    job = PPOJob(
        policy=context.policy,
        preference_model=context.source(PREFERENCE_MODEL) / "model"
        if _scores_with_preference_model(settings)
        else None,
        constitution=context.constitution if asks else None,
        feedback=context.feedback if asks else None,
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


def _scores_with_preference_model(settings: PPOSettings) -> bool:
    return settings.reward is None or settings.reward.preference_weight > 0


def _check_reward(context: Context[PPOSettings]) -> None:
    """Refuse a reward without its principles, or with a model that processes cannot share."""
    settings = context.settings
    if settings.reward is None:
        return
    from cai.engines.opening import check_engines
    from cai.ppo.principles import principles_of

    principles_of(context.constitution, settings.reward)
    if settings.launch is not None and context.feedback.engine == "vllm":
        raise CaiError(
            f"`{context.name}.launch` starts several processes, and each would start a vLLM of its "
            "own to ask for rewards. Start a server (`vllm serve MODEL`), and give it as "
            "`models.feedback` with `engine: openai`."
        )
    check_engines(context.feedback)


def _check(context: Context[PPOSettings]) -> None:
    """Refuse a reward, launcher or engine that would not do, and texts that cannot be read."""
    settings = context.settings
    _check_reward(context)
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
        Need(
            PREFERENCE_MODEL,
            ("preference-model",),
            wanted=_scores_with_preference_model,
            instead="let the constitution's principles be the only reward "
            "(`{}: {{reward: {{}}, samples_per_prompt: 2}}`)",
        ),
    ),
    inputs=_inputs,
    run=_run,
    outputs=("model", "steps.jsonl", SNAPSHOTS),
    check=_check,
    trains=True,
)
