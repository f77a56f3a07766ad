"""One update: advantages, then policy and value steps over epochs and minibatches."""

# ruff: noqa: N815 (names end in the shapes of what they hold)
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cai.errors import CaiError
from cai.ppo.advantages import ADVANTAGES, RewardedEpisodes
from cai.ppo.batch import Episodes, Rollout, length_sorted
from cai.ppo.forward import response_logprobs
from cai.ppo.learner import Learner
from cai.ppo.math import explained_variance, kl_shaped_rewards, masked_whiten, value_loss
from cai.ppo.objectives import (
    LOSS_AVERAGES,
    OBJECTIVES,
    PolicyTokens,
    policy_kl,
    reference_kl,
)
from cai.ppo.pretraining import Pretraining
from cai.ppo.prompts import permutation
from cai.ppo.rollout import policy_logprobs
from cai.settings import PPOSettings

_GRADIENT_NORM = {"policy": "policy/grad_norm", "critic": "val/grad_norm"}
"""What the metrics call the gradient norm of each optimizer."""


def update(
    learner: Learner,
    rollout: Rollout,
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
    pretraining: Pretraining | None = None,
) -> dict[str, float]:
    """Improve policy and critic, if any, on one rollout (steps 6 to 9 of docs/ppo.md).

    `step` is counted from 0; with the run's seed it orders the minibatches.

    Returns:
        Losses, clip fractions, approximate KL, entropy and gradient norms, each the mean over all
        minibatches, and the explained variance of the values of the rollout. Without a critic,
        the metrics of values are missing.

    Raises:
        CaiError: A loss or a gradient is not finite; that step is not taken.
    """
    # 6. Rewards.
    rewards_BT = kl_shaped_rewards(
        rollout.scores_B,
        rollout.logprobs_BT,
        rollout.ref_logprobs_BT,
        rollout.episodes.mask_BT,
        learner.control.kl_coef if settings.kl_in == "reward" else 0.0,
    )
    # 7. Advantages and returns.
    mask_BT = rollout.mask_BT
    batch = RewardedEpisodes(
        rewards_BT=rewards_BT,
        mask_BT=mask_BT,
        values_BT=rollout.values_BT,
        gamma=settings.gamma,
        lam=settings.lam,
        samples_per_prompt=settings.samples_per_prompt,
        scores_B=rollout.scores_B,
        log_ratios_BT=rollout.logprobs_BT - rollout.ref_logprobs_BT,
        kl_coef=learner.control.kl_coef,
    )
    advantages_BT, returns_BT = ADVANTAGES[settings.advantage](batch)
    if settings.whiten_advantages:
        advantages_BT = masked_whiten(advantages_BT, mask_BT)

    history: dict[str, list[float]] = defaultdict(list)
    drawn = step * settings.epochs * len(rollout.episodes)
    for epoch in range(settings.epochs):
        order = permutation(len(rollout.episodes), seed, "minibatches", step, epoch)
        for rows in torch.tensor(order).chunk(settings.minibatches):
            # 8. Policy step, and 9. value step.
            for optimizer in learner.optimizers.values():
                optimizer.zero_grad()
            sums = policy_gradients(learner, rollout, advantages_BT, rows, settings)
            if pretraining is not None:
                texts = pretraining.draw(drawn, len(rows), learner.device)
                sums |= pretraining_gradients(learner, texts, settings)
                drawn += len(rows)
            if returns_BT is not None:
                sums |= value_gradients(learner, rollout, returns_BT, rows, settings)
            metrics = _sum_and_clip(learner, sums, settings)
            _check_finite(metrics, settings, step)
            for optimizer in learner.optimizers.values():
                optimizer.step()
            for name, value in metrics.items():
                history[name].append(value)
    means = {name: sum(values) / len(values) for name, values in history.items()}
    if rollout.values_BT is not None and returns_BT is not None:
        variance = explained_variance(rollout.values_BT, returns_BT, mask_BT)
        means["val/explained_variance"] = variance.item()
    return means


