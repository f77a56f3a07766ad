"""The arithmetic of PPO for language models: pure functions, no models, no state.

Advantages are in `advantages.py`, the objectives of the policy in `objectives.py`.

Shapes: `B` episodes, `T` response tokens (right-padded), `N` real tokens, `D` hidden size, `V`
vocabulary. A `mask_BT` is True on the real tokens of a response, the one that ends it included;
what stands elsewhere, NaN included, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cai.ppo.token_softmax import token_softmax


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


def masked_whiten(x_BT: Tensor, mask_BT: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Return x shifted and scaled to mean 0 and variance 1 over the real tokens; 0 elsewhere.

    Args:
        x_BT: Any values, `(B, T)`.
        mask_BT: The real tokens, `(B, T)`.
        epsilon: Added to the variance, so that equal values become 0 rather than NaN.
    """
    centred = (x_BT - masked_mean(x_BT, mask_BT)).masked_fill(~mask_BT, 0.0)
    variance = centred.square().sum() / mask_BT.sum()
    return centred * torch.rsqrt(variance + epsilon)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns) over the real tokens.

    1 is a perfect critic, 0 is as good as the mean; not finite if all returns are equal.
    """
    error = (returns_BT - values_BT)[mask_BT]
    return 1 - error.var(correction=0) / returns_BT[mask_BT].var(correction=0)


def kl_shaped_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, ref_logprobs_BT: Tensor, mask_BT: Tensor, kl_coef: float
) -> Tensor:
    """Return each token's reward: a KL penalty everywhere, the score on the last real token.

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

    `β ← β (1 + e · episodes / horizon)` with `e = clip(kl / target - 1, -0.2, 0.2)`.

    Args:
        coef: β now.
        kl: Mean KL from the reference per response (summed over its tokens), nats.
        target: What it should be, in the same unit.
        episodes: Responses since the last call.
        horizon: Episodes over which β adapts.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * episodes / horizon)


def adapted_penalty(coef: float, kl: float, target: float) -> float:
    """Return the next coefficient of the penalised objective (arXiv 1707.06347, section 4).

    Half if the step moved the policy by less than two thirds of the target, double if by more than
    one and a half of it.

    Args:
        coef: The coefficient now.
        kl: KL per token between the policies before and after the step, nats.
        target: What it should be, in the same unit.
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
    max_logits: int = 2**26,
) -> tuple[Tensor, Tensor]:
    """Return log P of each target and the entropy of its distribution, both `(N,)` float32, nats.

    Logits are made for so many tokens at a time that `max_logits` numbers are never exceeded. If
    that takes several chunks, each is made again in the backward pass instead of being kept, so
    memory does not grow with N·V.

    Args:
        hidden_ND: Last hidden states at the positions that predict the targets, `(N, D)`.
        targets_N: Token ids, `(N,)`.
        head: Maps `(n, D)` hidden states to `(n, V)` logits.
        temperature: The sampling temperature; logits are divided by it, as when sampling.
        max_logits: Largest number of logits held at once.

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
