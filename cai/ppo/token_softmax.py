"""Log-probabilities of tokens, in the memory of their logits.

Over a large vocabulary a softmax is memory traffic, not arithmetic. So a few rows at a time are
read into the cache and overwritten with their probabilities, which are all that the backward pass
needs: there is one `(N, V)` buffer, from the output head's result to its gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

_CACHED = 2**18
"""Numbers worked on at a time on a CPU: 1 MB."""
_LOWEST = -1e4
"""Stands for log 0: its exponential is 0, and 0 times it is 0."""


def token_softmax(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P of each target and the entropy of each row's softmax, both `(N,)`, nats.

    The logits are lost, so the operation that made them must not need its result in its own
    backward pass (autograd raises a RuntimeError if it does). The backward pass can be run once.

    Args:
        logits_NV: `(N, V)` float32; -inf for tokens that cannot be.
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
