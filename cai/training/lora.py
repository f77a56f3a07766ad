"""LoRA in trainings: adapters on all linear layers, merged at the end and kept beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from cai.settings import OptimizerSettings

_ADAPTER = "adapter.safetensors"


def with_lora(
    model: PreTrainedModel, settings: OptimizerSettings, arguments: TrainingArguments
) -> nn.Module:
    """Return the model with LoRA on all linear layers, its scale (alpha over rank) 2, if asked.

    A score head is trained whole, because it starts from nothing.
    """
    if not settings.lora_rank:
        return model
    scores = hasattr(model, "score")
    adapters = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=["score"] if scores else None,
    )
    set_seed(arguments.seed)
    adapted = get_peft_model(model, adapters)
    if arguments.gradient_checkpointing:
        cast("Any", adapted).enable_input_require_grads()
    return adapted


def merged(model: Any) -> tuple[dict[str, Tensor], PreTrainedModel]:  # noqa: ANN401
    """Return the LoRA matrices, if there are any, and the model with LoRA merged."""
    if not hasattr(model, "merge_and_unload"):
        return {}, model
    return _matrices(model.get_base_model().base_model), model.merge_and_unload()


def _matrices(backbone: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(layer, part)["default"].weight.detach().clone()
        for name, layer in backbone.named_modules()
        if isinstance(layer, LoraLayer)
        for part in ("lora_A", "lora_B")
    }


@dataclass(frozen=True)
class AdapterWeights:
    """The difference of a preference model from a language model: LoRA matrices, a score head."""

    matrices: dict[str, Tensor]
    """`LAYER.lora_A` and `LAYER.lora_B` by the layer's name in the backbone."""
    head: Tensor
    """`(1, D)`, the score head's weight."""
    rank: int


def save_adapter(matrices: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
    """Save LoRA matrices (see `AdapterWeights`) beside the merged weights in a folder.

    `base` is the fingerprint of the language model that they were trained on.
    """
    whole = {name: matrix.contiguous().cpu() for name, matrix in matrices.items()}
    save_file(whole, folder / _ADAPTER, metadata={"base": base})


def load_adapter(folder: Path, *, base: str) -> AdapterWeights | None:
    """Return a preference model's adapter if it was trained on the model with this fingerprint."""
    file = folder / _ADAPTER
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as opened:
        if cast("Any", opened).metadata().get("base") != base:
            return None
        matrices = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    rank = next(m.shape[0] for name, m in matrices.items() if name.endswith("lora_A"))
    return AdapterWeights(matrices, _score_head(folder), rank)


def _score_head(folder: Path) -> Tensor:
    index = folder / "model.safetensors.index.json"
    name = "model.safetensors"
    if index.is_file():
        name = json.loads(index.read_text(encoding="utf-8"))["weight_map"]["score.weight"]
    with safe_open(folder / name, framework="pt") as opened:
        return opened.get_tensor("score.weight").float()
