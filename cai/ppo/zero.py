"""DeepSpeed's ZeRO 1 and 2: each process keeps a part of Adam's moments, and of the gradients.

Its engine gets the parameters alone, not the models: in these stages weights are whole, and forward
passes and sampling are the models' own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cai.ppo.optimizers import Optimizer
from cai.ppo.processes import Processes
from cai.training.zero import load_moments, moments_of, zero_config


class ZeroOptimizer(Optimizer):
    """AdamW whose moments, gradients (ZeRO 2) and copies of the weights DeepSpeed parts."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
    ) -> None:
        """Give the parameters to an engine of DeepSpeed's.

        Raises:
            CaiError: DeepSpeed's configuration asks for more than PPO can do with it.
        """
        super().__init__(parameters, learning_rate, processes)
        self._engine = importlib.import_module("deepspeed").initialize(
            model=nn.ParameterList(self.parameters), optimizer=self.inner, config=ppo_config()
        )[0]

    def zero_grad(self) -> None:
        """Nothing is left of the last step: DeepSpeed forgets gradients in it."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's part of a loss; DeepSpeed will average the parts."""
        self._engine.backward(loss * self.processes.count)

    def clip(self, max_norm: float) -> Tensor:
        """Sum, clip and take the step, which DeepSpeed does in one.

        Returns:
            The gradients' norm before clipping. Where it is infinite no step was taken.
        """
        self._engine.optimizer.clip_grad = max_norm
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def step(self) -> None:
        """Nothing is left to do: `clip` took the step."""

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """Return Adam's state by the weight's number, gathered, to the main process."""
        return moments_of(self.inner, self.parameters, keep=self.processes.is_main)

    def load(self, weights: Iterable[Tensor], moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over what another optimizer returned, be it of another kind."""
        self._load_weights(weights)
        self._engine.optimizer.refresh_fp32_params()
        load_moments(self._engine, self.inner, self.parameters, moments)


def ppo_config() -> dict[str, Any]:
    """Return DeepSpeed's configuration, in which PPO itself says when a step is taken.

    Raises:
        CaiError: The launcher's asks for more than a training can do with it.
    """
    return zero_config() | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # A step is taken when PPO says, after as many micro-batches as it likes.
        "managed_gradient_accumulation": False,
    }
