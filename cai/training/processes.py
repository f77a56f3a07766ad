"""The processes that share a training, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from cai.errors import CaiError
from cai.training.zero import check_installed

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""A process that the others wait for longer ends the run. Sampling and measuring take minutes."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and what they split."""

    rank: int = 0
    """From 0; only the first one writes files."""
    count: int = 1
    sharded: bool = False
    """Each keeps a part of the trained weights, by FSDP2."""
    reshard: bool = True
    """Under FSDP2, weights are split again between forward and backward pass."""
    deepspeed: bool = False
    """Each keeps a part of the optimizers, by DeepSpeed's ZeRO."""

    @classmethod
    def here(cls) -> Self:
        """Join the processes that this one was launched with, if it was.

        Raises:
            CaiError: Their launcher asks for something that is not supported.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        check_launch_variables(os.environ)
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        return cls(
            state.process_index,
            state.num_processes,
            sharded=_is_set(os.environ, "ACCELERATE_USE_FSDP"),
            reshard=_is_set(os.environ, "FSDP_RESHARD_AFTER_FORWARD", default="true"),
            deepspeed=_is_set(os.environ, "ACCELERATE_USE_DEEPSPEED"),
        )

    @classmethod
    def for_trainer(cls) -> Self:
        """Do as `here`, for transformers' Trainer, which obeys a launcher of one process too.

        Raises:
            CaiError: See `here`; or the launcher would split the work of a single process.
        """
        group = cls.here()
        if group.count > 1:
            return group
        check_launch_variables(os.environ)
        for kind in ("FSDP", "DEEPSPEED"):
            if _is_set(os.environ, f"ACCELERATE_USE_{kind}"):
                raise CaiError(
                    f"The launcher's configuration is for {kind}, and this process is alone. "
                    "Launch two or more, or one without a launcher."
                )
        return group

    @property
    def splits(self) -> bool:
        """True where not every process keeps everything."""
        return self.sharded or self.deepspeed

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and messages."""
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process only, and return its result in all of them."""
        made = [make() if self.is_main else None]
        if self.count > 1:
            broadcast_object_list(made)
        return cast("T", made[0])

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items this process works on: every `count`-th."""
        return items[self.rank :: self.count]

    def gather(self, shared: Sequence[T]) -> list[T]:
        """Return the results of all processes, in the order of the items."""
        if self.count == 1:
            return list(shared)
        parts: list[Sequence[T]] = gather_object([shared])
        whole = [cast("T", None)] * sum(len(part) for part in parts)
        for rank, part in enumerate(parts):
            whole[rank :: self.count] = part
        return whole

    def deal(self, rows_B: Tensor) -> Tensor:
        """Return the rows this process works on: every `count`-th, equally many for each.

        All must take part in the passes of a sharded model, so some may get the last row as well.
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
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                cast("Any", work).wait()


ALONE = Processes()


def check_launch_variables(variables: Mapping[str, str]) -> None:
    """Raise a CaiError if these environment variables of Accelerate's are not supported."""
    precision = variables.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise CaiError(
            f"The launcher's configuration has `mixed_precision: {precision}`, which is not "
            "supported: trained weights are float32, and passes compute in the `dtype` of the "
            'model\'s settings. Set `mixed_precision: "no"` there.'
        )
    if _is_set(variables, "ACCELERATE_USE_MEGATRON_LM"):
        raise CaiError("Megatron-LM is not supported. Launch with `fsdp2`, `deepspeed` or `ddp`.")
    if _is_set(variables, "ACCELERATE_USE_DEEPSPEED"):
        check_installed()
    if not _is_set(variables, "ACCELERATE_USE_FSDP"):
        return
    if variables.get("FSDP_VERSION", "2") != "2":
        raise CaiError(
            "The launcher's configuration is for FSDP 1, and only FSDP 2 is supported. Set "
            "`fsdp_version: 2` there, as in pipelines/accelerate/fsdp2.yaml."
        )
    if _is_set(variables, "FSDP_OFFLOAD_PARAMS"):
        raise CaiError(
            "The launcher's configuration has `fsdp_offload_params: true`, and offloading is not "
            "supported. Set it to false; `lora_rank` with `ddp` saves more memory."
        )


def _is_set(variables: Mapping[str, str], name: str, default: str = "false") -> bool:
    """Return whether Accelerate has switched something on."""
    return variables.get(name, default).lower() in ("true", "1")
