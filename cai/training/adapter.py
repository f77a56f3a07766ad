"""LoRA matrices of a preference model, kept beside its merged weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class AdapterWeights:
    """What makes a preference model of a language model: LoRA matrices and a score head.

    Attributes:
        matrices: `LAYER.lora_A` and `LAYER.lora_B` by the layer's name in the backbone.
        head: `(1, D)`, the score head's weight.
        rank: Of the matrices.
    """

    matrices: dict[str, Tensor]
    head: Tensor
    rank: int


def save_adapter(matrices: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
    """Keep LoRA matrices beside the merged weights.

    Args:
        matrices: See `AdapterWeights`.
        folder: The preference model's.
        base: Fingerprint of the language model that they were trained on.
    """
    whole = {name: matrix.contiguous().cpu() for name, matrix in matrices.items()}
    save_file(whole, folder / _ADAPTER, metadata={"base": base})


def load_adapter(folder: Path, *, base: str) -> AdapterWeights | None:
    """Return a preference model's adapter if it has one that was trained on this very model.

    Args:
        folder: The preference model's.
        base: Fingerprint of the language model at hand.
    """
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
