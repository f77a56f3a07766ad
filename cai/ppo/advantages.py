"""Advantage estimators: pure functions, by name in `ADVANTAGES` and `PPOSettings.advantage`.

Only `gae` reads values: with any other there is no critic (`PPOSettings.has_critic`). All others
see a whole response as one action, so all its tokens get the same advantage, and γ and λ are not
used. Its reward `R_i` is the sum of its token rewards, KL included: `score_i - β Σ_t (log π(a_t) -
log π_ref(a_t))`.

Shapes: `B` episodes, `T` response tokens (right-padded), `G` prompts, `K` samples of each, with
`B = G · K`. The samples of a prompt are neighbours. What is on padding changes nothing, and neither
does an episode that is left out of the update (`Rollout.used_B`): no baseline contains it.
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
    """The real tokens, without gaps from the left, `(B, T)` bool; none of an episode left out."""
    values_BT: Tensor | None = None
    """The critic's value of the state *before* each token, `(B, T)`; None without a critic."""
    gamma: float = 1.0
    """Discount γ in [0, 1]."""
    lam: float = 1.0
    """λ in [0, 1]; 1 is reward-to-go minus value, 0 the one-step error."""
    samples_per_prompt: int = 1
    """K: rows `K·g` to `K·g + K - 1` answer the same prompt."""
    scores_B: Tensor | None = None
    """The score of each response alone, `(B,)`, for `online_dpo`."""
    log_ratios_BT: Tensor | None = None
    """log π - log π_ref of each token when it was sampled, nats, for `online_dpo`."""
    kl_coef: float = 0.0
    """β of `online_dpo`."""


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

    `A_i = R_i - mean_{j≠i} R_j` over the samples of one prompt (REINFORCE leave-one-out: Kool et
    al. 2019; Ahmadian et al. 2024, arXiv 2402.14740): an unbiased estimate without a critic.

    A whole response is one action, so each token also gets the KL of the tokens before it, which
    adds variance but no bias.
    """
    rewards_GK, used_GK = _by_prompt(batch)
    others_G1 = (used_GK.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    others_GK = (rewards_GK.sum(dim=1, keepdim=True) - rewards_GK) / others_G1
    return _on_tokens(rewards_GK - others_GK, batch)


def dr_grpo(batch: RewardedEpisodes) -> Advantages:
    """Return `A_i = R_i - mean_j R_j` over the samples of one prompt, `(B, T)`.

    GRPO without its division (Liu et al. 2025, arXiv 2503.20783): prompts whose rewards are close
    together do not count more. It is `rloo` times (K - 1) / K.
    """
    rewards_GK, used_GK = _by_prompt(batch)
    return _on_tokens(_centred(rewards_GK, used_GK), batch)


def grpo(batch: RewardedEpisodes) -> Advantages:
    """Return group-relative advantages, `(B, T)` (Shao et al. 2024, arXiv 2402.03300, 4.1.2).

    `A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-4)` over the samples of one prompt, with the sample
    standard deviation (divided by K - 1). They are 0 where all rewards are equal.
    """
    rewards_GK, used_GK = _by_prompt(batch)
    centred_GK = _centred(rewards_GK, used_GK)
    others_G1 = (used_GK.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    deviation_G1 = (centred_GK.square().sum(dim=1, keepdim=True) / others_G1).sqrt()
    return _on_tokens(centred_GK / (deviation_G1 + 1e-4), batch)


def reinforce(batch: RewardedEpisodes) -> Advantages:
    """Return `A_i = R_i - mean_j R_j` over all episodes of the batch, `(B, T)` (Williams 1992).

    The baseline contains `R_i`, which scales the expected gradient by (B - 1) / B. With whitening
    this is the global normalisation of REINFORCE++ (Hu et al. 2025, arXiv 2501.03262).
    """
    rewards_GK, used_GK = _by_prompt(batch)
    rewards_1B, used_1B = rewards_GK.reshape(1, -1), used_GK.reshape(1, -1)
    return _on_tokens(_centred(rewards_1B, used_1B), batch)


def online_dpo(batch: RewardedEpisodes) -> Advantages:
    """Return advantages whose policy gradient is that of the DPO loss on the pairs of a prompt.

    For one optimizer step from the policy that sampled, on-policy DPO (Guo et al. 2024, arXiv
    2402.04792) is a policy gradient. The gradient of a pair's expected loss under the label `p_ij =
    σ(score_i - score_j)` is `-β (p_ij - σ(β m_ij)) (∇ log π(y_i) - ∇ log π(y_j))`, where `m_ij` is
    the difference of the two log-ratios to the reference. So

    `A_i = 2 / (K - 1) · Σ_{j≠i} β (p_ij - σ(β m_ij))`

    over the samples of one prompt. The factor makes the mean over responses of `-A_i log π(y_i)`
    (`loss_average: response_sums`) have the gradient of the mean over all pairs. Scores are
    log-odds. `rewards_BT` is not read: β m is all there is of the KL.

    Raises:
        ValueError: The batch has no scores or no log-ratios.
    """
    if batch.scores_B is None or batch.log_ratios_BT is None:
        raise ValueError("Online DPO needs scores, and log-ratios to the reference.")
    K, mask_BT = batch.samples_per_prompt, batch.mask_BT
    used_GK = mask_BT.any(dim=1).reshape(-1, K)
    scores_GK = batch.scores_B.reshape(-1, K).masked_fill(~used_GK, 0.0)
    log_ratios_GK = batch.log_ratios_BT.masked_fill(~mask_BT, 0.0).sum(dim=1).reshape(-1, K)
    labels_GKK = torch.sigmoid(scores_GK[:, :, None] - scores_GK[:, None, :])
    margins_GKK = log_ratios_GK[:, :, None] - log_ratios_GK[:, None, :]
    pulls_GKK = batch.kl_coef * (labels_GKK - torch.sigmoid(batch.kl_coef * margins_GKK))
    pulls_GK = (pulls_GKK * used_GK[:, None, :]).sum(dim=2)
    others_G1 = (used_GK.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return _on_tokens(2 * pulls_GK / others_G1, batch)


ADVANTAGES: dict[str, Advantage] = {
    "gae": gae,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "reinforce": reinforce,
    "online_dpo": online_dpo,
}
"""By the name in `PPOSettings.advantage`."""


def _by_prompt(batch: RewardedEpisodes) -> tuple[Tensor, Tensor]:
    """Return the rewards of whole responses (0 where left out), and which are used: `(G, K)`."""
    rewards_B = batch.rewards_BT.masked_fill(~batch.mask_BT, 0.0).sum(dim=1)
    used_B = batch.mask_BT.any(dim=1)
    K = batch.samples_per_prompt
    return rewards_B.reshape(-1, K), used_B.reshape(-1, K)


def _centred(x_GK: Tensor, used_GK: Tensor) -> Tensor:
    """Subtract the mean of each row over what is used; 0 elsewhere."""
    mean_G1 = x_GK.sum(dim=1, keepdim=True) / used_GK.sum(dim=1, keepdim=True).clamp(min=1)
    return (x_GK - mean_G1) * used_GK


def _on_tokens(advantages_GK: Tensor, batch: RewardedEpisodes) -> Advantages:
    """Give each token of a response its advantage; without values there are no returns."""
    advantages_BT = advantages_GK.reshape(-1, 1).expand(batch.mask_BT.shape)
    return Advantages(advantages_BT.masked_fill(~batch.mask_BT, 0.0), None)
