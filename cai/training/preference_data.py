"""Read comparisons as tokens, hold some of them out, and pad them into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cai.data.conversation import Prompt
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.preference_model import pad_right
from cai.settings import ComparisonSettings
from cai.training.data import answer, conversation, is_held_out, read_rows

HELD_OUT = 0.05
"""The share of prompts kept out of training, to measure accuracy and calibration on."""
_FEWEST_ROWS_TO_HOLD_OUT = 100


@dataclass(frozen=True)
class Pair:
    """A tokenised comparison."""

    chosen: NDArray[np.int32]
    """`(T,)`: prompt, chosen response and turn end."""
    rejected: NDArray[np.int32]
    prompt_tokens: int
    """Of the prompt, with which both begin."""
    probability: float
    """That the chosen response is the better one."""
    weight: float
    """Of the row in the loss."""
    held_out: bool


@dataclass
class Pairs:
    """Tokenised comparisons: those to train on, those held out, and how many were too long."""

    train: list[Pair] = field(default_factory=list[Pair])
    held_out: list[Pair] = field(default_factory=list[Pair])
    too_long: int = 0

    def counts(self, epochs: int) -> dict[str, int]:
        """Return the numbers of rows, and the `tokens` of both responses with their prompts."""
        return {
            "rows": len(self.train),
            "rows_held_out": len(self.held_out),
            "rows_too_long": self.too_long,
            "tokens": epochs * sum(len(p.chosen) + len(p.rejected) for p in self.train),
        }


def read_pairs(
    data: Path, chat: ChatFormat, settings: ComparisonSettings, max_length: int
) -> Pairs:
    """Tokenise comparisons; of 100 or more, hold out the pairs of 5% of the prompts.

    Raises:
        CaiError: The file is no comparison data.
    """
    pairs = Pairs()
    columns = ("key", "source", "prompt", "chosen", "rejected", "chosen_probability")
    for row in read_rows(data, columns):
        pair = _pair(row, chat, settings, data)
        if max(len(pair.chosen), len(pair.rejected)) > max_length:
            pairs.too_long += 1
        else:
            (pairs.held_out if pair.held_out else pairs.train).append(pair)
    return hold_out(pairs)


def hold_out(pairs: Pairs) -> Pairs:
    """Return the pairs; of fewer than 100, none is held out."""
    if len(pairs.train) + len(pairs.held_out) >= _FEWEST_ROWS_TO_HOLD_OUT:
        return pairs
    return Pairs([*pairs.train, *pairs.held_out], [], pairs.too_long)


def _pair(row: dict[str, Any], chat: ChatFormat, settings: ComparisonSettings, data: Path) -> Pair:
    prompt = conversation(row, "prompt", data)
    prompt_ids = chat.prompt_ids(Prompt(prompt))
    chosen, rejected = (
        np.array([*prompt_ids, *chat.completion_ids(answer(row, side, data))], dtype=np.int32)
        for side in ("chosen", "rejected")
    )
    probability = row["chosen_probability"]
    if probability is None or not 0 <= probability <= 1:
        raise CaiError(
            f"Row {row['key']} of {data}: `chosen_probability` is {probability}, which is not a "
            "probability. Fix or remove the row."
        )
    weights = {"ai": settings.ai_weight, "human": settings.human_weight}
    if row["source"] not in weights:
        raise CaiError(
            f"Row {row['key']} of {data}: `source` is {row['source']!r}, not `ai` or `human`."
        )
    return Pair(
        chosen=chosen,
        rejected=rejected,
        prompt_tokens=len(prompt_ids),
        probability=probability,
        weight=weights[row["source"]],
        held_out=is_held_out(prompt, HELD_OUT),
    )


def training_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the trainer's columns. Weights get mean 1: they do not change the size of steps."""
    mean_weight = sum(pair.weight for pair in pairs) / max(len(pairs), 1)
    return [
        {
            "chosen_ids": pair.chosen,
            "rejected_ids": pair.rejected,
            "prompt_tokens": pair.prompt_tokens,
            "probability": pair.probability,
            "weight": pair.weight / mean_weight,
        }
        for pair in pairs
    ]


def collate_pairs(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Stack chosen responses over rejected ones, padded on the right, with their labels.

    Returns:
        `input_ids`, `attention_mask` `(2B, T)` int64; `probability`, `weight`, `count` (1) `(B,)`.
    """
    sides = [row[side] for side in ("chosen_ids", "rejected_ids") for row in rows]
    input_ids, attention_mask = pad_right(sides, pad_id)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "probability": torch.tensor([row["probability"] for row in rows]),
        "weight": torch.tensor([row["weight"] for row in rows]),
        "count": torch.ones(len(rows)),
    }
