"""Objectives of the policy: pure functions, by name in `OBJECTIVES` and `PPOSettings.objective`.

Sums are divided by the token count of the whole minibatch, so the losses of its micro-batches add
up to its own. Shapes: `B` episodes, `T` response tokens (right-padded); what is on padding changes
nothing.
"""

# ruff: noqa: N815 (names end in the shapes of what they hold)
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cai.ppo.math import zero_padding


@dataclass(frozen=True)
class PolicyTokens:
    """The tokens of a micro-batch, and the coefficients of the objectives."""

    logprobs_BT: Tensor
    """log π of the sampled tokens now, `(B, T)`, nats; carries the gradient."""
    old_logprobs_BT: Tensor
    """The same when they were sampled, `(B, T)`."""
    advantages_BT: Tensor
    """`(B, T)`."""
    mask_BT: Tensor
    """The real tokens, `(B, T)` bool."""
    token_count: int
    """Real tokens of the whole minibatch."""
    clip_range: float = math.inf
    """ε of `clip`."""
    penalty_coef: float = 0.0
    """β of `kl_penalty`."""


class PolicyLoss(NamedTuple):
    """An objective, negated, and two measures of how far the policy has moved, all scalars."""

    loss: Tensor
    clip_fraction: Tensor
    """Share of tokens whose ratio left the clip range, in [0, 1]; 0 where nothing is clipped."""
    approx_kl: Tensor
    """KL(old ‖ new) per token, estimated by (ratio - 1) - log ratio; never negative. Nats."""


Objective = Callable[[PolicyTokens], PolicyLoss]


def clip(tokens: PolicyTokens) -> PolicyLoss:
    """Return the negated clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, equation 7).

    `-Σ min(ρ A, clip(ρ, 1-ε, 1+ε) A) / token_count` with `ρ = π / π_old`, over `(B, T)`.
    """
    log_ratio, advantages = _real(tokens)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - tokens.clip_range, 1 + tokens.clip_range)
    losses = torch.maximum(-ratio * advantages, -clipped * advantages)
    with torch.no_grad():
        outside = ((ratio - 1).abs() > tokens.clip_range).to(ratio.dtype)
        clip_fraction = outside.sum() / tokens.token_count
        approx_kl = _kl(log_ratio).sum() / tokens.token_count
    return PolicyLoss(losses.sum() / tokens.token_count, clip_fraction, approx_kl)


def kl_penalty(tokens: PolicyTokens) -> PolicyLoss:
    """Return the negated KL-penalised surrogate (arXiv 1707.06347, equations 5 and 8).

    `-Σ (ρ A - β KL(π_old ‖ π)) / token_count` over `(B, T)`. The KL of a token is estimated on the
    token that was sampled, by (ρ - 1) - log ρ. Samples come from π_old, so both its mean and the
    mean of its gradient are those of the true KL.
    """
    log_ratio, advantages = _real(tokens)
    kl = _kl(log_ratio)
    losses = -log_ratio.exp() * advantages + tokens.penalty_coef * kl
    return _unclipped(losses, kl, tokens.token_count)


def policy_gradient(tokens: PolicyTokens) -> PolicyLoss:
    """Return `-Σ A log π / token_count` over `(B, T)`, whose gradient is REINFORCE's.

    There is no ratio to correct for a policy that has moved since the rollout. So this is right for
    one optimizer step per rollout only, which the settings insist on.
    """
    log_ratio, advantages = _real(tokens)
    (logprobs,) = zero_padding(tokens.mask_BT, tokens.logprobs_BT)
    return _unclipped(-logprobs * advantages, _kl(log_ratio), tokens.token_count)


OBJECTIVES: dict[str, Objective] = {
    "clip": clip,
    "kl_penalty": kl_penalty,
    "policy_gradient": policy_gradient,
}
"""By the name in `PPOSettings.objective`."""


def policy_kl(logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return KL(old ‖ new) per token, estimated on tokens that the old policy sampled; nats."""
    return _kl((logprobs_BT - old_logprobs_BT)[mask_BT]).mean()


def _real(tokens: PolicyTokens) -> list[Tensor]:
    """Return log ρ and advantages, 0 on padding."""
    log_ratio_BT = tokens.logprobs_BT - tokens.old_logprobs_BT
    return zero_padding(tokens.mask_BT, log_ratio_BT, tokens.advantages_BT)


def _unclipped(losses: Tensor, kl: Tensor, token_count: int) -> PolicyLoss:
    approx_kl = kl.detach().sum() / token_count
    return PolicyLoss(losses.sum() / token_count, torch.zeros_like(approx_kl), approx_kl)


def _kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(old ‖ new) from log ρ at samples of the old policy; never negative."""
    return (torch.expm1(log_ratio) - log_ratio).clamp(min=0)
