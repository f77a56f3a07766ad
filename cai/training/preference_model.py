"""The preference model: a language model with one scalar output, read at the last real token.

Paper, section 4.2, and 2204.05862, section A.2: the probability that response A is preferred to B
is σ(r_A − r_B), where r is the score at the end of the conversation. Training, scoring and the
critic all read the score through `token_scores` and `last_token_scores`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from cai.chat import ChatFormat
from cai.conversation import Conversation, Prompt
from cai.errors import CaiError
from cai.models import device_and_dtype, load_chat_format, model_folder, without_dropout
from cai.settings import ModelSettings

MICRO_BATCH = {"cpu": 8, "cuda": 32}
"""Sequences per forward pass; few on a CPU, so that a layer's activations stay in the cache."""
_ADAPTER = "adapter.safetensors"


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


class PreferenceModel:
    """Scores whole conversations; higher is better.

    Scores are normalised to mean 0 and standard deviation 1 over a reference sample of the training
    data, with constants that are stored in config.json (`cai_score_mean`, `cai_score_std`).
    `AutoModelForSequenceClassification` on the same folder gives the raw logits.

    Attributes:
        model: The sequence classification model, in eval mode.
        chat: How it writes conversations.
        mean: Of the raw scores.
        std: Of the raw scores.
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

        Args:
            path: Its folder.
            device: Where to put it; None for the GPU if there is one. It runs in bfloat16 on a GPU
                (with a float32 head) and in float32 on a CPU.

        Raises:
            CaiError: The folder is unusable, or holds another kind of model.
        """
        settings = ModelSettings(path=str(path))
        folder = model_folder(settings)
        config = without_dropout(AutoConfig.from_pretrained(folder))
        mean, std = score_constants(folder)
        automatic, dtype = device_and_dtype(settings)
        device = torch.device(device) if device else automatic
        dtype = torch.float32 if device.type == "cpu" else dtype
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=dtype
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
        """Score responses.

        Args:
            items: Conversations that end with the user's turn, and responses to them.
            micro_batch_size: Sequences per forward pass; changes memory and speed, not results.
                By default `MICRO_BATCH` of the device.

        Returns:
            Normalised scores, in the order of the items.

        Raises:
            CaiError: One is longer than the model's context.
        """
        sequences = [self.ids(messages, response) for messages, response in items]
        return self.score_ids(sequences, micro_batch_size).tolist()

    def score_ids(
        self, sequences: Sequence[Sequence[int]], micro_batch_size: int | None = None
    ) -> Tensor:
        """Score token sequences at their last tokens.

        Args:
            sequences: Whole conversations, not padded, none empty.
            micro_batch_size: Sequences per forward pass; changes memory and speed, not results.
                By default `MICRO_BATCH` of the device.

        Returns:
            `(N,)` float32 on the CPU: normalised scores.

        Raises:
            CaiError: One is longer than the model's context.
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


@dataclass(frozen=True)
class AdapterWeights:
    """What makes a preference model of a language model: LoRA matrices and a score head.

    Attributes:
        matrices: `LAYER.lora_A` and `LAYER.lora_B` by the layer's name in the backbone.
        head: `(1, D)`, the score head's weight.
        rank: Of the matrices.
    """

    matrices: dict[str, Tensor]
    head: Tensor
    rank: int


def score_constants(folder: Path) -> tuple[float, float]:
    """Return mean and standard deviation of a preference model's raw scores, from its config.

    Raises:
        CaiError: The folder holds another kind of model.
    """
    config = AutoConfig.from_pretrained(folder)
    mean, std = (getattr(config, f"cai_score_{name}", None) for name in ("mean", "std"))
    if mean is None or std is None:
        raise CaiError(
            f"{folder} is not a preference model of cai: its config.json has no "
            "`cai_score_mean` and `cai_score_std`. Give the model folder of a preference stage."
        )
    return mean, std


def save_adapter(matrices: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
    """Keep LoRA matrices beside the merged weights.

    Args:
        matrices: See `AdapterWeights`.
        folder: The preference model's.
        base: Fingerprint of the language model that they were trained on.
    """
    whole = {name: matrix.contiguous().cpu() for name, matrix in matrices.items()}
    save_file(whole, folder / _ADAPTER, metadata={"base": base})


def load_adapter(folder: Path, *, base: str) -> AdapterWeights | None:
    """Return a preference model's adapter if it has one that was trained on this very model.

    Args:
        folder: The preference model's.
        base: Fingerprint of the language model at hand.
    """
    file = folder / _ADAPTER
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as opened:
        if cast("Any", opened).metadata().get("base") != base:
            return None
        matrices = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    rank = next(m.shape[0] for name, m in matrices.items() if name.endswith("lora_A"))
    return AdapterWeights(matrices, _score_head(folder), rank)


def _score_head(folder: Path) -> Tensor:
    index = folder / "model.safetensors.index.json"
    name = "model.safetensors"
    if index.is_file():
        name = json.loads(index.read_text(encoding="utf-8"))["weight_map"]["score.weight"]
    with safe_open(folder / name, framework="pt") as opened:
        return opened.get_tensor("score.weight").float()


def reset_score_head(model: PreTrainedModel, *, seed: int) -> None:
    """Draw the score head anew with standard deviation 1/√(d + 1), d the width of the model.

    Scores then start at the order of one whatever the width (Stiennon et al. 2020, appendix B).

    Raises:
        CaiError: The model has no linear head named `score`.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise CaiError(
            f"{type(model).__name__} has no linear score head, so it cannot become a preference "
            "model. Take a decoder model (Llama, Qwen, Gemma, Mistral, GPT-2, …) as `models.base`."
        )
    generator = torch.Generator().manual_seed(seed)
    std = 1 / math.sqrt(head.in_features + 1)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(std=std, generator=generator))
