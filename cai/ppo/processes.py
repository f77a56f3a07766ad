"""The processes that share the work of a run, as `accelerate launch` starts them.

Every process holds the same rollout and comes to the same decisions; they share the forward and
backward passes. What one of them computes for its rows is summed up over all, with zeros elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from cai.errors import CaiError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""A process that the others have waited for so long ends the run. Sampling may take minutes."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        rank: This one, from 0; the first one alone writes files.
        count: How many there are.
        sharded: Each keeps a part of the weights that are trained, by FSDP2.
        reshard: Under FSDP2, weights are split again between forward and backward pass.
        deepspeed: Each keeps a part of the optimizers, by DeepSpeed's ZeRO.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    reshard: bool = True
    deepspeed: bool = False

    @classmethod
    def here(cls) -> Processes:
        """Join the processes that this one was launched with, if it was.

        Raises:
            CaiError: Their launcher asks for what PPO does not do.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        check_launcher(os.environ)
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        return cls(
            state.process_index,
            state.num_processes,
            sharded=_is_set("ACCELERATE_USE_FSDP"),
            reshard=_is_set("FSDP_RESHARD_AFTER_FORWARD", default="true"),
            deepspeed=_is_set("ACCELERATE_USE_DEEPSPEED"),
        )

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items this process works on: every `count`-th."""
        return items[self.rank :: self.count]

    def gather(self, shared: Sequence[T]) -> list[T]:
        """Return what all processes made of their shares, in the order of the items."""
        if self.count == 1:
            return list(shared)
        parts: list[Sequence[T]] = gather_object([shared])
        whole = [cast("T", None)] * sum(len(part) for part in parts)
        for rank, part in enumerate(parts):
            whole[rank :: self.count] = part
        return whole

    def deal(self, rows_B: Tensor) -> Tensor:
        """Return the rows this process works on, as many for each: every `count`-th.

        All take part in the passes of a sharded model. So if the rows do not suffice, some get the
        last one as well.
        """
        missing = -len(rows_B) % self.count
        return torch.cat([rows_B, rows_B[-1:].expand(missing)])[self.rank :: self.count]

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of all processes' tensors of this shape."""
        if self.count == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes; FSDP2 has averaged them in its backward pass."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.sharded:
            for gradient in gradients:
                gradient.mul_(self.count)
        elif self.count > 1:
            self._sum_in_place(gradients)

    def _sum_in_place(self, gradients: Sequence[Tensor]) -> None:
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            cast("Any", work).wait()

    def from_main(self, make: Callable[[], T]) -> T:
        """Let the main process alone make something, and return it everywhere."""
        made = [make() if self.is_main else None]
        if self.count > 1:
            broadcast_object_list(made)
        return cast("T", made[0])


ALONE = Processes()


def check_launcher(variables: Mapping[str, str]) -> None:
    """Raise a CaiError if a launcher asks for what PPO would leave undone.

    Args:
        variables: What Accelerate puts into the environment of the processes it starts.
    """
    precision = variables.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise CaiError(
            f"The launcher's configuration has `mixed_precision: {precision}`, which PPO does not "
            "go by: what is trained is float32, and passes compute in the `dtype` of the policy's "
            'model. Set `mixed_precision: "no"` there.'
        )
    if variables.get("ACCELERATE_USE_MEGATRON_LM") == "true":
        raise CaiError(
            "PPO does not run on Megatron-LM. Launch with `fsdp2`, `deepspeed` or `ddp`."
        )
    if variables.get("ACCELERATE_USE_FSDP") == "true":
        if variables.get("FSDP_VERSION", "2") != "2":
            raise CaiError(
                "The launcher's configuration is for FSDP 1, and PPO parts models by FSDP 2. Set "
                "`fsdp_version: 2` there, as in pipelines/accelerate/fsdp2.yaml."
            )
        if variables.get("FSDP_OFFLOAD_PARAMS") == "true":
            raise CaiError(
                "The launcher's configuration has `fsdp_offload_params: true`, and PPO keeps "
                "weights where it computes. Set it to false; `ppo.lora_rank` with `ddp` saves "
                "more memory."
            )


def _is_set(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in ("true", "1")
