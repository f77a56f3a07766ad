"""AdamW over what is trained of a model, taken by all processes together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cai.ppo.processes import Processes
from cai.training.sharding import gathered_moments, parted_like, parted_moments, whole

ADAM_BETAS = (0.9, 0.95)
ADAM_EPSILON = 1e-8


class Optimizer:
    """AdamW with clipped gradients; `cai.ppo.zero` has the one that DeepSpeed parts.

    A step is `zero_grad`, `backward` for each micro-batch, `clip` and `step`.

    Attributes:
        parameters: What is trained.
        inner: PyTorch's optimizer of them.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
    ) -> None:
        """Begin with moments of zero.

        Args:
            parameters: What to train; under FSDP2, split already.
            learning_rate: Of the first step.
            processes: Who computes the rest of each gradient.
        """
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
        """Sum the gradients over the processes, and scale them down to a norm.

        Returns:
            Their norm before that.
        """
        self.processes.sum_gradients(self.parameters)
        return whole(nn.utils.clip_grad_norm_(self.parameters, max_norm))

    def step(self) -> None:
        """Change the weights by the clipped gradients."""
        self.inner.step()

    def weights(self) -> list[Tensor]:
        """Return the weights; all processes must ask, and the main one gets them gathered."""
        return [self._gathered(weight.detach()) for weight in self.parameters]

    def moments(self) -> dict[int, dict[str, Tensor]]:
        """Return Adam's state by the weight's number, as `weights` does; empty before any step."""
        state = self.inner.state_dict()["state"]
        if not self.processes.sharded:
            return state
        return gathered_moments(state, keep=self.processes.is_main)

    def load(self, weights: Iterable[Tensor], moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over what `weights` and `moments` returned, be it of more or fewer processes."""
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


def optimizer_for(
    parameters: Iterable[nn.Parameter], learning_rate: float, processes: Processes
) -> Optimizer:
    """Return the optimizer that these processes take; the arguments are `Optimizer`'s."""
    if not processes.deepspeed:
        return Optimizer(parameters, learning_rate, processes)
    from cai.ppo.zero import ZeroOptimizer

    return ZeroOptimizer(parameters, learning_rate, processes)
