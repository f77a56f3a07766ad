"""What a forward pass keeps for its backward pass, counted without weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

_TOKENS = (64, 128)
"""Lengths of the two rows that are compared."""

_HIDDEN_STATES = 17
"""Numbers of the size of a hidden state that a layer keeps, where they cannot be counted: 34 bytes
in 16 bits (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1)."""


@dataclass(frozen=True)
class Kept:
    """The bytes that a backbone keeps for its backward pass."""

    per_token: float
    once: int
    """Whatever the number of tokens: copies of weights in the precision of the pass."""


def kept(config: Any, precision: torch.dtype, *, lora: bool) -> Kept:  # noqa: ANN401
    """Count what a model's backbone keeps; attention probabilities are never kept.

    Args:
        config: Of any causal language model of transformers.
        precision: float32, or bfloat16: by autocast on float32 weights, or on frozen ones in
            bfloat16 under LoRA.
        lora: Whether only adapters on the linear layers are trained. What they add is their rank
            a layer, and not counted.
    """
    return _counted(_Config(config), precision, lora)


class _Config:
    """A config that equals others of the same content, so that each is counted once."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        self.config = copy.deepcopy(config)
        self._text = f"{type(config).__name__} {config.to_json_string(use_diff=False)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@lru_cache(maxsize=64)
def _counted(of: _Config, precision: torch.dtype, lora: bool) -> Kept:
    config = of.config
    weights = precision if lora else torch.float32
    try:
        with FakeTensorMode():
            model: Any = AutoModelForCausalLM.from_config(config, dtype=weights)
            model.requires_grad_(not lora)
            for module in model.base_model.modules():
                if lora and isinstance(module, nn.Linear | Conv1D):
                    module.requires_grad_(True)
                    if precision != torch.float32:
                        module.register_forward_pre_hook(_copied)
            short, long = (_bytes_of_pass(model, tokens, precision) for tokens in _TOKENS)
    except Exception:  # noqa: BLE001 (experts that a router chooses, kernels of their own)
        sizes = config.get_text_config()
        numbers = _HIDDEN_STATES * sizes.num_hidden_layers * sizes.hidden_size
        return Kept(float(numbers * precision.itemsize), 0)
    per_token = (long - short) / (_TOKENS[1] - _TOKENS[0])
    return Kept(per_token, max(0, round(short - per_token * _TOKENS[0])))


def _bytes_of_pass(model: Any, tokens: int, precision: torch.dtype) -> int:  # noqa: ANN401
    """Return the bytes that one row of so many tokens keeps; the model's own tensors are none."""
    own = {_place(tensor) for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _place(tensor) not in own:
            found[_place(tensor)] = tensor.untyped_storage()
        return tensor

    low = precision == torch.bfloat16
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=low),
    ):
        ids = torch.zeros((1, tokens), dtype=torch.long)
        # With a cache, models do not look into the ids, which have no values here.
        output = model.base_model(input_ids=ids, use_cache=True)
        del output
    return sum(storage.nbytes() for storage in found.values())


def _copied(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Copy the input of a layer, as PEFT does where adapters are more precise than the layer."""
    return (inputs[0].clone(),)


def _place(tensor: Tensor) -> int:
    return cast("Any", tensor.untyped_storage())._cdata
