"""AdamW over the trained weights of a model; all processes take its steps together."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cai.training.processes import Processes
from cai.training.sharding import gathered_moments, parted_like, parted_moments, whole
from cai.training.zero import load_moments, moments_of, zero_config

ADAM_BETAS = (0.9, 0.95)
ADAM_EPSILON = 1e-8


class Optimizer:
    """AdamW with clipped gradients, over parameters that may be split by FSDP2.

    A step is `zero_grad`, `backward` for each micro-batch, `clip` and `step`. `inner` is PyTorch's
    optimizer.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
    ) -> None:
        self.parameters = list(parameters)
        self.inner: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            betas=ADAM_BETAS,
            eps=ADAM_EPSILON,
            weight_decay=0.0,
            fused=True,
        )
        self.processes = processes

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.inner.param_groups:
            group["lr"] = learning_rate

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.inner.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's part of a loss, which is a sum over all of them."""
        loss.backward()

    def clip(self, max_norm: float) -> Tensor:
        """Sum the gradients over the processes, scale them down to a norm, return that before."""
        self.processes.sum_gradients(self.parameters)
        return whole(nn.utils.clip_grad_norm_(self.parameters, max_norm))

    def step(self) -> None:
        """Change the weights by the clipped gradients."""
        self.inner.step()

    def weights(self) -> list[Tensor]:
        """Return the weights; all processes must call this, the main one gets them gathered."""
        return [self._gathered(weight.detach()) for weight in self.parameters]

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """Return Adam's state by the weight's number, as `weights` does; empty before any step."""
        state = self.inner.state_dict()["state"]
        if not self.processes.sharded:
            return state
        return gathered_moments(state, keep=self.processes.is_main)

    def load(self, weights: Iterable[Tensor], moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Load the results of `weights` and `moments`, also of another number of processes."""
        state = parted_moments(moments, self.parameters)
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state})
        self._load_weights(weights)

    @torch.no_grad()
    def _load_weights(self, weights: Iterable[Tensor]) -> None:
        for weight, saved in zip(self.parameters, weights, strict=True):
            weight.copy_(parted_like(saved, weight))

    def _gathered(self, tensor: Tensor) -> Tensor:
        if not self.processes.sharded:
            return tensor
        tensor = whole(tensor)
        return tensor.cpu() if self.processes.is_main else tensor.new_empty(0)


class ZeroOptimizer(Optimizer):
    """AdamW by DeepSpeed's ZeRO 1 or 2: moments and gradients (ZeRO 2) are split by processes.

    DeepSpeed's engine gets the parameters, not the models: in these stages weights are whole, and
    forward passes and sampling are the models' own.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
    ) -> None:
        """Give the parameters to DeepSpeed; raise a CaiError if its configuration is refused."""
        super().__init__(parameters, learning_rate, processes)
        config = zero_config() | {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # PPO decides when a step is taken, after any number of micro-batches.
            "managed_gradient_accumulation": False,
        }
        self._engine = importlib.import_module("deepspeed").initialize(
            model=nn.ParameterList(self.parameters), optimizer=self.inner, config=config
        )[0]

    def zero_grad(self) -> None:
        """Do nothing: DeepSpeed clears the gradients in its step."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's part of a loss; DeepSpeed will average the parts."""
        self._engine.backward(loss * self.processes.count)

    def clip(self, max_norm: float) -> Tensor:
        """Sum, clip and take the step, which DeepSpeed does in one; return the norm before.

        Where the norm is infinite no step was taken.
        """
        self._engine.optimizer.clip_grad = max_norm
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def step(self) -> None:
        """Do nothing: `clip` took the step."""

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """Return Adam's state by the weight's number, gathered, to the main process."""
        return moments_of(self.inner, self.parameters, keep=self.processes.is_main)

    def load(self, weights: Iterable[Tensor], moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over what another optimizer returned, also one of the other class."""
        self._load_weights(weights)
        self._engine.optimizer.refresh_fp32_params()
        load_moments(self._engine, self.inner, self.parameters, moments)


def optimizer_for(
    parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
) -> Optimizer:
    """Return the optimizer for these processes; the arguments are `Optimizer`'s."""
    make = ZeroOptimizer if processes.deepspeed else Optimizer
    return make(parameters, learning_rate, processes)
