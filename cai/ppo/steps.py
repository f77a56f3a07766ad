"""The loop: steps, checkpoints, the log.

The numbered steps in the comments, here and in the modules called, are those of docs/ppo.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cai.ppo.checkpoint import load_checkpoint, save_checkpoint
from cai.ppo.learner import Learner
from cai.ppo.pretraining import Pretraining
from cai.ppo.prompts import PromptPool
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
from cai.ppo.step_log import StepLog, rollout_metrics
from cai.ppo.update import policy_moved, update
from cai.settings import PPOSettings

CHECKPOINTS = "checkpoints"

OnStep = Callable[[Mapping[str, float]], None]


def run_steps(
    learner: Learner,
    pool: PromptPool,
    reward: Reward,
    settings: PPOSettings,
    *,
    folder: Path,
    run: str,
    seed: int,
    log_dir: Path,
    pretraining: Pretraining | None = None,
    on_step: OnStep | None = None,
) -> list[dict[str, float]]:
    """Run all steps that are not yet done, with whatever scores responses.

    Args:
        learner: Trained in place.
        pool: Where prompts come from.
        reward: The preference model, or a function of one's own.
        settings: How to train.
        folder: Gets `checkpoints/` and `steps.jsonl`.
        run: Names everything that determines the result; only its own checkpoints are resumed.
        seed: Of sampling and minibatches.
        log_dir: For TensorBoard.
        pretraining: What PPO-ptx mixes in.
        on_step: Called after each step with its line of `steps.jsonl`.

    Returns:
        The records of all steps, those of earlier calls included.

    Raises:
        CaiError: A score, loss or gradient is not finite.
    """
    checkpoints = folder / CHECKPOINTS
    done = 0
    if found := load_checkpoint(checkpoints, run, learner.device):
        done, state = found
        learner.load_state_dict(state)
    with StepLog(folder / "steps.jsonl", log_dir, done=done) as log:
        for step in range(done, settings.steps):
            metrics = train_step(
                learner, pool, reward, settings, seed=seed, step=step, pretraining=pretraining
            )
            log.write(step + 1, metrics)  # 10.
            if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == settings.steps:
                save_checkpoint(checkpoints, step + 1, run, learner.state_dict())  # 11.
            if on_step:
                on_step(log.records[-1])
        return log.records


def train_step(
    learner: Learner,
    pool: PromptPool,
    reward: Reward,
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
    pretraining: Pretraining | None = None,
) -> dict[str, float]:
    """Take one step (counted from 0): a rollout, then an update on it; return its metrics."""
    start = time.monotonic()
    share = learner.set_learning_rates(settings, step)
    prompts = pool.draw(step)  # 1.
    rollout = collect_rollout(learner, prompts, reward, settings, seed=seed, step=step)  # 2. to 5.
    sampled = time.monotonic()
    metrics = rollout_metrics(rollout, prompts, learner.control.kl_coef)
    metrics |= update(  # 6. to 9.
        learner, rollout, settings, seed=seed, step=step, pretraining=pretraining
    )
    moved = None
    if settings.objective == "kl_penalty":
        moved = metrics["policy/kl_moved"] = policy_moved(learner, rollout, settings)
        metrics["policy/penalty_coef"] = learner.control.penalty_coef
    learner.control.adapt(settings, kl=metrics["objective/kl"], moved=moved)
    end = time.monotonic()
    return metrics | {
        "lr": settings.learning_rate * share,
        "lr_critic": settings.critic_learning_rate * share,
        "episode": (step + 1) * settings.batch_size,
        "time/rollout_seconds": sampled - start,
        "time/update_seconds": end - sampled,
        "time/episodes_per_second": settings.batch_size / (end - start),
    }
