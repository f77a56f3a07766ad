"""FSDP2: each process keeps a part of every weight, and gathers a layer when it computes."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    fully_shard,  # pyright: ignore[reportUnknownVariableType]
    register_fsdp_forward_method,
)

from cai.training.sharding import layers, whole


def shard(model: nn.Module, *, reshard: bool) -> None:
    """Part a model's weights, layer by layer.

    Args:
        model: Changed in place; `call` is then how functions reach its inner modules.
        reshard: Part a layer's weights again after its forward pass (less memory, more traffic).
    """
    for layer in [*layers(model), model]:
        fully_shard(layer, reshard_after_forward=reshard and layer is not model)
    cast("Any", model).call_whole = MethodType(lambda self, function: function(self), model)
    register_fsdp_forward_method(model, "call_whole")


def call(model: nn.Module, function: Callable[[nn.Module], Any]) -> Any:  # noqa: ANN401
    """Return `function(model)`, the weights outside the layers gathered while it runs."""
    if isinstance(model, FSDPModule):
        return cast("Any", model).call_whole(function)
    return function(model)


@torch.no_grad()
def copy_whole(source: nn.Module, target: nn.Module) -> None:
    """Copy the gathered weights of a sharded model to a plain one, tensor by tensor."""
    for split, plain in zip(source.parameters(), target.parameters(), strict=True):
        plain.copy_(whole(split))
