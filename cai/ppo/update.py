"""One update: advantages, then clipped policy and value steps over epochs and minibatches."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cai.errors import CaiError
from cai.ppo.batch import Episodes, Rollout, length_sorted
from cai.ppo.forward import response_logprobs
from cai.ppo.learner import Learner
from cai.ppo.math import (
    explained_variance,
    gae,
    kl_shaped_rewards,
    masked_whiten,
    policy_loss,
    value_loss,
)
from cai.ppo.prompts import permutation
from cai.ppo.rollout import micro_batch_size
from cai.settings import PPOSettings


def update(
    learner: Learner, rollout: Rollout, settings: PPOSettings, *, seed: int, step: int
) -> dict[str, float]:
    """Improve policy and critic on one rollout (steps 6 to 9 of docs/ppo.md).

    Args:
        learner: Its policy, critic and their optimizers are changed.
        rollout: What the policy has just done.
        settings: Epochs, minibatches, clipping, discounting.
        seed: The run's seed.
        step: Counted from 0; with the seed it orders the minibatches.

    Returns:
        Means over all minibatches of losses, clip fractions, approximate KL, entropy and gradient
        norms, and the explained variance of the values that the rollout saw.

    Raises:
        CaiError: A loss or gradient is not finite. Nothing was applied from that minibatch.
    """
    mask_BT = rollout.episodes.mask_BT
    rewards_BT = kl_shaped_rewards(
        rollout.scores_B, rollout.logprobs_BT, rollout.ref_logprobs_BT, mask_BT, settings.kl_coef
    )
    advantages_BT, returns_BT = gae(
        rewards_BT, rollout.values_BT, mask_BT, settings.gamma, settings.lam
    )
    advantages_BT = masked_whiten(advantages_BT, mask_BT)

    history: dict[str, list[float]] = defaultdict(list)
    for epoch in range(settings.epochs):
        order = permutation(len(rollout.episodes), seed, "minibatches", step, epoch)
        for part in torch.tensor(order, device=learner.device).chunk(settings.minibatches):
            metrics = policy_step(learner, rollout, advantages_BT, part, settings)
            metrics |= critic_step(learner, rollout, returns_BT, part, settings)
            _check_finite(metrics, settings, step)
            for name, value in metrics.items():
                history[name].append(value)
    variance = explained_variance(rollout.values_BT, returns_BT, mask_BT).item()
    means = {name: sum(values) / len(values) for name, values in history.items()}
    return means | {"val/explained_variance": variance}
