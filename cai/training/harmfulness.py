"""Train a harmfulness model: a regression head for ratings from 0 to 4 (paper, section 4.5).

The loss is L2, on transcripts that people have rated. The model is built like a preference model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel

from cai.data.conversation import Prompt
from cai.data.records import RatedRow
from cai.data.store import read_rows
from cai.models.chat import ChatFormat
from cai.models.loading import fingerprint_model, load_chat_format
from cai.models.preference_model import PreferenceModel, pad_right
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.arguments import OnStep, Run, micro_batch_size
from cai.training.data import is_held_out, longest_sequence, no_rows_error
from cai.training.fit import fit
from cai.training.harmfulness_model import MARK
from cai.training.scorer import new_preference_model, read_scores_by_mask, save_scorer

HELD_OUT = 0.1
"""The share of prompts kept out of training, of 50 rows or more, to measure the error on."""
_FEWEST_TO_HOLD_OUT = 50


def train_harmfulness(
    settings: OptimizerSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train the model and its regression head, and save both in `out`; see `train_preference`.

    Args:
        settings: How to train.
        data: Conversations with ratings: JSON lines of `RatedRow`.
        base: The language model to start from; its vocabulary head is replaced.
        out: The folder of the new model.
        seed: Sets the order of the rows and the head.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.

    Returns:
        `steps`, `rows` (trained on), `rows_held_out`, `rows_too_long`, `first_loss`, `final_loss`,
        `seconds`; and with 50 rows or more `held_out_rmse`, `held_out_rmse_of_mean` (if the model
        always said the mean) and `held_out_correlation` (Pearson's).

    Raises:
        CaiError: The settings or base cannot be used, no row fits, or the loss is not finite.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat, model = load_chat_format(base), new_preference_model(base, seed=seed)
    rated = read_rows(data, RatedRow)
    tokens = {row.key: _ids(row, chat) for row in rated}
    longest = longest_sequence(settings, model.config)
    fitting = [row for row in rated if len(tokens[row.key]) <= longest]
    train, held_out = _split(fitting)
    if not train:
        raise no_rows_error(data, settings, len(rated) - len(fitting))
    mean = sum(row.rating for row in train) / len(train)

    def finish(trained: PreTrainedModel, adapter: Mapping[str, Tensor]) -> dict[str, float]:
        scorer = PreferenceModel(trained, chat, mean=-mean)
        save_scorer(scorer, out, adapter=adapter, base=fingerprint_model(base), mark=MARK)
        return _measures(scorer, held_out, mean, micro) if held_out else {}

    metrics = fit(
        read_scores_by_mask(model),
        [{"ids": tokens[row.key], "rating": row.rating - mean} for row in train],
        partial(collate_ratings, pad_id=chat.pad_id),
        rating_loss,
        settings,
        Run(base, data, seed, out.parent / f"{out.name}-checkpoints", log_dir, on_step),
        finish,
    )
    return {
        "rows": len(train),
        "rows_held_out": len(held_out),
        "rows_too_long": len(rated) - len(fitting),
        **metrics,
        "seconds": time.monotonic() - start,
    }


def collate_ratings(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` `(B, T)`, `rating` and `count` (1 each) `(B,)`."""
    input_ids, attention_mask = pad_right([row["ids"] for row in rows], pad_id)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "rating": torch.tensor([row["rating"] for row in rows], dtype=torch.float32),
        "count": torch.ones(len(rows)),
    }


def rating_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return (score - rating)² of each row, `(B,)`."""
    rating = batch.pop("rating")
    return mse_loss(model(**batch).logits.squeeze(-1), rating, reduction="none")


def _ids(row: RatedRow, chat: ChatFormat) -> list[int]:
    return [*chat.prompt_ids(Prompt(row.messages)), *chat.completion_ids(row.response)]


def _split(rows: Sequence[RatedRow]) -> tuple[list[RatedRow], list[RatedRow]]:
    """Return the rows to train on, and those held out, if there are enough."""
    share = HELD_OUT if len(rows) >= _FEWEST_TO_HOLD_OUT else 0
    held_out = [row for row in rows if is_held_out(row.messages, share)]
    return [row for row in rows if not is_held_out(row.messages, share)], held_out


def _measures(
    model: PreferenceModel, rows: Sequence[RatedRow], mean: float, micro: int
) -> dict[str, float]:
    found = np.array(model.score([(row.messages, row.response) for row in rows], micro))
    rating = np.array([row.rating for row in rows])
    measures = {
        "held_out_rmse": float(np.sqrt(np.mean((found - rating) ** 2))),
        "held_out_rmse_of_mean": float(np.sqrt(np.mean((mean - rating) ** 2))),
    }
    if len(rows) > 2 and found.std() > 0 and rating.std() > 0:
        measures["held_out_correlation"] = float(np.corrcoef(found, rating)[0, 1])
    return measures
