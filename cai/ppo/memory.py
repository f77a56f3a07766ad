"""An estimate of a run's memory by role, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cai.engines.vllm_sampler import MEMORY
from cai.errors import CaiError
from cai.ppo.math import MAX_LOGITS
from cai.settings import PPOSettings
from cai.training.activations import Kept, kept

FULL = 4
"""Bytes of a float32 number: a weight that is trained, its gradient, each of Adam's two moments."""


_SHARE = 0.9
"""The share of the free memory that a run may plan with."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that determine its memory."""

    weights: int
    """Numbers in the whole model."""
    backbone: int
    """Numbers in it without the output head."""
    lora: int
    """Numbers in an adapter of rank 1."""
    layers: int
    hidden: int
    cache: int
    """Numbers in the keys and values of one token in one layer."""
    vocabulary: int
    kept: Kept
    """What a forward pass in the precision of the run keeps, if all weights are trained."""
    kept_lora: Kept
    """The same under LoRA."""

    @classmethod
    def of(cls, config: Any, precision: torch.dtype) -> Shape:  # noqa: ANN401 (any transformers config)
        """Read the sizes off a transformers config, from a model without weights."""
        with torch.device("meta"):
            model = cast("Any", AutoModelForCausalLM.from_config(config))
        text = config.get_text_config()
        # Models without attention have states of one size, which are not counted.
        queries = getattr(text, "num_attention_heads", None) or 0
        heads = getattr(text, "num_key_value_heads", None) or queries
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // max(1, queries)
        linear = [m for m in model.base_model.modules() if isinstance(m, nn.Linear | Conv1D)]
        return cls(
            weights=_numbers(model),
            backbone=_numbers(model.base_model),
            lora=sum(sum(m.weight.shape) for m in linear),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            cache=2 * heads * head_dim if queries else 0,
            vocabulary=text.vocab_size,
            kept=kept(config, precision, lora=False),
            kept_lora=kept(config, precision, lora=True),
        )


@dataclass(frozen=True)
class VLLMShare:
    """The memory of a vLLM beside the trainer."""

    whole: int
    """Bytes of its copy of the weights, its work and its cache."""
    sleeps: bool
    """Whether it gives them back between rollouts."""


def vllm_share(
    policy: Shape, options: Mapping[str, Any], *, precision: torch.dtype, total: int | None
) -> VLLMShare:
    """Return the memory that vLLM takes beside the trainer, with `options` of the policy.

    `total` are the bytes of the GPU, of which vLLM takes a share; None on a CPU, where it takes its
    weights and `VLLM_CPU_KVCACHE_SPACE`. Raises a CaiError if the share cannot hold the weights.
    """
    weights = _bytes_of(precision) * policy.weights
    if total is None:
        cache = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1)
        return VLLMShare(weights + int(cache * 2**30), sleeps=False)
    share = float(options.get("gpu_memory_utilization", MEMORY))
    workers = int(options.get("tensor_parallel_size", 1))
    if weights / workers >= share * total:
        raise CaiError(
            f"vLLM's share of the GPU's memory ({share:g} of {_gigabytes(total)}) cannot hold the "
            f"policy's weights ({_gigabytes(weights // workers)}) and a cache. Raise "
            "`options: {gpu_memory_utilization: ...}` of the policy's model, or set "
            "`ppo.rollouts: transformers`."
        )
    return VLLMShare(int(share * total), sleeps=bool(options.get("enable_sleep_mode", True)))


def estimate(
    policy: Shape,
    preference: Shape | None,
    settings: PPOSettings,
    *,
    precision: torch.dtype,
    longest: int,
    batch_tokens: int,
    micro_batch_size: int,
    zero_parts: int = 1,
    shared: bool = False,
    parts: int = 1,
    independent: Sequence[Shape] = (),
    vllm: VLLMShare | None = None,
    feedback: int = 0,
) -> dict[str, int]:
    """Return the bytes each role needs; without a critic it is not among the roles.

    Args:
        policy: The policy's shape.
        preference: The preference model's; None if a function scores.
        settings: How to train.
        precision: Of forward passes, and of frozen weights under LoRA.
        longest: Tokens of the longest prompt and a response.
        batch_tokens: Tokens in flight while sampling.
        micro_batch_size: Episodes per forward pass.
        zero_parts: Processes that split the optimizers by DeepSpeed's ZeRO, which also copies the
            weights.
        shared: The preference model is an adapter on the policy's weights.
        parts: Processes that split trained models and the reference; each samples with a whole
            copy of the policy.
        independent: The preference models of the guard.
        vllm: Its memory, if it samples.
        feedback: Bytes of the feedback model of a reward by principles, if it is on this machine.
    """
    bits = _bytes_of(precision)
    critic = preference or policy
    # Weight, gradient and two moments. ZeRO 2 parts gradients too, but holds them in buckets.
    state = 4 * FULL if zero_parts == 1 else 2 * FULL + 3 * FULL // zero_parts
    judge = 0 if preference is None else bits * preference.backbone
    if settings.lora_rank:
        roles = {
            "policy": bits * policy.weights + state * settings.lora_rank * policy.lora,
            "reference": 0,
            "critic": state * settings.lora_rank * critic.lora,
            "preference model": FULL * settings.lora_rank * policy.lora if shared else judge,
        }
    else:
        roles = {
            "policy": state * policy.weights // parts,
            "reference": FULL * policy.weights // parts,
            "critic": state * critic.backbone // parts,
            "preference model": judge,
            "copy for sampling": bits * policy.weights if parts > 1 else 0,
        }
    if settings.critic == "value_head":
        roles["critic"] = state * policy.hidden
    if not settings.has_critic:
        del roles["critic"]
    roles["feedback model"] = feedback
    roles["independent scorer"] = sum(bits * judge.backbone for judge in independent)
    roles["update"] = _update(policy, settings, bits, micro_batch_size * longest, micro_batch_size)
    if settings.rollouts != "vllm" or vllm is None:
        roles["sampling"] = bits * batch_tokens * policy.layers * policy.cache
    elif vllm.sleeps:
        roles["sampling"] = vllm.whole
    else:
        roles |= {"vLLM": vllm.whole, "sampling": 0}
    return roles


