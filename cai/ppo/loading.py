"""Policies and preference models, in memory or in folders: their tokens, contexts and names."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import (
    device_and_dtype,
    eos_ids,
    fingerprint_model,
    load_causal_lm,
    load_chat_format,
    load_tokenizer,
    model_folder,
)
from cai.models.preference_model import PreferenceModel, score_constants
from cai.ppo.learner import Learner
from cai.ppo.memory import Shape
from cai.ppo.prompts import PromptFormat, prompt_format
from cai.ppo.rewards import Judge, Reward, preference_models
from cai.settings import ModelSettings, PPOSettings
from cai.training.lora import AdapterWeights, load_adapter
from cai.training.processes import ALONE, Processes

MAX_BATCH_TOKENS = 16384

PolicyLike = ModelSettings | PreTrainedModel

_HASHED_NUMBERS = 2**16
_NO_LIMIT = 2**31
"""Tokens; more than any prompt has."""


def as_policy(policy: str | Path | PolicyLike) -> PolicyLike:
    """Return settings for a folder or hub id, everything else as it is."""
    return ModelSettings(path=str(policy)) if isinstance(policy, str | Path) else policy


def policy_format(policy: PolicyLike, tokenizer: Any | None) -> PromptFormat:  # noqa: ANN401
    """Return the prompt format of the policy; without a tokenizer, that of its folder."""
    if isinstance(policy, ModelSettings):
        return prompt_format(tokenizer or load_tokenizer(policy), eos_ids(model_folder(policy)))
    named: int | list[int] | None = cast("Any", policy.generation_config).eos_token_id
    return prompt_format(tokenizer, [named] if isinstance(named, int) else named or [])


def load_policy(policy: PolicyLike, settings: PPOSettings) -> PreTrainedModel:
    """Return the policy, loaded or as it was given: float32, unless LoRA freezes it."""
    if not isinstance(policy, ModelSettings):
        return policy if settings.lora_rank else policy.float()
    if settings.lora_rank:
        return load_causal_lm(policy)
    return load_causal_lm(policy.model_copy(update={"dtype": "float32"}))


def precision(policy: PolicyLike) -> torch.dtype:
    """Return the precision of forward passes: bfloat16 on a GPU unless the settings differ."""
    if isinstance(policy, ModelSettings):
        return device_and_dtype(policy)[1]
    return torch.float32 if policy.device.type == "cpu" else torch.bfloat16


def device(policy: PolicyLike) -> torch.device:
    """Return where the policy is, or will be."""
    return device_and_dtype(policy)[0] if isinstance(policy, ModelSettings) else policy.device


def max_batch_tokens(policy: PolicyLike) -> int:
    """Return how many tokens sampling may keep in flight."""
    return policy.max_batch_tokens if isinstance(policy, ModelSettings) else MAX_BATCH_TOKENS


def judge_format(judge: Judge) -> ChatFormat:
    """Return the chat format of a preference model; raise a CaiError for other models."""
    if isinstance(judge, PreferenceModel):
        return judge.chat
    settings = ModelSettings(path=str(judge))
    score_constants(model_folder(settings))
    return load_chat_format(settings)


def open_models(
    policy: PolicyLike,
    scorers: Mapping[str, tuple[Any, float]],
    settings: PPOSettings,
    chat: PromptFormat,
    *,
    processes: Processes = ALONE,
    seed: int,
) -> tuple[Learner, Reward]:
    """Load what is not loaded and assign the roles.

    The critic, if any, starts from the heaviest preference model, and with LoRA shares its weights.
    A preference model that is an adapter of the policy's model shares the policy's weights.
    """
    judges = preference_models(scorers)
    first = next(iter(judges), None)
    adapter = preference_adapter(policy, judges[first]) if first and settings.lora_rank else None
    model = load_policy(policy, settings)
    opened: dict[str, Any] = {
        name: judge
        if isinstance(judge, PreferenceModel)
        else judge_on(model, adapter, judge_format(judge), *score_constants(judge))
        if adapter and name == first
        else PreferenceModel.load(judge)
        for name, judge in judges.items()
    }
    backbone = None
    if first and adapter is None and settings.has_critic and settings.critic == "separate":
        backbone = _critic_backbone(judges[first], opened[first], settings)
    learner = Learner.start(
        model,
        backbone,
        chat,
        settings,
        dtype=precision(policy),
        max_batch_tokens=max_batch_tokens(policy),
        preference_adapter=adapter,
        processes=processes,
        seed=seed,
    )
    reward = {name: (opened.get(name, scorer), w) for name, (scorer, w) in scorers.items()}
    if settings.advantage == "online_dpo":
        # A difference of raw scores is the log-odds of a label; normalised ones were divided.
        reward |= {name: (judge, reward[name][1] * judge.std) for name, judge in opened.items()}
    return learner, Reward(reward, chat)


def loaded(scorers: Mapping[str, tuple[Any, float]]) -> dict[str, tuple[Any, float]]:
    """Return scorers with the preference models among them loaded, each on its own."""
    return {
        name: (PreferenceModel.load(it) if isinstance(it, str | Path) else it, weight)
        for name, (it, weight) in scorers.items()
    }


def preference_adapter(policy: PolicyLike, judge: Judge) -> AdapterWeights | None:
    """Return the preference model's LoRA if it was trained on the policy's very weights."""
    if not isinstance(policy, ModelSettings) or isinstance(judge, PreferenceModel):
        return None
    return load_adapter(judge, base=fingerprint_model(policy))


class _Scoring(nn.Module):
    """What a PreferenceModel needs of a model, on a backbone that is the policy's."""

    def __init__(self, policy: PreTrainedModel, head: Tensor) -> None:
        super().__init__()
        self.base_model = policy.base_model
        self.config = policy.config
        self.device = policy.device
        self.score = nn.Linear(head.shape[1], 1, bias=False)
        self.score.weight = nn.Parameter(head.to(policy.device), requires_grad=False)


