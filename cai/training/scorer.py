"""Score models in training: a language model gets a score head, and is saved with it.

Both the preference model and the harmfulness model are such models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from cai.data.store import whole_folder
from cai.errors import CaiError
from cai.models.loading import model_folder, without_dropout
from cai.models.preference_model import PreferenceModel, last_token_scores
from cai.settings import ModelSettings
from cai.training.lora import save_adapter
from cai.training.trainer import quiet_transformers


def new_preference_model(base: ModelSettings, *, seed: int) -> PreTrainedModel:
    """Load a language model with a new score head in place of its vocabulary head, in float32.

    Raises:
        CaiError: The folder is unusable, or the model cannot carry a score head.
    """
    folder = model_folder(base)
    config = AutoConfig.from_pretrained(folder, num_labels=1, trust_remote_code=False)
    if type(config) not in cast("Any", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING):
        raise CaiError(
            f"transformers has no sequence classifier for the model in {folder}, of type "
            f"`{config.model_type}`, so it cannot become a preference model. Train the preference "
            "model from another one, or use `dpo` in place of `preference` and `ppo`."
        )
    with quiet_transformers():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=without_dropout(config),
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    missing = [name for name in report["missing_keys"] if not name.startswith("score.")]
    if missing:
        raise CaiError(
            f"The weights in {folder} lack {len(missing)} tensors of a decoder model, such as "
            f"{missing[0]}. Check that config.json and the weights belong together."
        )
    reset_score_head(model, seed=seed)
    return model


def read_scores_by_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model's own forward pass return `last_token_scores`, and return the model.

    Trainers, adapters and wrappers use the forward pass, so all score as `PreferenceModel` does.
    """

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:  # noqa: ANN401
        scores = last_token_scores(model, input_ids, attention_mask)
        return SequenceClassifierOutput(logits=cast("Any", scores[:, None]))

    model.forward = forward
    return model


def save_scorer(
    scorer: PreferenceModel,
    out: Path,
    *,
    adapter: Mapping[str, Tensor],
    base: str,
    mark: str | None = None,
) -> None:
    """Save model, tokenizer and constants in `out`, whole or not at all.

    LoRA matrices (`adapter`) are kept with the fingerprint of their `base`, so that PPO can share
    the base model. `mark` is a key that is set to true in config.json.
    """
    chat, config = scorer.chat, cast("Any", scorer.model.config)
    config.cai_score_mean, config.cai_score_std = scorer.mean, scorer.std
    # transformers pools at the last id that is not `pad_token_id`: name one that ends no turn.
    config.pad_token_id = chat.pad_id if chat.pad_id != chat.turn_end else int(chat.turn_end == 0)
    if mark:
        setattr(config, mark, True)
    with whole_folder(out) as folder:
        scorer.model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        if adapter:
            save_adapter(adapter, folder, base=base)


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
