"""Fine-tuning data: choose rows, tokenise them, pad them into batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cai.data.conversation import Prompt
from cai.data.records import content_hash
from cai.models.chat import ChatFormat
from cai.models.preference_model import pad_right
from cai.training.data import answer, conversation

COLUMNS = ("key", "kind", "prompt", "completion", "ended")
NO_LOSS = -100
"""The label of tokens that carry no loss: prompts and padding."""


def mixture(
    rows: Sequence[dict[str, Any]], helpful_ratio: float, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Keep at most `helpful_ratio` helpful rows per revision (all, where there are no revisions).

    The paper mixed 27 helpful samples with 73 revisions (section 3.2). Rows are ranked by hash, so
    that a few rows more or less change few of those kept.

    Returns:
        The rows in their order, and how many helpful ones were left out.
    """
    helpful = [row["key"] for row in rows if row["kind"] == "helpful"]
    revisions = len(rows) - len(helpful)
    most = math.floor(helpful_ratio * revisions) if revisions else len(helpful)
    kept = set(sorted(helpful, key=lambda key: content_hash("mixture", seed, key))[:most])
    mixed = [row for row in rows if row["kind"] != "helpful" or row["key"] in kept]
    return mixed, len(rows) - len(mixed)


def completion_rows(
    rows: Sequence[dict[str, Any]], data: Path, chat: ChatFormat, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Tokenise the rows of the file `data` (see `train_sft`), except those above `max_length`.

    Returns:
        Rows of `input_ids` and `labels` (`(T,)` int32; labels are `NO_LOSS` on the prompt), and how
        many rows were too long.

    Raises:
        CaiError: The file is no training data.
    """
    tokenised: list[dict[str, Any]] = []
    too_long = 0
    for row in rows:
        prompt = chat.prompt_ids(Prompt(conversation(row, "prompt", data)))
        completion = chat.completion_ids(answer(row, "completion", data), end=row["ended"])
        if len(prompt) + len(completion) > max_length:
            too_long += 1
            continue
        tokenised.append(
            {
                "input_ids": np.array([*prompt, *completion], dtype=np.int32),
                "labels": np.array([NO_LOSS] * len(prompt) + completion, dtype=np.int32),
            }
        )
    return tokenised, too_long


def collate_completions(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right; mask and labels tell what is padding, never the pad id.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each `(B, T)` int64; and `count`, `(B,)`: the
        tokens of each row that carry loss.
    """
    input_ids, attention_mask = pad_right([row["input_ids"] for row in rows], pad_id)
    targets = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
    labels = pad_sequence(targets, batch_first=True, padding_value=NO_LOSS)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "count": (labels[:, 1:] != NO_LOSS).sum(1),
    }