def policy_gradients(
    learner: Learner,
    rollout: Rollout,
    advantages_BT: Tensor,
    rows: Tensor,
    settings: PPOSettings,
) -> dict[str, Tensor]:
    """Add the gradient of the policy loss over a minibatch to the policy's parameters.

    Gradient and metrics are this process's part of the sums over the minibatch, whose episodes are
    `rows` (on the host). `advantages_BT` are of the whole batch, `(B, T)`.
    """
    learner.act_as("policy")
    kl_coef = learner.control.kl_coef if settings.kl_in == "loss" else 0.0
    weights_of = LOSS_AVERAGES[settings.loss_average]
    total = torch.zeros(5, device=learner.device)
    for part in _micro_batches(learner, rollout.episodes, rows, settings, rollout.used_B):
        with learner.autocast():
            logprobs_BT, entropies_BT = response_logprobs(
                learner.policy, part.episodes, settings.temperature
            )
        tokens = PolicyTokens(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=rollout.logprobs_BT[part.rows],
            advantages_BT=advantages_BT[part.rows],
            mask_BT=part.mask_BT,
            token_count=part.token_count,
            clip_range=settings.clip_range,
            penalty_coef=learner.control.penalty_coef,
            weights_B=weights_of(part.lengths_B, part.token_count, part.episode_count),
            ref_logprobs_BT=rollout.ref_logprobs_BT[part.rows],
        )
        result = OBJECTIVES[settings.objective](tokens)
        kl = reference_kl(tokens) if kl_coef else torch.zeros_like(result.loss)
        learner.policy_optimizer.backward(result.loss + kl_coef * kl)
        entropy = entropies_BT.masked_fill(~part.mask_BT, 0.0).sum() / part.token_count
        total += torch.stack([*result, entropy, kl]).detach()
    names = ["loss/policy_avg", "policy/clipfrac_avg", "policy/approxkl_avg", "policy/entropy_avg"]
    metrics = dict(zip([*names, "loss/kl_avg"], total, strict=True))
    if not kl_coef:
        del metrics["loss/kl_avg"]
    return metrics


def pretraining_gradients(
    learner: Learner, texts: Episodes, settings: PPOSettings
) -> dict[str, Tensor]:
    """Add the gradient of `-γ` times the mean log-likelihood of texts to the policy's parameters.

    The second half of arXiv 2203.02155, equation 2; both halves are means over tokens here.
    """
    learner.act_as("policy")
    total = torch.zeros((), device=learner.device)
    everything = torch.arange(len(texts))
    for part in _micro_batches(learner, texts, everything, settings):
        with learner.autocast():
            logprobs_BT, _ = response_logprobs(learner.policy, part.episodes, temperature=1.0)
        loss = -logprobs_BT.sum() / part.token_count
        learner.policy_optimizer.backward(settings.ptx_coef * loss)
        total += loss.detach()
    return {"loss/ptx_avg": total}


def value_gradients(
    learner: Learner, rollout: Rollout, returns_BT: Tensor, rows: Tensor, settings: PPOSettings
) -> dict[str, Tensor]:
    """Add the gradient of the value loss over a minibatch to the critic's parameters.

    As `policy_gradients`; `returns_BT` are the targets of the values, not whitened, `(B, T)`.

    Raises:
        ValueError: There is no critic, or the rollout has no values.
    """
    critic, optimizer, old_values_BT = learner.critic, learner.critic_optimizer, rollout.values_BT
    if critic is None or optimizer is None or old_values_BT is None:
        raise ValueError("A value loss needs a critic, and its values at the rollout.")
    learner.act_as("critic")
    weight = settings.value_coef if settings.critic == "value_head" else 1.0
    total = torch.zeros(2, device=learner.device)
    for part in _micro_batches(learner, rollout.episodes, rows, settings, rollout.used_B):
        with learner.autocast():
            values_BT = critic(part.episodes)
        result = value_loss(
            values_BT,
            old_values_BT[part.rows],
            returns_BT[part.rows],
            part.mask_BT,
            clip_range=settings.value_clip_range or math.inf,
            token_count=part.token_count,
        )
        optimizer.backward(weight * result.loss)
        total += torch.stack([*result]).detach()
    return dict(zip(("loss/value_avg", "val/clipfrac_avg"), total, strict=True))


