"""transformers' Trainer with the same checkpoints for any number and kind of processes.

Trainer saves what FSDP and DeepSpeed split in forms that only as many processes can read. Here
weights and optimizer are gathered into the files that one process writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from cai.training.sharding import gathered_moments, parted_moments
from cai.training.zero import load_moments, moments_of


def under_autocast(model: nn.Module, device: str) -> None:
    """Let a model's forward pass compute in bfloat16, and return float32, as Accelerate does.

    With FSDP2 and DeepSpeed Accelerate would make weights and gradients bfloat16, and DeepSpeed
    switches off autocast around a forward pass.
    """
    half = torch.autocast(device, dtype=torch.bfloat16)
    model.forward = convert_outputs_to_fp32(half(model.forward))


class SplitTrainer(Trainer):
    """Trains with FSDP2 or DeepSpeed as without: the same steps, and the same checkpoints."""

    @property
    def _splits(self) -> bool:
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def create_optimizer(self, model: Any = None) -> Optimizer:  # noqa: ANN401
        """Make the optimizer, with all weights in one group: none of them decays.

        (DeepSpeed would find the state of the first group alone.)
        """
        optimizer = self._adamw = super().create_optimizer(model)
        first, *others = optimizer.param_groups
        for group in others:
            first["params"] += group["params"]
        optimizer.param_groups = [first]
        self._noted: list[Tensor] = []
        if self.is_deepspeed_enabled:
            # It puts one flat tensor in their place. (With FSDP2, a list of the
            # whole weights would keep them in memory.)
            self._noted = self._parameters()
        return optimizer

    def _prepare_for_training(
        self,
        max_steps: int,
        train_dataloader: Any,  # noqa: ANN401
        resume_from_checkpoint: str | None,
    ) -> tuple[nn.Module, Any]:
        if resume_from_checkpoint is None or not self._splits:
            return super()._prepare_for_training(
                max_steps, train_dataloader, resume_from_checkpoint
            )
        # Weights are read before they are split, as one process alone reads them.
        sharded, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        self._load_from_checkpoint(resume_from_checkpoint)
        self.is_fsdp_enabled = sharded
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        folder = Path(resume_from_checkpoint)
        self._load_state(torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True))
        schedule = torch.load(folder / SCHEDULER_NAME, weights_only=True)
        cast("Any", self.lr_scheduler).load_state_dict(schedule)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._splits:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state, folder = self._state(keep=self.args.should_save), Path(output_dir)
        if self.args.should_save:
            torch.save(state, folder / OPTIMIZER_NAME)
            torch.save(cast("Any", self.lr_scheduler).state_dict(), folder / SCHEDULER_NAME)

    def whole_model(self, hollow: nn.Module | None) -> nn.Module | None:
        """Return the model with all its weights in one place; all processes must call this.

        `hollow` is a copy of the model (`without_weights`); None where FSDP2 split nothing, and in
        processes that do not need the result.
        """
        if not self.is_fsdp_enabled:
            return self.model
        weights = self.accelerator.get_state_dict(self.model)
        if hollow is None:
            return None
        hollow.load_state_dict(weights, assign=True)
        cast("Any", hollow).tie_weights()
        return hollow.to(self.args.device)

    def _state(self, *, keep: bool) -> dict[str, Any]:
        """Return the optimizer's state dict as of one process; all processes must call this."""
        given = self._adamw.state_dict()
        if not self.is_deepspeed_enabled:
            return {**given, "state": gathered_moments(given["state"], keep=keep)}
        group = {**given["param_groups"][0], "params": list(range(len(self._noted)))}
        moments = moments_of(self._adamw, self._noted, keep=keep)
        return {"state": moments, "param_groups": [group]}

    def _load_state(self, state: dict[str, Any]) -> None:
        """Load the result of `_state`, of any number of processes."""
        if self.is_deepspeed_enabled:
            load_moments(self.deepspeed, self._adamw, self._noted, state["state"])
            return
        parted = parted_moments(state["state"], self._parameters())
        self._adamw.load_state_dict({**state, "state": parted})

    def _parameters(self) -> list[Tensor]:
        return list(self._adamw.param_groups[0]["params"])
