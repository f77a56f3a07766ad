"""Two processes that know each other, forked from a test; they talk by gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable

import pytest
from accelerate.state import PartialState

DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


def together(function: Callable[[], None], **variables: str) -> list[str]:
    """Call a function in two processes that know each other; return how each one failed."""
    if variables.items() >= DEEPSPEED.items():
        why = "DeepSpeed is not installed (make test-deepspeed)"
        loaded = pytest.importorskip("deepspeed", reason=why)  # once, before the fork
        # Its own way of summing up on one machine would be compiled first, for minutes.
        loaded.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    failures = fork.SimpleQueue()

    def one(rank: int) -> None:
        sys.settrace(None)  # what coverage measures here is lost with the process
        os.environ.update(variables, RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}")
        # What earlier tests left in the parent.
        PartialState._reset_state()  # pyright: ignore[reportPrivateUsage]
        try:
            function()
            failures.put("")
        except Exception:  # noqa: BLE001 (the test reads it)
            failures.put(traceback.format_exc()[-6000:])
        os._exit(0)

    children = [fork.Process(target=one, args=(rank,)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=300)
        assert child.exitcode == 0
    return [failures.get() for _ in children]
