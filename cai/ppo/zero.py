"""DeepSpeed's ZeRO 1 and 2: each process keeps a part of Adam's moments, and of the gradients.

Its engine gets the parameters alone, not the models: in these stages weights are whole, and forward
passes and sampling are the models' own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin, compare_versions, is_deepspeed_available
from torch import Tensor, nn

from cai.errors import CaiError
from cai.ppo.optimizers import Optimizer
from cai.ppo.processes import Processes

OLDEST = "0.19.4"
"""It can leave it to us when a step is taken (`managed_gradient_accumulation`); 0.19.0 cannot."""
INSTALL = "pip install 'cai[deepspeed]'"

_MOMENTS = ("exp_avg", "exp_avg_sq")


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
        check_installed()
        self._deepspeed = importlib.import_module("deepspeed")
        self._engine = self._deepspeed.initialize(
            model=nn.ParameterList(self.parameters), optimizer=self.inner, config=zero_config()
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
        """Return Adam's state by the weight's number, gathered."""
        get = self._deepspeed.utils.safe_get_full_optimizer_state
        gathered: dict[int, dict[str, Tensor]] = {}
        for step in self._steps():
            for number, parameter in enumerate(self.parameters):
                moments = {key: get(parameter, key) for key in _MOMENTS}
                if self.processes.is_main:
                    gathered[number] = {"step": step.clone()} | moments
        return gathered

    def load(self, weights: Iterable[Tensor], moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over what another optimizer returned, be it of another kind."""
        put = self._deepspeed.utils.safe_set_full_optimizer_state
        self._load_weights(weights)
        self._engine.optimizer.refresh_fp32_params()
        if not self.inner.state:
            # DeepSpeed makes the moments in its first step: take one that moves nothing.
            self._engine.backward(0.0 * torch.stack([p.sum() for p in self.parameters]).sum())
            self._engine.step()
        for state in self.inner.state.values():
            for x in state.values():
                x.zero_()
        for number, moment in moments.items():
            for key in _MOMENTS:
                put(self.parameters[number], moment[key], key)
            for step in self._steps():
                step.copy_(moment["step"])

    def _steps(self) -> list[Tensor]:
        """Return Adam's count of steps; there is one, or none before the first step."""
        return [state["step"] for state in self.inner.state.values()]


def check_installed() -> None:
    """Raise a CaiError unless DeepSpeed is there, and new enough."""
    if not is_deepspeed_available():
        raise CaiError(f"DeepSpeed is not installed: {INSTALL}. Or launch with `fsdp2` or `ddp`.")
    if compare_versions("deepspeed", "<", OLDEST):
        raise CaiError(f"PPO needs DeepSpeed {OLDEST} or newer: {INSTALL}.")


def zero_config() -> dict[str, Any]:
    """Return DeepSpeed's configuration: the launcher's, with what PPO says itself.

    Raises:
        CaiError: It is of stage 0 or 3, offloads, or sets what PPO does.
    """
    given = _decided(DeepSpeedPlugin().deepspeed_config)
    zero = given["zero_optimization"]
    if zero["stage"] not in (1, 2):
        raise CaiError(
            f"PPO runs on DeepSpeed's ZeRO 1 and 2, and `zero_stage` is {zero['stage']}. To part "
            "the weights too, as ZeRO 3 does, launch with `fsdp2`; to part nothing, with `ddp`."
        )
    refused = [key for key in ("offload_optimizer", "offload_param") if _offloads(zero.get(key))]
    refused += [key for key in ("fp16", "bf16") if given.pop(key, {}).get("enabled")]
    refused += [key for key in ("optimizer", "scheduler") if key in given]
    if refused:
        raise CaiError(
            f"DeepSpeed's configuration sets `{'`, `'.join(refused)}`: optimizer, learning rates "
            "and precision of PPO are those of `ppo` and of the policy's `dtype`, and nothing is "
            "offloaded. Take it out of the file."
        )
    given.pop("train_batch_size", None)
    return given | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # A step is taken when PPO says, after as many micro-batches as it likes.
        "managed_gradient_accumulation": False,
    }


def _decided(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is to be decided elsewhere, which Accelerate writes as `auto`."""
    return {
        key: _decided(x) if isinstance(x, dict) else x for key, x in given.items() if x != "auto"
    }


def _offloads(section: Mapping[str, Any] | None) -> bool:
    return (section or {}).get("device") not in (None, "none")
