"""The processes that share the work of a run, as `accelerate launch` starts them.

Every process holds the same rollout and comes to the same decisions; they share the forward and
backward passes. What one of them computes for its rows is summed up over all, with zeros elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from torch import Tensor, nn

from cai.training.processes import ProcessGroup

T = TypeVar("T")


@dataclass(frozen=True)
class Processes(ProcessGroup):
    """The rank and number of the processes, and how they share passes."""

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


ALONE = Processes()
