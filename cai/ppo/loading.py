"""Policies and preference models, in memory or in folders: their tokens, contexts and names."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from cai.chat import ChatFormat
from cai.models import (
    device_and_dtype,
    eos_ids,
    fingerprint_model,
    load_causal_lm,
    load_chat_format,
    load_tokenizer,
    model_folder,
)
from cai.ppo.prompts import PromptFormat, prompt_format
from cai.preference_model import PreferenceModel
from cai.settings import ModelSettings

PolicyLike = ModelSettings | PreTrainedModel
Judge = PreferenceModel | Path

_HASHED_NUMBERS = 2**16


def as_policy(policy: str | Path | PolicyLike) -> PolicyLike:
    """Return settings for a folder or hub id, everything else as it is."""
    return ModelSettings(path=str(policy)) if isinstance(policy, str | Path) else policy


def policy_format(policy: PolicyLike, tokenizer: Any | None) -> PromptFormat:  # noqa: ANN401
    """Return how the policy reads prompts; the tokenizer is its folder's own if None is given."""
    if isinstance(policy, ModelSettings):
        return prompt_format(tokenizer or load_tokenizer(policy), eos_ids(model_folder(policy)))
    named = cast("Any", policy.generation_config).eos_token_id
    named = named if isinstance(named, list) else [] if named is None else [named]
    return prompt_format(tokenizer, named)


def load_policy(policy: PolicyLike) -> PreTrainedModel:
    """Return the policy in float32: loaded, or the very model that was given."""
    if isinstance(policy, ModelSettings):
        return load_causal_lm(policy.model_copy(update={"dtype": "float32"}))
    return policy.float()


def precision(policy: PolicyLike) -> torch.dtype:
    """Return what forward passes compute in: bfloat16 on a GPU unless the settings say."""
    if isinstance(policy, ModelSettings):
        return device_and_dtype(policy)[1]
    return torch.float32 if policy.device.type == "cpu" else torch.bfloat16


def judge_format(judge: Judge) -> ChatFormat:
    """Return how a preference model reads conversations."""
    if isinstance(judge, PreferenceModel):
        return judge.chat
    return load_chat_format(ModelSettings(path=str(judge)))


def critic_backbone(judges: Sequence[Judge], policy: PreTrainedModel) -> nn.Module:
    """Return the backbone that the critic starts from, in float32 and its own.

    It is the first preference model's; without one, the policy's.
    """
    if not judges:
        return copy.deepcopy(cast("Any", policy).base_model).float()
    first = judges[0]
    if isinstance(first, PreferenceModel):
        return copy.deepcopy(cast("Any", first.model).base_model).float()
    return cast("Any", PreferenceModel.load(first, device="cpu").model).base_model


def shared_context(models: Sequence[PolicyLike | Judge]) -> int:
    """Return how many tokens all of the models can read."""
    return min(_config(model).get_text_config().max_position_embeddings for model in models)


def identity(model: PolicyLike | Judge) -> str:
    """Name the weights of a model: of a folder, all that it holds."""
    if isinstance(model, ModelSettings):
        return f"{fingerprint_model(model)} {model.dtype}"
    if isinstance(model, Path):
        return fingerprint_model(ModelSettings(path=str(model)))
    digest = hashlib.sha256()
    weights = model.model if isinstance(model, PreferenceModel) else model
    for name, tensor in weights.state_dict().items():
        some = tensor.detach().flatten()[:: max(1, tensor.numel() // _HASHED_NUMBERS)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _config(model: PolicyLike | Judge) -> Any:  # noqa: ANN401 (any transformers config)
    if isinstance(model, PreferenceModel):
        return model.model.config
    if isinstance(model, PreTrainedModel):
        return model.config
    settings = model if isinstance(model, ModelSettings) else ModelSettings(path=str(model))
    return AutoConfig.from_pretrained(model_folder(settings))
