"""Losses of direct preference optimisation, for labels that are probabilities.

A loss is defined for a pair whose better response is known. For a label p, each row's loss is its
expectation: p times the loss if the first response is better, 1 - p times the loss if the second
one is. So p and 1 - p are mirror images. At the reference, where both log-ratios are 0, p = 0.5
has no gradient with the losses of a margin (all but the two of APO).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PairLoss = Callable[[Tensor, Tensor, float], Tensor]
"""From the log-ratios log π(y|x) - log π_ref(y|x) of the better and of the worse response, `(B,)`
in nats, and β."""


def _sigmoid(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """DPO (Rafailov et al. 2023, eq. 7)."""
    return -functional.logsigmoid(beta * (better - worse))


def _hinge(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """SLiC (Zhao et al. 2023), on log-ratios."""
    return torch.relu(1 - beta * (better - worse))


def _ipo(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """IPO (Azar et al. 2023, eq. 17); its log-ratios are means over tokens."""
    return (better - worse - 1 / (2 * beta)) ** 2


def _apo_zero(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, eq. 7): raise the better one, lower the worse one."""
    return 1 - torch.sigmoid(beta * better) + torch.sigmoid(beta * worse)


def _apo_down(better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """APO-down (the same, eq. 8): lower both, the worse one more."""
    return torch.sigmoid(beta * better) + 1 - torch.sigmoid(beta * (better - worse))


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
}


def expected_loss(
    loss: PairLoss, first: Tensor, second: Tensor, probability: Tensor, beta: float
) -> Tensor:
    """Return the expected loss of each pair, `(B,)`.

    Args:
        loss: One of `PAIR_LOSSES`.
        first: The log-ratios of the first responses, `(B,)` nats.
        second: Those of the second ones.
        probability: That the first response is the better one, `(B,)` in [0, 1].
        beta: β, how much a nat of log-ratio counts.
    """
    return probability * loss(first, second, beta) + (1 - probability) * loss(second, first, beta)
