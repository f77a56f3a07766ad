"""PPO against a preference model: the loop, what goes into it and what comes out of it.

The numbered steps in the comments, here and in the modules called, are those of docs/ppo.md.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig

from cai.models import device_and_dtype, fingerprint_model, load_causal_lm, load_chat_format
from cai.ppo.check import check_same_tokens, check_settings, shared_context
from cai.ppo.checkpoint import load_checkpoint, save_checkpoint
from cai.ppo.learner import Learner
from cai.ppo.prompts import PromptPool, tokenize_prompts
from cai.ppo.rollout import Scorer, collect_rollout
from cai.ppo.step_log import StepLog, rollout_metrics
from cai.ppo.update import update
from cai.preference_model import PreferenceModel
from cai.records import PromptRow, content_hash
from cai.settings import ModelSettings, PPOSettings
from cai.store import whole_folder

CHECKPOINTS = "checkpoints"

OnStep = Callable[[Mapping[str, float]], None]


def train_ppo(
    settings: PPOSettings,
    *,
    policy: ModelSettings,
    preference_model: Path,
    prompts: Sequence[PromptRow],
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train a policy against a preference model (paper, section 4.2) and save it in `out`.

    A run that was killed goes on from its newest checkpoint when it is called again in the same
    way, and ends with the weights it would have had (on a CPU, to the bit).

    Args:
        settings: How to train.
        policy: SL-CAI: where the policy starts, and the reference.
        preference_model: Folder of the preference model; the critic starts from its backbone.
        prompts: Red-team and helpful prompts to train on.
        out: Folder of the new model (float32, with its tokenizer); seen whole or not at all.
            `checkpoints/` and `steps.jsonl` are beside it.
        seed: Sets the order of prompts and minibatches, and all sampling.
        log_dir: For TensorBoard.
        on_step: Called after each step with its line of `steps.jsonl`.

    Returns:
        `steps`, `prompts`, `prompts_too_long` (left out), `tokens` (sampled), `seconds` (of this
        call), and the last step's `final_score`, `final_kl` (nats per response), `final_ended`.

    Raises:
        CaiError: The settings, models or prompts cannot be used, or the training diverged.
    """
    start = time.monotonic()
    judge = ModelSettings(path=str(preference_model))
    check_settings(settings)
    chat = load_chat_format(policy)
    check_same_tokens(chat, load_chat_format(judge), preference_model)
    fitting = tokenize_prompts(
        prompts,
        chat,
        context=shared_context(policy, judge),
        max_new_tokens=settings.max_new_tokens,
    )
    pool = PromptPool(
        fitting,
        batch_size=settings.batch_size,
        red_team_fraction=settings.red_team_fraction,
        seed=seed,
    )
    learner = Learner.start(
        load_causal_lm(policy.model_copy(update={"dtype": "float32"})),
        PreferenceModel.load(preference_model, device="cpu").model.base_model,
        chat,
        settings,
        dtype=device_and_dtype(policy)[1],
        max_batch_tokens=policy.max_batch_tokens,
    )
    records = run_steps(
        learner,
        pool,
        PreferenceModel.load(preference_model).score_ids,
        settings,
        folder=out.parent,
        run=_identity(settings, policy, judge, prompts, seed),
        seed=seed,
        log_dir=log_dir,
        on_step=on_step,
    )
    _save(learner, out)
    shutil.rmtree(out.parent / CHECKPOINTS, ignore_errors=True)
    return {
        "steps": settings.steps,
        "prompts": len(fitting),
        "prompts_too_long": len(prompts) - len(fitting),
        "tokens": sum(record["tokens"] for record in records),
        "seconds": time.monotonic() - start,
        "final_score": records[-1]["objective/scores"],
        "final_kl": records[-1]["objective/kl"],
        "final_ended": records[-1]["response/ended"],
    }


def run_steps(
    learner: Learner,
    pool: PromptPool,
    scorer: Scorer,
    settings: PPOSettings,
    *,
    folder: Path,
    run: str,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> list[dict[str, float]]:
    """Run all steps that are not yet done, with whatever scores token sequences.

    Args:
        learner: Trained in place.
        pool: Where prompts come from.
        scorer: The preference model, or a function of one's own.
        settings: How to train.
        folder: Gets `checkpoints/` and `steps.jsonl`.
        run: Names everything that determines the result; only its own checkpoints are resumed.
        seed: Of sampling and minibatches.
        log_dir: For TensorBoard.
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
            metrics = train_step(learner, pool, scorer, settings, seed=seed, step=step)
            log.write(step + 1, metrics)  # 10.
            if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == settings.steps:
                save_checkpoint(checkpoints, step + 1, run, learner.state_dict())  # 11.
            if on_step:
                on_step(log.records[-1])
        return log.records


def train_step(
    learner: Learner,
    pool: PromptPool,
    scorer: Scorer,
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
) -> dict[str, float]:
    """Take one step (counted from 0): a rollout, then an update on it; return its metrics."""
    start = time.monotonic()
    share = learner.set_learning_rates(settings, step)
    prompts = pool.draw(step)  # 1.
    rollout = collect_rollout(learner, prompts, scorer, settings, seed=seed, step=step)  # 2. to 5.
    sampled = time.monotonic()
    metrics = rollout_metrics(rollout, prompts, settings)
    metrics |= update(learner, rollout, settings, seed=seed, step=step)  # 6. to 9.
    end = time.monotonic()
    return metrics | {
        "lr": settings.learning_rate * share,
        "lr_critic": settings.critic_learning_rate * share,
        "episode": (step + 1) * settings.batch_size,
        "time/rollout_seconds": sampled - start,
        "time/update_seconds": end - sampled,
        "time/episodes_per_second": settings.batch_size / (end - start),
    }


def _identity(
    settings: PPOSettings,
    policy: ModelSettings,
    judge: ModelSettings,
    prompts: Sequence[PromptRow],
    seed: int,
) -> str:
    """Name all that determines the weights, so that no checkpoint of another run is resumed."""
    return content_hash(
        settings.model_dump(exclude={"micro_batch_size", "checkpoint_steps"}),
        fingerprint_model(policy),
        policy.dtype,
        fingerprint_model(judge),
        [(row.kind, row.messages) for row in prompts],
        seed,
    )


def _save(learner: Learner, out: Path) -> None:
    """Save the policy as a plain transformers folder that generates and stops by itself."""
    # Sampling defaults of the model it once was do not carry over: some do not even save.
    old = learner.policy.generation_config
    learner.policy.generation_config = GenerationConfig(
        bos_token_id=old.bos_token_id,
        eos_token_id=sorted(learner.chat.stop_ids),
        pad_token_id=old.pad_token_id,
    )
    with whole_folder(out) as folder:
        learner.policy.save_pretrained(folder)
        cast("Any", learner.chat.tokenizer).save_pretrained(folder)
