"""The arithmetic of PPO for language models: pure functions, no models, no state.

Shapes: `B` episodes, `T` response tokens (right-padded), `N` real tokens, `D` hidden size, `V`
vocabulary. A `mask_BT` is True on the real tokens of a response, the last one included; what is
elsewhere, NaN included, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 2**26
"""The largest number of logits at once, see `token_logprobs`."""

_CACHED = 2**18
"""Numbers worked on at a time on a CPU: 1 MB."""
_LOWEST = -1e4
"""Stands for log 0: its exponential is 0, and 0 times it is 0."""


class ValueLoss(NamedTuple):
    """The clipped value loss and the share of tokens for which the clipped term was the larger."""

    loss: Tensor
    clip_fraction: Tensor


class Moments(NamedTuple):
    """The count, mean and (population) variance of all numbers so far."""

    seen: int
    mean: float
    variance: float


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over the real tokens; x and mask are `(B, T)`, the result is a scalar."""
    return x_BT.masked_fill(~mask_BT, 0.0).sum() / mask_BT.sum()


def masked_whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return x, `(B, T)`, with mean 0 and variance 1 over the real tokens; 0 elsewhere."""
    centred = (x_BT - masked_mean(x_BT, mask_BT)).masked_fill(~mask_BT, 0.0)
    variance = centred.square().sum() / mask_BT.sum()
    return centred * torch.rsqrt(variance + 1e-8)  # equal values become 0 rather than NaN


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns) over the real tokens.

    1 is a perfect critic, 0 is as good as the mean; not finite if all returns are equal.
    """
    error = (returns_BT - values_BT)[mask_BT]
    return 1 - error.var(correction=0) / returns_BT[mask_BT].var(correction=0)


def kl_shaped_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, ref_logprobs_BT: Tensor, mask_BT: Tensor, kl_coef: float
) -> Tensor:
    """Return each token's reward, `(B, T)`: a KL penalty, and the score on the last real token.

    `r_t = -β (log π(a_t) - log π_ref(a_t)) + [t is last] score`, the per-token form of
    `r_PM - β D_KL(π ‖ π_ref)` (Bai et al. 2022, arXiv 2204.05862, equation 4.1).

    Args:
        scores_B: The preference model's score of each episode, `(B,)`.
        logprobs_BT: log π of the sampled tokens, `(B, T)`, nats.
        ref_logprobs_BT: The same under the reference policy, `(B, T)`.
        mask_BT: The real tokens, at least one a row, `(B, T)`.
        kl_coef: β, at least 0.
    """
    rewards_BT = (-kl_coef * (logprobs_BT - ref_logprobs_BT)).masked_fill(~mask_BT, 0.0)
    last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
    return rewards_BT.scatter_add(1, last_B1, scores_B[:, None].to(rewards_BT.dtype))


def zero_padding(mask_BT: Tensor, *tables: Tensor) -> list[Tensor]:
    """Return `(B, T)` tables with 0 on padding: no loss there, whatever stood in its place."""
    return [x_BT.masked_fill(~mask_BT, 0.0) for x_BT in tables]


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float,
    token_count: int,
) -> ValueLoss:
    """Return `0.5 Σ max((V - R)², (clip(V, V_old ± ε) - R)²) / token_count`.

    The larger of the two errors: a value that ran away from the old one gets no gradient until the
    clipped value is no longer the worse one.

    Args:
        values_BT: The critic's values now, `(B, T)`; carry the gradient.
        old_values_BT: Its values at the rollout, `(B, T)`.
        returns_BT: Returns of `gae`, `(B, T)`.
        mask_BT: The real tokens, `(B, T)`.
        clip_range: ε, in units of the score; infinite for no clipping.
        token_count: Real tokens of the whole minibatch.
    """
    values, old, returns = zero_padding(mask_BT, values_BT, old_values_BT, returns_BT)
    clipped = old + (values - old).clamp(-clip_range, clip_range)
    unclipped_error = (values - returns).square()
    clipped_error = (clipped - returns).square()
    loss = 0.5 * torch.maximum(unclipped_error, clipped_error).sum() / token_count
    with torch.no_grad():
        clip_fraction = (clipped_error > unclipped_error).to(values.dtype).sum() / token_count
    return ValueLoss(loss, clip_fraction)


def adapted_kl_coef(coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Return the next β of the adaptive controller (Ziegler et al. 2019, arXiv 1909.08593, 2.2).

    `β ← β (1 + e · episodes / horizon)` with `e = clip(kl / target - 1, -0.2, 0.2)`, where `kl` is
    the mean KL from the reference per response, in nats, over `episodes` responses.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * episodes / horizon)


