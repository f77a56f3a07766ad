"""LoRA in trainings: adapters on all linear layers, merged at the end and kept beside."""

from __future__ import annotations

from typing import Any, cast

from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from cai.settings import OptimizerSettings


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
