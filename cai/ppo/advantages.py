"""Advantage estimators: pure functions, by name in `ADVANTAGES` and `PPOSettings.advantage`.

Only `gae` reads values: with any other there is no critic (`PPOSettings.has_critic`).

Shapes: `B` episodes, `T` response tokens (right-padded), `G` prompts, `K` samples of each, with
`B = G · K`. The samples of a prompt are neighbours. What is on padding changes nothing.
"""

# ruff: noqa: N815 (names end in the shapes of what they hold)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RewardedEpisodes:
    """The whole batch of a step, with its discounts."""

    rewards_BT: Tensor
    """Reward of each token, the KL penalty included (`kl_shaped_rewards`), `(B, T)`."""
    mask_BT: Tensor
    """The real tokens, without gaps from the left, `(B, T)` bool."""
    values_BT: Tensor | None = None
    """The critic's value of the state *before* each token, `(B, T)`; None without a critic."""
    gamma: float = 1.0
    """Discount γ in [0, 1]."""
    lam: float = 1.0
    """λ in [0, 1]; 1 is reward-to-go minus value, 0 the one-step error."""
    samples_per_prompt: int = 1
    """K: rows `K·g` to `K·g + K - 1` answer the same prompt."""


class Advantages(NamedTuple):
    """The advantage of each token, and the targets of the critic's values."""

    advantages_BT: Tensor
    """Not whitened, `(B, T)`; 0 on padding."""
    returns_BT: Tensor | None
    """Not whitened, `(B, T)`; 0 on padding. None without a critic."""


Advantage = Callable[[RewardedEpisodes], Advantages]


def gae(batch: RewardedEpisodes) -> Advantages:
    """Return generalised advantage estimates and the returns they imply, both `(B, T)`.

    `A_t = Σ_l (γλ)^l δ_{t+l}` with `δ_t = r_t + γ V_{t+1} - V_t` (Schulman et al. 2016, arXiv
    1506.02438, equation 16). No value is bootstrapped after the last real token, also where the
    token limit ended the episode. Returns are `A_t + V_t`, before any whitening.

    Raises:
        ValueError: The batch has no values.
    """
    if batch.values_BT is None:
        raise ValueError("GAE needs the values of a critic.")
    mask_BT = batch.mask_BT
    values_BT = batch.values_BT.masked_fill(~mask_BT, 0.0)
    next_values_BT = F.pad(values_BT[:, 1:], (0, 1))
    deltas_BT = batch.rewards_BT + batch.gamma * next_values_BT - values_BT
    deltas_BT = deltas_BT.masked_fill(~mask_BT, 0.0)
    advantages_BT = torch.zeros_like(deltas_BT)
    running_B = torch.zeros_like(deltas_BT[:, 0])
    for t in reversed(range(deltas_BT.shape[1])):
        running_B = deltas_BT[:, t] + batch.gamma * batch.lam * running_B
        advantages_BT[:, t] = running_B
    return Advantages(advantages_BT, advantages_BT + values_BT)


def rloo(batch: RewardedEpisodes) -> Advantages:
    """Return leave-one-out advantages, the same on every token of a response, `(B, T)`.

    `A_i = R_i - mean_{j≠i} R_j` over the K ≥ 2 samples of one prompt (REINFORCE leave-one-out: Kool
    et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740): an unbiased estimate without a critic.

    As in that paper, `R_i` is the sum of all token rewards, KL included: `score_i - β Σ_t (log
    π(a_t) - log π_ref(a_t))`. A whole response is one action, so each token also gets the KL of the
    tokens before it, which adds variance but no bias. γ and λ are not used.
    """
    K = batch.samples_per_prompt
    rewards_GK = batch.rewards_BT.masked_fill(~batch.mask_BT, 0.0).sum(dim=1).reshape(-1, K)
    others_GK = (rewards_GK.sum(dim=1, keepdim=True) - rewards_GK) / (K - 1)
    advantages_BT = (rewards_GK - others_GK).reshape(-1, 1).expand(batch.mask_BT.shape)
    return Advantages(advantages_BT.masked_fill(~batch.mask_BT, 0.0), None)


ADVANTAGES: dict[str, Advantage] = {"gae": gae, "rloo": rloo}
"""By the name in `PPOSettings.advantage`."""
