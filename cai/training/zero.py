"""DeepSpeed's ZeRO 1 and 2: Adam's moments, and the gradients, are split among processes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin, compare_versions, is_deepspeed_available
from torch import Tensor

from cai.errors import CaiError

OLDEST = "0.19.4"
"""The first version with `managed_gradient_accumulation: false`: the caller takes the steps."""
INSTALL = "pip install 'cai[deepspeed]'"
SAID_BY_TRAINING = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
"""Keys of DeepSpeed's configuration that the settings of a training decide."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


def check_installed() -> None:
    """Raise a CaiError unless DeepSpeed is there, and new enough."""
    if not is_deepspeed_available():
        raise CaiError(f"DeepSpeed is not installed: {INSTALL}. Or launch with `fsdp2` or `ddp`.")
    if compare_versions("deepspeed", "<", OLDEST):
        raise CaiError(f"`deepspeed` needs DeepSpeed {OLDEST} or newer: {INSTALL}.")


def zero_config() -> dict[str, Any]:
    """Return DeepSpeed's configuration: the launcher's, without what a training sets itself.

    Raises:
        CaiError: It is of stage 0 or 3, offloads, or sets something that a training sets.
    """
    given = _decided(DeepSpeedPlugin().deepspeed_config)
    zero = given["zero_optimization"]
    if zero["stage"] not in (1, 2):
        raise CaiError(
            f"Only ZeRO 1 and 2 of DeepSpeed are supported, and `zero_stage` is {zero['stage']}. "
            "To split the weights too, as ZeRO 3 does, launch with `fsdp2`; to split nothing, with "
            "`ddp`."
        )
    refused = [key for key in ("offload_optimizer", "offload_param") if _offloads(zero.get(key))]
    refused += [key for key in ("fp16", "bf16") if given.pop(key, {}).get("enabled")]
    refused += [key for key in ("optimizer", "scheduler") if key in given]
    if refused:
        raise CaiError(
            f"DeepSpeed's configuration sets `{'`, `'.join(refused)}`: optimizer, learning rate "
            "and precision are those of the stage's settings and of the model's `dtype`, and "
            "nothing is offloaded. Take it out of the file."
        )
    return {key: x for key, x in given.items() if key not in SAID_BY_TRAINING}


def moments_of(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], *, keep: bool
) -> dict[int, dict[str, Tensor]]:
    """Return Adam's state by the weight's number, gathered; empty before any step.

    `optimizer` is PyTorch's, inside DeepSpeed's engine. The result is empty unless `keep`; all
    processes must call this.
    """
    get = importlib.import_module("deepspeed").utils.safe_get_full_optimizer_state
    gathered: dict[int, dict[str, Tensor]] = {}
    for step in _steps(optimizer)[:1]:
        for number, parameter in enumerate(parameters):
            moments = {key: get(parameter, key) for key in _MOMENTS}
            if keep:
                gathered[number] = {"step": step.clone()} | moments
    return gathered


def load_moments(
    engine: Any,  # noqa: ANN401 (DeepSpeed's)
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    moments: Mapping[int, Mapping[str, Tensor]],
) -> None:
    """Load the result of `moments_of` into an engine of DeepSpeed's, which may be new."""
    put = importlib.import_module("deepspeed").utils.safe_set_full_optimizer_state
    if not optimizer.state:
        # DeepSpeed makes the moments in its first step: take one that changes nothing.
        if engine.managed_gradient_accumulation():
            engine.set_gradient_accumulation_boundary(is_boundary=True)
        engine.backward(0.0 * torch.stack([p.sum() for p in parameters]).sum())
        engine.step()
    for state in optimizer.state.values():
        for x in state.values():
            x.zero_()
    for number, moment in moments.items():
        for key in _MOMENTS:
            put(parameters[number], moment[key], key)
        for step in _steps(optimizer):
            step.copy_(moment["step"])


def _steps(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return Adam's counts of steps, which are one number; none before the first step."""
    return [state["step"] for state in optimizer.state.values()]


def _decided(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out values that are decided elsewhere, which Accelerate writes as `auto`."""
    return {
        key: _decided(x) if isinstance(x, dict) else x for key, x in given.items() if x != "auto"
    }


def _offloads(section: Mapping[str, Any] | None) -> bool:
    return (section or {}).get("device") not in (None, "none")
