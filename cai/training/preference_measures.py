"""The loss of a preference model, the scale of its scores, its accuracy and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel

from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.preference_model import PreferenceModel
from cai.training.preference_data import Pair, Pairs

CONFIDENT = 0.75
"""Labels from here on count when accuracy on the training data is measured."""

_MOST_MEASURED = 2048
_REFERENCE_PAIRS = 256


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


def normalised(
    model: PreTrainedModel, chat: ChatFormat, reference: Sequence[Pair], micro_batch_size: int
) -> PreferenceModel:
    """Return the preference model whose scores have mean 0 and standard deviation 1 on a sample.

    Raises:
        CaiError: All scores of the sample are the same, or not finite.
    """
    raw = PreferenceModel(model, chat)
    sequences = [side.tolist() for pair in reference for side in (pair.chosen, pair.rejected)]
    scores = raw.raw_scores(sequences, micro_batch_size).double()
    mean, std = scores.mean().item(), scores.std(correction=0).item()
    if not (math.isfinite(mean) and std > 0):
        raise CaiError(
            f"The preference model gives its training responses no usable scores (mean {mean:g}, "
            f"standard deviation {std:g}). Check that chosen and rejected responses differ, and "
            "lower `preference.learning_rate`."
        )
    return PreferenceModel(model, chat, mean=mean, std=std)


def calibration_error(
    predicted: NDArray[np.float64], label: NDArray[np.float64], bins: int = 10
) -> float:
    """Return the expected calibration error of predicted preferences.

    Each pair counts in both orders, since the label decides which response is called chosen.

    Args:
        predicted: `(N,)` in [0, 1], that the chosen response is better, by the model.
        label: `(N,)` in [0, 1], the same by the data.
        bins: Bins of equal width over [0, 1].

    Returns:
        The mean over pairs of |mean prediction − mean label| in the pair's bin, in [0, 1].
    """
    both = np.concatenate([predicted, 1 - predicted])
    target = np.concatenate([label, 1 - label])
    places = np.minimum((both * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=both - target, minlength=bins)
    return float(np.abs(gaps).sum() / len(both))


def reference(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Take up to 256 pairs, evenly spread."""
    return pairs[:: math.ceil(len(pairs) / _REFERENCE_PAIRS)]


def measures_of(model: PreferenceModel, pairs: Pairs, micro_batch_size: int) -> dict[str, float]:
    """Measure accuracy on confident training pairs, and everything on held-out ones."""
    measures: dict[str, float] = {}
    confident = [pair for pair in reference(pairs.train) if pair.probability >= CONFIDENT]
    if confident:
        measures["train_accuracy"] = float((_deltas(model, confident, micro_batch_size) > 0).mean())
    held_out = pairs.held_out[:_MOST_MEASURED]
    if held_out:
        delta = _deltas(model, held_out, micro_batch_size)
        label = np.array([pair.probability for pair in held_out])
        told = label != 0.5
        loss = soft_bradley_terry_loss(
            torch.from_numpy(delta), torch.from_numpy(label), torch.ones(len(label))
        )
        measures["held_out_loss"] = loss.mean().item()
        measures["held_out_calibration_error"] = calibration_error(1 / (1 + np.exp(-delta)), label)
        if told.any():
            right = (delta > 0) == (label > 0.5)
            measures["held_out_accuracy"] = float(right[told].mean())
    return measures


def _deltas(
    model: PreferenceModel, pairs: Sequence[Pair], micro_batch_size: int
) -> NDArray[np.float64]:
    chosen = model.raw_scores([pair.chosen.tolist() for pair in pairs], micro_batch_size)
    rejected = model.raw_scores([pair.rejected.tolist() for pair in pairs], micro_batch_size)
    return (chosen - rejected).double().numpy()
