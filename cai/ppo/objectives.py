"""Objectives of the policy: pure functions, by name in `OBJECTIVES` and `PPOSettings.objective`.

Each token's loss is weighted by what the whole minibatch has (`LOSS_AVERAGES`, by the name in
`PPOSettings.loss_average`), so the losses of its micro-batches add up to its own. Shapes: `B`
episodes, `T` response tokens (right-padded); what is on padding changes nothing.
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
    weights_B: Tensor | None = None
    """What a token of each response counts in the loss, `(B,)`; None: 1 / `token_count`."""
    ref_logprobs_BT: Tensor | None = None
    """log π_ref of the sampled tokens, `(B, T)`, for `reference_kl`."""

    def loss(self, losses_BT: Tensor) -> Tensor:
        """Return the weighted sum of losses that are 0 on padding, a scalar."""
        if self.weights_B is None:
            return losses_BT.sum() / self.token_count
        return (losses_BT * self.weights_B[:, None]).sum()


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

    `-Σ w min(ρ A, clip(ρ, 1-ε, 1+ε) A)` with `ρ = π / π_old` and weights w, over `(B, T)`.
    """
    log_ratio, advantages = _real(tokens)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - tokens.clip_range, 1 + tokens.clip_range)
    losses = torch.maximum(-ratio * advantages, -clipped * advantages)
    with torch.no_grad():
        outside = ((ratio - 1).abs() > tokens.clip_range).to(ratio.dtype)
        clip_fraction = outside.sum() / tokens.token_count
        approx_kl = _kl(log_ratio).sum() / tokens.token_count
    return PolicyLoss(tokens.loss(losses), clip_fraction, approx_kl)


def kl_penalty(tokens: PolicyTokens) -> PolicyLoss:
    """Return the negated KL-penalised surrogate (arXiv 1707.06347, equations 5 and 8).

    `-Σ w (ρ A - β KL(π_old ‖ π))` with weights w, over `(B, T)`. The KL of a token is estimated on
    the token that was sampled, by (ρ - 1) - log ρ. Samples come from π_old, so both its mean and
    the mean of its gradient are those of the true KL.
    """
    log_ratio, advantages = _real(tokens)
    kl = _kl(log_ratio)
    losses = -log_ratio.exp() * advantages + tokens.penalty_coef * kl
    return _unclipped(losses, kl, tokens)


def policy_gradient(tokens: PolicyTokens) -> PolicyLoss:
    """Return `-Σ w A log π` with weights w, over `(B, T)`, whose gradient is REINFORCE's.

    There is no ratio to correct for a policy that has moved since the rollout. So this is right for
    one optimizer step per rollout only, which the settings insist on.
    """
    log_ratio, advantages = _real(tokens)
    (logprobs,) = zero_padding(tokens.mask_BT, tokens.logprobs_BT)
    return _unclipped(-logprobs * advantages, _kl(log_ratio), tokens)


OBJECTIVES: dict[str, Objective] = {
    "clip": clip,
    "kl_penalty": kl_penalty,
    "policy_gradient": policy_gradient,
}
"""By the name in `PPOSettings.objective`."""


LossAverage = Callable[[Tensor, int, int], Tensor]
"""From the lengths of responses, `(B,)`, and the tokens and the episodes of the whole minibatch:
what one token of each response counts in the loss, `(B,)`."""


def mean_over_tokens(lengths_B: Tensor, tokens: int, episodes: int) -> Tensor:  # noqa: ARG001
    """Return 1 / tokens for each: all tokens count the same, so long responses count more."""
    return torch.full_like(lengths_B, 1 / max(1, tokens), dtype=torch.float32)


def mean_over_responses(lengths_B: Tensor, tokens: int, episodes: int) -> Tensor:  # noqa: ARG001
    """Return 1 / (episodes · length): each response is a mean over its tokens, as in GRPO."""
    return 1 / (max(1, episodes) * lengths_B.clamp(min=1).float())


def mean_of_sums(lengths_B: Tensor, tokens: int, episodes: int) -> Tensor:  # noqa: ARG001
    """Return 1 / episodes for each: log π of whole responses, as in RLOO's and DPO's gradient.

    Dr. GRPO also divides by a constant, the token limit.
    """
    return torch.full_like(lengths_B, 1 / max(1, episodes), dtype=torch.float32)


LOSS_AVERAGES: dict[str, LossAverage] = {
    "tokens": mean_over_tokens,
    "responses": mean_over_responses,
    "response_sums": mean_of_sums,
}
"""By the name in `PPOSettings.loss_average`."""


def reference_kl(tokens: PolicyTokens) -> Tensor:
    """Return the weighted sum of the estimated KL(π ‖ π_ref) of each token, a scalar; nats.

    `ρ (π_ref/π - 1 - log(π_ref/π))` on the token that was sampled, with `ρ = π / π_old`: GRPO's
    estimate (Shao et al. 2024, arXiv 2402.03300, equation 4), which is never negative, with the
    ratio of DeepSeek-V3.2 (arXiv 2512.02556). Samples come from π_old, so with ρ both its mean and
    the mean of its gradient are those of the true KL. Without ρ, the gradient at π = π_old would be
    that of the other direction, KL(π_ref ‖ π).

    Raises:
        ValueError: There are no log-probabilities of the reference.
    """
    if tokens.ref_logprobs_BT is None:
        raise ValueError("KL in the loss needs log-probabilities of the reference.")
    to_reference_BT = tokens.ref_logprobs_BT - tokens.logprobs_BT
    (to_reference,) = zero_padding(tokens.mask_BT, to_reference_BT)
    log_ratio, _ = _real(tokens)
    return tokens.loss(log_ratio.exp() * _kl(to_reference))


def policy_kl(logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return KL(old ‖ new) per token, estimated on tokens that the old policy sampled; nats."""
    return _kl((logprobs_BT - old_logprobs_BT)[mask_BT]).mean()


def _real(tokens: PolicyTokens) -> list[Tensor]:
    """Return log ρ and advantages, 0 on padding."""
    log_ratio_BT = tokens.logprobs_BT - tokens.old_logprobs_BT
    return zero_padding(tokens.mask_BT, log_ratio_BT, tokens.advantages_BT)


def _unclipped(losses: Tensor, kl: Tensor, tokens: PolicyTokens) -> PolicyLoss:
    approx_kl = kl.detach().sum() / tokens.token_count
    return PolicyLoss(tokens.loss(losses), torch.zeros_like(approx_kl), approx_kl)


def _kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(p ‖ q) from log q - log p at samples of p; never negative."""
    return (torch.expm1(log_ratio) - log_ratio).clamp(min=0)
