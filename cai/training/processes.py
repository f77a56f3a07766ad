"""The processes that share a training, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from cai.errors import CaiError
from cai.training.launcher import check_launch_variables, is_set

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""A process that the others have waited for so long ends the run. Sampling and measuring may take
minutes."""


@dataclass(frozen=True)
class ProcessGroup:
    """Which of how many processes this is, and what they split.

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
    def here(cls) -> Self:
        """Join the processes that this one was launched with, if it was.

        Raises:
            CaiError: Their launcher asks for what no training does.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        check_launch_variables(os.environ)
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        return cls(
            state.process_index,
            state.num_processes,
            sharded=is_set(os.environ, "ACCELERATE_USE_FSDP"),
            reshard=is_set(os.environ, "FSDP_RESHARD_AFTER_FORWARD", default="true"),
            deepspeed=is_set(os.environ, "ACCELERATE_USE_DEEPSPEED"),
        )

    @classmethod
    def for_trainer(cls) -> Self:
        """Do as `here`, for transformers' Trainer, which would heed a launcher of one process too.

        Raises:
            CaiError: See `here`; or the launcher would split one process's work.
        """
        group = cls.here()
        if group.count > 1:
            return group
        check_launch_variables(os.environ)
        for kind in ("FSDP", "DEEPSPEED"):
            if is_set(os.environ, f"ACCELERATE_USE_{kind}"):
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
        """True for the process that writes files and speaks."""
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """Let the main process alone make something, and return it everywhere."""
        made = [make() if self.is_main else None]
        if self.count > 1:
            broadcast_object_list(made)
        return cast("T", made[0])


ALONE = ProcessGroup()