def policy_moved(learner: Learner, rollout: Rollout, settings: PPOSettings) -> float:
    """Return KL per token from the policy of the rollout to the one of now, nats."""
    with learner.autocast():
        logprobs_BT = policy_logprobs(learner, "policy", rollout.episodes, settings)
    return policy_kl(logprobs_BT, rollout.logprobs_BT, rollout.mask_BT).item()


class MicroBatch(NamedTuple):
    """Episodes that go through a model together, and what their whole minibatch has."""

    rows: Tensor
    """Their places in the rollout."""
    episodes: Episodes
    mask_BT: Tensor
    """The real tokens; none of an episode that is left out."""
    lengths_B: Tensor
    """Response tokens."""
    token_count: int
    """Response tokens of the whole minibatch that are used; at least 1."""
    episode_count: int
    """Episodes of the whole minibatch that are used."""


def _micro_batches(
    learner: Learner,
    episodes: Episodes,
    rows: Tensor,
    settings: PPOSettings,
    used_B: Tensor | None = None,
) -> Iterator[MicroBatch]:
    """Yield the micro-batches of this process; `used_B` are those of all episodes that count.

    Those that do not count take part, so that all processes have the same number of rows.
    """
    used = torch.ones(len(rows), dtype=torch.bool) if used_B is None else used_B[rows]
    token_count = int(episodes.response_lengths_B[rows][used].sum())
    size, processes = settings.micro_batch_size, learner.processes
    for places in length_sorted(episodes.lengths_B[rows], size, processes, learner.device):
        selected = episodes.select(rows[places])
        rows_here, used_here, lengths_B = (
            x.to(learner.device, non_blocking=True)
            for x in (rows[places], used[places], selected.response_lengths_B)
        )
        yield MicroBatch(
            rows_here,
            selected,
            selected.mask_BT & used_here[:, None],
            lengths_B,
            max(1, token_count),
            int(used.sum()),
        )


def _sum_and_clip(
    learner: Learner, sums: Mapping[str, Tensor], settings: PPOSettings
) -> dict[str, float]:
    """Sum gradients and metrics over the processes, and clip the gradients.

    Returns:
        The metrics, and each optimizer's gradient norm before clipping.
    """
    total = learner.processes.sum(torch.stack([*sums.values()]))
    optimizers = learner.optimizers
    norms = torch.stack([it.clip(settings.max_grad_norm) for it in optimizers.values()])
    names = (*sums, *(_GRADIENT_NORM[name] for name in optimizers))
    # The one place of an optimizer step where the host waits for the device.
    return dict(zip(names, torch.cat([total, norms]).tolist(), strict=True))


def _check_finite(metrics: Mapping[str, float], settings: PPOSettings, step: int) -> None:
    """Raise a CaiError before a loss or gradient that is not finite reaches the weights."""
    trained = [("policy", "policy", "learning_rate", settings.learning_rate)]
    if settings.has_critic:
        trained += [("value", "critic", "critic_learning_rate", settings.critic_learning_rate)]
    for kind, optimizer, setting, value in trained:
        loss, norm = metrics[f"loss/{kind}_avg"], metrics[_GRADIENT_NORM[optimizer]]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise CaiError(
                f"PPO diverged at step {step + 1} of {settings.steps}: the {kind} loss is "
                f"{loss:.3g} and the norm of its gradient {norm:.3g}. The weights are as they were "
                f"before it. Lower `ppo.{setting}` (now {value:g}) and run again."
            )
