"""The loop: steps, checkpoints, the log. Numbers in comments are the steps of docs/ppo.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import CaiError
from cai.ppo.batch import Rollout
from cai.ppo.checkpoint import load_checkpoint, save_checkpoint
from cai.ppo.guard import MOST_ROLL_BACKS, Guard
from cai.ppo.learner import Learner
from cai.ppo.pretraining import Pretraining
from cai.ppo.prompts import PromptPool
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
from cai.ppo.step_log import StepLog, conversations, rollout_metrics
from cai.ppo.update import policy_moved, update
from cai.settings import PPOSettings

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
BEST = "best"

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
    guard: Guard | None = None,
    on_step: OnStep | None = None,
) -> list[dict[str, float]]:
    """Run all steps that are not yet done, with any reward; the learner is trained in place.

    `folder` gets `checkpoints/` and `steps.jsonl`. `run` is the fingerprint of the run: only its
    own checkpoints are resumed. `guard` can end the run early or restore its best policy.
    `on_step` is called after each step, on every process, with its line of `steps.jsonl`.

    Returns:
        The records of all steps, those of earlier calls included.

    Raises:
        CaiError: A score, loss or gradient is not finite, or the best policy cannot be restored.
    """
    checkpoints, processes = folder / CHECKPOINTS, learner.processes
    done = 0
    if found := load_checkpoint(checkpoints, run, learner.device, processes):
        done, state = found
        learner.load_state_dict(state)
        if guard is not None:
            guard.load_state_dict(state["guard"])
    watch = None if guard is None else Watch(guard, learner, reward, checkpoints / BEST, run)
    silent = not processes.is_main
    with StepLog(folder / "steps.jsonl", log_dir, done=done, silent=silent) as log:
        if watch is not None and not done:
            log.show(0, watch.look(0)[0])
        for step in range(done, settings.steps):
            start = time.monotonic()
            share = learner.set_learning_rates(settings, step)
            prompts = pool.draw(step)  # 1.
            rollout = collect_rollout(  # 2. to 5.
                learner, prompts, reward, settings, seed=seed, step=step
            )
            sampled = time.monotonic()
            metrics = rollout_metrics(rollout, prompts, learner.control.kl_coef)
            metrics |= update(  # 6. to 9.
                learner, rollout, settings, seed=seed, step=step, pretraining=pretraining
            )
            metrics |= _adapt(learner, rollout, settings, kl=metrics["objective/kl"])
            metrics |= _progress(settings, step, share, (start, sampled, time.monotonic()))
            stop = False
            if watch is not None and watch.guard.is_due(step + 1):
                seen, stop = watch.look(step + 1)
                metrics |= seen
            log.write(step + 1, metrics)  # 10.
            last = stop or step + 1 == settings.steps
            due = (step + 1) % settings.checkpoint_steps == 0
            if due or last or not step:
                log.conversations(step + 1, conversations(learner.chat, prompts, rollout))
            if due or step + 1 == settings.steps:
                state = _state(learner, guard)
                if processes.is_main:
                    save_checkpoint(checkpoints, step + 1, run, state)  # 11.
            if on_step:
                on_step(log.records[-1])
            if stop:
                break
        if watch is not None and ends_with_best(log.records, settings):
            watch.restore_best()
        return log.records


def _state(learner: Learner, guard: Guard | None) -> dict[str, Any]:
    """Return the content of a checkpoint; all processes must call this."""
    watched = {} if guard is None else {"guard": guard.state_dict()}
    return learner.state_dict() | watched


def ends_with_best(records: Sequence[Mapping[str, float]], settings: PPOSettings) -> bool:
    """Return whether a guarded run ends with its best policy, from the records of its steps.

    It does if the settings keep the best policy, or if the last check raised an alarm that ends it.
    """
    acts = settings.guard is not None and settings.guard.action != "warn"
    return settings.keep == "best" or (acts and records[-1]["guard/alarms"] > 0)


@dataclass
class Watch:
    """The guard of one run: keeps the best policy, and acts on alarms."""

    guard: Guard
    learner: Learner
    reward: Reward
    folder: Path
    run: str

    def look(self, done: int) -> tuple[dict[str, float], bool]:
        """Check after `done` steps; return the metrics and whether the run has to stop."""
        guard, is_main = self.guard, self.learner.processes.is_main
        check = guard.check(self.learner, self.reward)
        if guard.is_best(check, done) and guard.keeps_best:
            state = self.learner.state_dict()
            if is_main:
                save_checkpoint(self.folder, done, self.run, state, keep=1)
        if not check.alarms:
            return check.metrics, False
        action = guard.rules.action
        if action == "roll_back" and guard.roll_backs >= MOST_ROLL_BACKS:
            action = "stop"
        said = {
            "warn": "The run goes on (`ppo.guard.action: warn`).",
            "stop": f"The run stops with the policy of step {guard.best_step}.",
            "roll_back": f"Back to the policy of step {guard.best_step}, with a larger β.",
        }
        if is_main:
            logger.warning(
                "PPO, held-out prompts after step %d: %s. %s",
                done,
                "; ".join(check.alarms),
                said[action],
            )
        if action == "roll_back":
            guard.roll_backs += 1
            tried = self.learner.control.kl_coef
            self.restore_best()
            self.learner.control.kl_coef = max(2 * tried, guard.dissuading_kl_coef(check))
        return check.metrics, action == "stop"

    def restore_best(self) -> None:
        """Restore the best policy; raise a CaiError if its checkpoint is missing or damaged."""
        learner = self.learner
        found = load_checkpoint(self.folder, self.run, learner.device, learner.processes)
        if found is None:
            raise CaiError(
                f"The best policy of the run is no longer in {self.folder}. Run again to train "
                "it again."
            )
        learner.load_state_dict(found[1])


def _adapt(
    learner: Learner, rollout: Rollout, settings: PPOSettings, *, kl: float
) -> dict[str, float]:
    """Adapt the coefficients after an update; return the metrics of `objective: kl_penalty`."""
    metrics: dict[str, float] = {}
    moved = None
    if settings.objective == "kl_penalty":
        moved = policy_moved(learner, rollout, settings)
        metrics = {"policy/kl_moved": moved, "policy/penalty_coef": learner.control.penalty_coef}
    learner.control.adapt(settings, kl=kl, moved=moved)
    return metrics


def _progress(
    settings: PPOSettings, step: int, share: float, times: tuple[float, float, float]
) -> dict[str, float]:
    """Return learning rates, episodes so far and speed of a step (from 0).

    `times` are its beginning, the end of its rollout and its own end, in seconds; `share` is that
    of the first learning rates.
    """
    start, sampled, end = times
    critic = {"lr_critic": settings.critic_learning_rate * share} if settings.has_critic else {}
    return {
        "lr": settings.learning_rate * share,
        **critic,
        "episode": (step + 1) * settings.batch_size,
        "time/rollout_seconds": sampled - start,
        "time/update_seconds": end - sampled,
        "time/episodes_per_second": settings.batch_size / (end - start),
    }
