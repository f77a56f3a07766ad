"""The loss of preference modelling on soft labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def soft_bradley_terry_loss(delta: Tensor, probability: Tensor, weight: Tensor) -> Tensor:
    """Return the cross-entropy between soft labels and the Bradley-Terry model.

    −w·(p·log σ(Δ) + (1 − p)·log σ(−Δ)), the loss of section 4.2 for labels that are probabilities.
    It is smallest where σ(Δ) = p, so a label of one half pulls the two scores together.

    Args:
        delta: `(B,)` score of the chosen response minus score of the rejected one.
        probability: `(B,)` in [0, 1], that the chosen response is the better one.
        weight: `(B,)` at least 0.

    Returns:
        `(B,)` nats, not yet averaged.
    """
    return binary_cross_entropy_with_logits(delta, probability, weight=weight, reduction="none")
