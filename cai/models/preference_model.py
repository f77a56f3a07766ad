"""The preference model: a language model with one scalar output, read at the last real token.

The probability that response A is preferred to B is σ(r_A − r_B), where r is the score at the end
of the conversation (paper, section 4.2, and 2204.05862, section A.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from cai.data.conversation import Conversation, Prompt
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import device_and_dtype, load_chat_format, model_folder, without_dropout
from cai.settings import ModelSettings

MICRO_BATCH = {"cpu": 8, "cuda": 32}
"""Sequences per forward pass; few on a CPU, so that a layer's activations stay in the cache."""


class PreferenceModel:
    """Scores whole conversations; higher is better.

    Scores have mean 0 and standard deviation 1 over a sample of the training data, by `mean` and
    `std` of the raw scores, which are in config.json (`cai_score_mean`, `cai_score_std`).
    `AutoModelForSequenceClassification` on the same folder gives the raw logits. `model` is in eval
    mode; `chat` writes its conversations.
    """

    def __init__(
        self, model: PreTrainedModel, chat: ChatFormat, *, mean: float = 0.0, std: float = 1.0
    ) -> None:
        self.model = model
        self.chat = chat
        self.mean = mean
        self.std = std

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> Self:
        """Load a preference model that `train_preference` saved.

        `device` is None for the GPU if there is one. The model runs in bfloat16 on a GPU (with a
        float32 head) and in float32 on a CPU.

        Raises:
            CaiError: The folder is unusable, or holds another kind of model.
        """
        settings = ModelSettings(path=str(path))
        folder = model_folder(settings)
        config = without_dropout(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        mean, std = score_constants(folder)
        automatic, dtype = device_and_dtype(settings)
        device = torch.device(device) if device else automatic
        dtype = torch.float32 if device.type == "cpu" else dtype
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=dtype, trust_remote_code=False
        )
        model.score.float()
        return cls(model.to(device).eval(), load_chat_format(settings), mean=mean, std=std)

    @property
    def context(self) -> int:
        """The longest conversation that it can score, in tokens."""
        return self.model.config.get_text_config().max_position_embeddings

    def ids(self, messages: Conversation, response: str) -> list[int]:
        """Return the tokens of a conversation and the response that ends it, turn end included."""
        return [*self.chat.prompt_ids(Prompt(messages)), *self.chat.completion_ids(response)]

    def score(
        self, items: Sequence[tuple[Conversation, str]], micro_batch_size: int | None = None
    ) -> list[float]:
        """Return the normalised scores of responses, in the order of the items.

        Args:
            items: Conversations that end with the user's turn, and responses to them.
            micro_batch_size: Sequences per forward pass; changes memory and speed, not results.
                By default `MICRO_BATCH` of the device.

        Raises:
            CaiError: One is longer than the model's context.
        """
        sequences = [self.ids(messages, response) for messages, response in items]
        return self.score_ids(sequences, micro_batch_size).tolist()

    def score_ids(
        self, sequences: Sequence[Sequence[int]], micro_batch_size: int | None = None
    ) -> Tensor:
        """Score token sequences, not padded and none empty, at their last tokens; see `score`.

        Returns:
            `(N,)` float32 on the CPU: normalised scores.
        """
        return (self.raw_scores(sequences, micro_batch_size) - self.mean) / self.std

    @torch.no_grad()
    def raw_scores(
        self, sequences: Sequence[Sequence[int]], micro_batch_size: int | None = None
    ) -> Tensor:
        """Return `(N,)` float32 scores before normalisation: differences of them are log-odds."""
        longest = max(map(len, sequences), default=0)
        if longest > self.context:
            raise CaiError(
                f"A conversation of {longest} tokens does not fit the preference model's context "
                f"of {self.context}. Leave it out, or train one with a longer context."
            )
        # Neighbours of similar length waste little on padding.
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        scores = torch.empty(len(sequences))
        device = self.model.device
        size = micro_batch_size or MICRO_BATCH.get(device.type, MICRO_BATCH["cuda"])
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            ids, mask = pad_right([sequences[index] for index in batch], self.chat.pad_id)
            scores[batch] = last_token_scores(self.model, ids.to(device), mask.to(device)).cpu()
        return scores


def score_constants(folder: Path) -> tuple[float, float]:
    """Return mean and standard deviation of a preference model's raw scores, from its config.

    Raises:
        CaiError: The folder holds another kind of model.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    mean, std = (getattr(config, f"cai_score_{name}", None) for name in ("mean", "std"))
    if mean is None or std is None:
        raise CaiError(
            f"{folder} is not a preference model of cai: its config.json has no "
            "`cai_score_mean` and `cai_score_std`. Give the model folder of a preference stage."
        )
    return mean, std


def last_token_scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the score head's output at the last real token of each sequence, by the mask.

    transformers' own pooling looks for the last id that is not the pad id, which is the wrong
    token where pad and turn end are the same.

    Ids and mask (1 at real tokens) are `(B, T)`, padded on either side with any id.

    Returns:
        `(B,)` float32, raw (not normalised).
    """
    positions = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    # Scores are compared to a fraction of their size, which bfloat16 would round away.
    with torch.autocast(hidden.device.type, enabled=False):
        scores = cast("Any", model).score(hidden.float()).squeeze(-1)
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
