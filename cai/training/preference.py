"""Preference modelling on soft labels: AI harmlessness and human helpfulness comparisons.

Paper, section 4.2: the targets are the feedback model's probabilities, not its verdicts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.chat import ChatFormat
from cai.errors import CaiError
from cai.models import fingerprint_model, load_chat_format
from cai.settings import ModelSettings, PreferenceSettings
from cai.training.arguments import micro_batch_size
from cai.training.data import longest_sequence, no_rows_error
from cai.training.fit import OnStep, fit
from cai.training.preference_data import Pair, Pairs, collate_pairs, read_pairs, training_rows
from cai.training.preference_model import PreferenceModel, soft_bradley_terry_loss
from cai.training.scorer import new_preference_model, read_scores_by_mask, save_scorer

CONFIDENT = 0.75
"""Labels from here on count when accuracy on the training data is measured."""

_MOST_MEASURED = 2048
_REFERENCE_PAIRS = 256


def train_preference(
    settings: PreferenceSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train a preference model on comparisons and save it, in float32, in `out`.

    A killed training goes on from its last checkpoint when it is called again in the same way. From
    100 rows on, 5% of the prompts are held out and measured.

    Args:
        settings: How to train.
        data: Parquet with `key`, `source` (`ai` or `human`), `prompt` (messages), `chosen` and
            `rejected` (one assistant message each) and `chosen_probability`.
        base: The language model to start from; its head is replaced.
        out: The folder of the new model; seen whole or not at all. Checkpoints are beside it.
        seed: Sets the order of the rows, the score head and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (below a thousand, at all) with `step`, `steps`, `loss`.

    Returns:
        `steps`, `rows` (trained on), `rows_held_out`, `rows_too_long` (left out), `tokens` (of both
        responses with prompts, over all epochs), `seconds` (of this call), `first_loss` and
        `final_loss` (nats per pair; the mean over the last tenth of the logged steps),
        `score_mean` and `score_std` (of raw scores), and as far as there are such rows
        `train_accuracy` (on up to 256 pairs labelled 0.75 or more), `held_out_loss`,
        `held_out_accuracy` (over labels other than one half) and `held_out_calibration_error`.

    Raises:
        CaiError: The settings, data or base cannot be used, the loss is no longer finite, or all
            responses ended with the same score.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat = load_chat_format(base)
    model = new_preference_model(base, seed=seed)
    pairs = read_pairs(data, chat, settings, longest_sequence(settings, model.config))
    if not pairs.train:
        raise no_rows_error(data, settings, pairs.too_long)

    def finish(trained: PreTrainedModel, adapter: Mapping[str, Tensor]) -> dict[str, float]:
        scorer = normalised(trained, chat, _reference(pairs.train), micro)
        measures = _measures(scorer, pairs, micro)
        save_scorer(scorer, out, adapter=adapter, base=fingerprint_model(base))
        return {"score_mean": scorer.mean, "score_std": scorer.std, **measures}

    metrics = fit(
        read_scores_by_mask(model),
        training_rows(pairs.train),
        partial(collate_pairs, pad_id=chat.pad_id),
        preference_loss,
        settings,
        out.parent / "checkpoints",
        base=base,
        data=data,
        seed=seed,
        log_dir=log_dir,
        on_step=on_step,
        finish=finish,
    )
    return {
        "rows": len(pairs.train),
        "rows_held_out": len(pairs.held_out),
        "rows_too_long": pairs.too_long,
        "tokens": settings.epochs * sum(len(p.chosen) + len(p.rejected) for p in pairs.train),
        **metrics,
        "seconds": time.monotonic() - start,
    }


def preference_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return each pair's cross-entropy between soft label and model, weighted, `(B,)` nats."""
    probability, weight = batch.pop("probability"), batch.pop("weight")
    chosen, rejected = model(**batch).logits.squeeze(-1).chunk(2)
    return soft_bradley_terry_loss(chosen - rejected, probability, weight)


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

    Each pair counts in both orders: which response is called chosen was decided by the label, and
    a model that knows nothing must not be blamed for that.

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


def _reference(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Take up to 256 pairs, evenly spread."""
    return pairs[:: math.ceil(len(pairs) / _REFERENCE_PAIRS)]


def _measures(model: PreferenceModel, pairs: Pairs, micro_batch_size: int) -> dict[str, float]:
    """Measure accuracy on confident training pairs, and everything on held-out ones."""
    measures: dict[str, float] = {}
    confident = [pair for pair in _reference(pairs.train) if pair.probability >= CONFIDENT]
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