def _update(
    policy: Shape, settings: PPOSettings, bits: int, tokens: int, micro_batch_size: int
) -> int:
    """Return the bytes of a forward and backward pass, besides weights and gradients."""
    saved = policy.kept_lora if settings.lora_rank else policy.kept
    states = int(saved.per_token * tokens) + saved.once
    logits = min(MAX_LOGITS, micro_batch_size * settings.max_new_tokens * policy.vocabulary)
    # They are float32, and one tensor from the output head to the gradient; the head's own result
    # is another one where they are made more precise, or divided by a temperature.
    logits *= FULL + (bits if bits < FULL or settings.temperature != 1 else 0)
    if not settings.gradient_checkpointing:
        return states + logits
    # Each layer's input, and in turn the logits and what one layer keeps. Without LoRA, inputs are
    # float32.
    inputs = policy.layers * policy.hidden * (bits if settings.lora_rank else FULL)
    return inputs * tokens + max(states // policy.layers, logits)


def needed(roles: Mapping[str, int]) -> int:
    """Return the bytes at the peak: sampling and update take turns."""
    lasting = sum(n for role, n in roles.items() if role not in ("update", "sampling"))
    return lasting + max(roles["update"], roles["sampling"])


def total_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU, free or not; None on a CPU."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_memory(
    policy: Shape,
    preference: Shape | None,
    settings: PPOSettings,
    *,
    available: int,
    micro_batch_size: int,
    **more: Any,  # noqa: ANN401 (the rest of `estimate`'s arguments)
) -> dict[str, int]:
    """Return the estimate of a run that fits; `more` are the other arguments of `estimate`.

    Raises:
        CaiError: It does not fit; the message has the memory by role, and settings that would fit.
    """

    def roles_of(changed: PPOSettings) -> dict[str, int]:
        size = min(micro_batch_size, changed.micro_batch_size or micro_batch_size)
        return estimate(policy, preference, changed, micro_batch_size=size, **more)

    roles = roles_of(settings)
    limit = int(_SHARE * available)
    if needed(roles) <= limit:
        return roles
    said = ", ".join(f"{role} {_gigabytes(n)}" for role, n in roles.items() if n)
    raise CaiError(
        f"PPO needs about {_gigabytes(needed(roles))} of memory and {_gigabytes(available)} are "
        f"free: {said} (sampling and update take turns). {_remedy(settings, roles_of, limit)}"
    )


_CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ppo.micro_batch_size: 1", {"micro_batch_size": 1}),
    ("ppo.gradient_checkpointing: true", {"gradient_checkpointing": True}),
    ("ppo.critic: value_head", {"critic": "value_head"}),
    ("ppo.lora_rank: 16", {"lora_rank": 16}),
    ("ppo.rollouts: transformers", {"rollouts": "transformers"}),
)


def _remedy(settings: PPOSettings, roles_of: Any, limit: int) -> str:  # noqa: ANN401
    """Name the first change that fits, alone or together with those before it."""
    # LoRA of any rank is LoRA; what a setting is already changes nothing, nor what there is not.
    has = {
        "lora_rank": bool(settings.lora_rank),
        "rollouts": settings.rollouts != "vllm",
        "critic": not settings.has_critic,
    }
    useful = [(n, c) for n, c in _CHANGES if not any(has.get(key) for key in c)]
    together: dict[str, Any] = {}
    names: list[str] = []
    tried: list[tuple[list[str], dict[str, Any]]] = [([name], c) for name, c in useful]
    for name, change in useful:
        names, together = [*names, name], together | change
        tried.append((names, together))
    for names, change in tried:
        amount = needed(roles_of(settings.model_copy(update=change)))
        if amount <= limit:
            return f"Set `{'` and `'.join(names)}`: about {_gigabytes(amount)}."
    return "No setting makes it fit: lower `max_batch_tokens` of the model, or take a smaller one."


def _bytes_of(precision: torch.dtype) -> int:
    return 2 if precision == torch.bfloat16 else 4


def _numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 5e7 else f"{n / 1e6:.1f} MB"