def judge_on(
    policy: PreTrainedModel, adapter: AdapterWeights, chat: ChatFormat, mean: float, std: float
) -> PreferenceModel:
    """Return a preference model that scores with the policy's weights and its own adapter."""
    model = cast("PreTrainedModel", _Scoring(policy, adapter.head))
    return PreferenceModel(model, chat, mean=mean, std=std)


def _critic_backbone(judge: Judge, opened: PreferenceModel, settings: PPOSettings) -> nn.Module:
    """Return the backbone the critic starts from: float32 and its own, unless LoRA freezes it."""
    backbone = cast("nn.Module", cast("Any", opened.model).base_model)
    if settings.lora_rank:
        return backbone
    if isinstance(judge, PreferenceModel):
        return copy.deepcopy(backbone).float()
    return cast("Any", PreferenceModel.load(judge, device="cpu").model).base_model


def shape(model: PolicyLike | Judge, precision: torch.dtype) -> Shape:
    """Return what of a model decides its memory in a run of this precision, without loading it."""
    return Shape.of(_config(model), precision)


def shared_context(models: Sequence[PolicyLike | Judge]) -> int:
    """Return how many tokens all of the models can read; those with ALiBi set no limit."""
    texts = [_config(model).get_text_config() for model in models]
    return min(getattr(text, "max_position_embeddings", _NO_LIMIT) for text in texts)


def check_kind(policy: PolicyLike) -> None:
    """Raise a CaiError unless the policy reads from left to right."""
    config = _config(policy)
    if config.is_encoder_decoder:
        raise CaiError(
            f"PPO cannot train a model of type `{config.model_type}`: it reads prompts with an "
            "encoder. Give a causal language model, such as Llama, Qwen, Gemma, Mistral or GPT-2."
        )


def identity(model: PolicyLike | Judge) -> str:
    """Fingerprint the weights of a model; a folder counts with all its files."""
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
    return AutoConfig.from_pretrained(model_folder(settings), trust_remote_code=False)
