"""FSDP2: each process keeps a part of every weight, and gathers a layer when it computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    fully_shard,  # pyright: ignore[reportUnknownVariableType]
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

Model = TypeVar("Model", bound=nn.Module)


def layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformers model: weights are gathered for one at a time."""
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def shard(model: nn.Module, *, reshard: bool) -> None:
    """Split a model's weights among the processes, layer by layer, in place.

    Afterwards, `call` is how functions use its inner modules. `reshard` splits a layer's weights
    again after its forward pass (less memory, more traffic).
    """
    for layer in [*layers(model), model]:
        fully_shard(layer, reshard_after_forward=reshard and layer is not model)
    cast("Any", model).call_whole = MethodType(lambda self, function: function(self), model)
    register_fsdp_forward_method(model, "call_whole")


def call(model: nn.Module, function: Callable[[nn.Module], Any]) -> Any:  # noqa: ANN401
    """Return `function(model)`, with the weights outside the layers gathered while it runs."""
    if isinstance(model, FSDPModule):
        return cast("Any", model).call_whole(function)
    return function(model)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts are gathered; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(source: nn.Module, target: nn.Module) -> None:
    """Copy the gathered weights of a sharded model to a plain one, tensor by tensor."""
    for split, plain in zip(source.parameters(), target.parameters(), strict=True):
        plain.copy_(whole(split))


def parted_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Return this process's part of a whole tensor if the example is split, else the tensor."""
    if not isinstance(example, DTensor):
        return tensor
    tensor = tensor.to(example.device)
    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)


def gathered_moments(
    moments: Mapping[int, Mapping[str, Tensor]], *, keep: bool
) -> dict[int, dict[str, Tensor]]:
    """Return Adam's state by the weight's number, gathered, on the CPU.

    The result is empty unless `keep`; all processes must call this.
    """
    gathered: dict[int, dict[str, Tensor]] = {}
    for number, moment in moments.items():
        all_of_it = {name: whole(x) for name, x in moment.items()}
        if keep:
            gathered[number] = {name: x.cpu() for name, x in all_of_it.items()}
    return gathered


def parted_moments(
    moments: Mapping[int, Mapping[str, Tensor]], parameters: Sequence[Tensor]
) -> dict[int, dict[str, Tensor]]:
    """Return this process's part of Adam's state by the weight's number, split like the weights."""
    return {
        number: {
            name: x if x.dim() == 0 else parted_like(x, parameters[number])
            for name, x in moment.items()
        }
        for number, moment in moments.items()
    }


def without_weights(model: Model) -> Model:
    """Return a copy of a model whose parameters take no memory, to be loaded by `assign=True`."""
    hollow = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, hollow)
