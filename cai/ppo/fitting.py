"""Whether the models of a run fit into memory, from their configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.ppo.batch import rows_of_length
from cai.ppo.loading import (
    PolicyLike,
    device,
    max_batch_tokens,
    precision,
    preference_adapter,
    shape,
)
from cai.ppo.memory import check_memory, free_memory, total_memory, vllm_share
from cai.ppo.rewards import preference_models
from cai.settings import ModelSettings, PPOSettings
from cai.training.processes import Processes

Scorers = Mapping[str, tuple[Any, float]]


def check_fits(
    policy: PolicyLike,
    scorers: Scorers,
    independent: Scorers,
    settings: PPOSettings,
    *,
    longest_prompt: int,
    processes: Processes,
) -> None:
    """Raise a CaiError that says what to change if the models will not fit.

    `independent` are the guard's scorers, `longest_prompt` is in tokens.
    """
    judge = next(iter(preference_models(scorers).values()), None)
    adapter = None
    if judge is not None and settings.lora_rank:
        adapter = preference_adapter(policy, judge)
    where, longest = device(policy), longest_prompt + settings.max_new_tokens
    low, vllm = precision(policy), None
    if settings.rollouts == "vllm":
        vllm = vllm_share(
            shape(policy, low),
            policy.options if isinstance(policy, ModelSettings) else {},
            precision=low,
            total=total_memory(where),
        )
    check_memory(
        shape(policy, low),
        None if judge is None else shape(judge, low),
        settings,
        available=free_memory(where) // (1 if where.type == "cuda" else processes.count),
        micro_batch_size=settings.micro_batch_size or rows_of_length(longest, where),
        precision=low,
        longest=longest,
        batch_tokens=min(max_batch_tokens(policy), settings.batch_size * longest),
        zero_parts=processes.count if processes.deepspeed else 1,
        shared=adapter is not None,
        parts=processes.count if processes.sharded else 1,
        independent=[shape(it, low) for it in preference_models(independent).values()],
        vllm=vllm,
        feedback=_feedback_bytes(scorers, independent),
    )


def _feedback_bytes(*groups: Scorers) -> int:
    """Return the memory of the feedback models that scorers ask on this machine."""
    feedbacks = {
        getattr(scorer, "feedback", None) for group in groups for scorer, _ in group.values()
    }
    models = (getattr(feedback, "model", None) for feedback in feedbacks)
    return sum(_bytes(model) for model in models if isinstance(model, ModelSettings))


def _bytes(model: ModelSettings) -> int:
    if model.engine == "openai":
        return 0
    bits = precision(model)
    sizes = shape(model, bits)
    if model.engine == "vllm":
        total = total_memory(device(model))
        return vllm_share(sizes, model.options, precision=bits, total=total).whole
    return bits.itemsize * sizes.weights
