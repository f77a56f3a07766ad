"""What FSDP2 splits among processes: found, gathered, and split again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

Model = TypeVar("Model", bound=nn.Module)


def layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformers model: weights are gathered for one at a time."""
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def layer_classes(model: nn.Module) -> list[str]:
    """Return the names of the layers' classes."""
    return sorted({type(layer).__name__ for layer in layers(model)})


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts are gathered; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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

    Args:
        moments: As this process has it.
        keep: Whether this process wants it; all of them must ask.
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