def adapted_penalty(coef: float, kl: float, target: float) -> float:
    """Return the next coefficient of the penalised objective (arXiv 1707.06347, section 4).

    It is halved if the step moved the policy (KL per token, nats) by less than two thirds of the
    target, doubled if by more than one and a half of it.
    """
    if kl < target / 1.5:
        return coef / 2
    return coef * 2 if kl > target * 1.5 else coef


def merged_moments(moments: Moments, x_N: Tensor) -> Moments:
    """Return the moments of all numbers so far and these (Chan et al. 1979)."""
    n = x_N.numel()
    if not n:
        return moments
    x = x_N.double()
    seen, delta = moments.seen + n, x.mean().item() - moments.mean
    squares = moments.variance * moments.seen + x.var(correction=0).item() * n
    squares += delta**2 * moments.seen * n / seen
    return Moments(seen, moments.mean + delta * n / seen, squares / seen)


def linear_decay(step: int, steps: int, final_share: float) -> float:
    """Return the learning rate of a step (0 … steps-1) as a share of the first step's.

    It falls in a straight line from 1 in the first step to `final_share` in the last.
    """
    done = step / (steps - 1) if steps > 1 else 0.0
    return 1.0 + (final_share - 1.0) * done


def token_logprobs(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    max_logits: int = MAX_LOGITS,
) -> tuple[Tensor, Tensor]:
    """Return log P of each target and the entropy of its distribution, both `(N,)` float32, nats.

    At most `max_logits` logits exist at once. If that takes several chunks, the backward pass makes
    each of them again, so memory does not grow with N·V.

    Args:
        hidden_ND: Last hidden states at the positions that predict the targets, `(N, D)`.
        targets_N: Token ids, `(N,)`.
        head: Maps `(n, D)` hidden states to `(n, V)` logits.
        temperature: The sampling temperature; logits are divided by it, as when sampling.
        max_logits: The largest number of logits at once.

    Returns:
        Log-probabilities, which carry the gradient, and entropies, which do not.
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float()
        return token_softmax(logits if temperature == 1.0 else logits / temperature, targets)

    vocabulary = head(hidden_ND[:0]).shape[-1]
    size = max(1, max_logits // vocabulary)
    if len(targets_N) <= size:
        return chunk(hidden_ND, targets_N)
    pieces = [
        checkpoint(chunk, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(size), targets_N.split(size), strict=True)
    ]
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def token_softmax(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P of each target and the entropy of each row's softmax, both `(N,)`, nats.

    Over a large vocabulary a softmax is memory traffic. So a few rows at a time are overwritten
    with their probabilities, which are all that the backward pass needs: there is one `(N, V)`
    buffer, from the output head's result to its gradient. The operation that made the logits must
    not need them in its own backward pass (autograd raises a RuntimeError); the backward pass can
    be run once.

    Args:
        logits_NV: `(N, V)` float32, overwritten; -inf for tokens that cannot be.
        targets_N: Token ids, `(N,)`.

    Returns:
        Log-probabilities, which carry the gradient, and entropies (never negative), which do not.
    """
    return cast("tuple[Tensor, Tensor]", _TokenSoftmax.apply(logits_NV, targets_N))


class _TokenSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        N, V = logits_NV.shape
        size = max(1, _CACHED // V) if logits_NV.device.type == "cpu" else N
        logprobs_N, entropies_N = logits_NV.new_empty(N), logits_NV.new_empty(N)
        for start in range(0, N, size):
            rows = slice(start, start + size)
            table = logits_NV[rows].log_softmax(-1)
            logprobs_N[rows] = table.gather(1, targets_N[rows, None]).squeeze(1)
            probabilities = torch.exp(table, out=logits_NV[rows])
            entropies_N[rows] = table.clamp_(min=_LOWEST).mul_(probabilities).sum(-1).neg_()
        entropies_N.clamp_(min=0)
        ctx.save_for_backward(logits_NV, targets_N)
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """Return `gradient · (one-hot - probabilities)`, in the memory of the probabilities."""
        gradients_N, _ = grad_outputs
        gradients_NV, targets_N = ctx.saved_tensors
        gradients_NV.mul_(-gradients_N[:, None])
        return gradients_NV.scatter_add_(1, targets_N[:, None], gradients_N[:, None]), None
