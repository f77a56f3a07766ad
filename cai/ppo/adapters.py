"""One frozen base under several roles: LoRA adapters, one of which computes at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cai.data.records import derive_seed


class Adapted:
    """A model with frozen weights, and LoRA adapters on all linear layers of its backbone.

    Adapters start as the identity (Hu et al. 2021, arXiv 2106.09685) or from given weights; their
    scale (alpha over rank) is 2, as in fine-tuning.
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        """Freeze a transformers model in place; `seed` is that of new adapters."""
        self.model = model.requires_grad_(False)
        self.backbone = cast("nn.Module", cast("Any", model).base_model)
        self._linear = [
            name for name, module in self.backbone.named_modules() if _is_linear(module)
        ]
        self._seed = seed

    def add(self, name: str, *, rank: int, weights: Mapping[str, Tensor] | None = None) -> None:
        """Add an adapter of some rank.

        `weights` are `LAYER.lora_A` `(rank, in)` and `LAYER.lora_B` `(out, rank)` of every layer,
        by its name in the backbone; None to start as the identity.
        """
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=self._linear,
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in self.backbone.modules()),
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            # PEFT warns of a second adapter on one model, which is the point here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            torch.manual_seed(derive_seed(self._seed, "lora", name))
            inject_adapter_in_model(config, cast("Any", self.backbone), adapter_name=name)
        with torch.no_grad():
            for layer_name, layer in self._layers():
                for part in ("lora_A", "lora_B"):
                    matrix = getattr(layer, part)[name].float()
                    if weights is not None:
                        matrix.weight.copy_(weights[f"{layer_name}.{part}"])

    def use(self, name: str | None) -> None:
        """Switch to an adapter; None for the base model."""
        for _, layer in self._layers():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Return the weights of an adapter."""
        return [
            getattr(layer, part)[name].weight
            for _, layer in self._layers()
            for part in ("lora_A", "lora_B")
        ]

    def merged(self, name: str) -> dict[str, Tensor]:
        """Return the state dict of a plain model, float32, with an adapter added to its weights."""
        plain = {
            key.replace(".base_layer.", "."): tensor.float()
            for key, tensor in self.model.state_dict().items()
            if ".lora_" not in key
        }
        for key, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                delta = cast("Any", layer).get_delta_weight(name)
                plain[f"{key}.weight"] = plain[f"{key}.weight"] + delta.float()
        return plain

    def _layers(self) -> list[tuple[str, Any]]:
        modules = self.backbone.named_modules()
        return [(name, layer) for name, layer in modules if isinstance(layer, LoraLayer)]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)
