"""The score head's output at the tokens of padded conversations.

Training, scoring and the critic all read the score in this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel


def token_scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the score head's output at every token.

    Args:
        model: A sequence classification model with one label.
        input_ids: `(B, T)`; padded on either side with any id.
        attention_mask: `(B, T)` 1 at real tokens.

    Returns:
        `(B, T)` float32, raw (not normalised); meaningless at padding.
    """
    positions = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    # Scores are compared to a fraction of their size, which bfloat16 would round away.
    with torch.autocast(hidden.device.type, enabled=False):
        return cast("Any", model).score(hidden.float()).squeeze(-1)


def last_token_scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the score at the last real token of each sequence, which the mask tells.

    transformers' own pooling looks for the last id that is not the pad id, which reads the wrong
    token where pad and turn end are one.

    Args:
        model: A sequence classification model with one label.
        input_ids: `(B, T)`; padded on either side with any id.
        attention_mask: `(B, T)` 1 at real tokens.

    Returns:
        `(B,)` float32, raw (not normalised).
    """
    scores = token_scores(model, input_ids, attention_mask)
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (places * attention_mask).argmax(dim=-1, keepdim=True)
    return scores.gather(-1, last).squeeze(-1)


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return `input_ids` and `attention_mask`, each `(B, T)` int64, padded on the right."""
    ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    masks = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id),
        pad_sequence(masks, batch_first=True),
    )
