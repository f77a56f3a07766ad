"""Tests that run on a CPU and, marked `gpu`, on a GPU: the same test, with small shapes."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
ON_EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_GPU)])
"""Gives a test the name of a `device`; the fixture `chosen` is that device."""


class _Live(TorchDispatchMode):
    """The bytes of all tensors that operations have made and that are still there."""

    def __init__(self, known: Iterable[torch.UntypedStorage]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._there = list(known)
        self._known = {storage._cdata for storage in self._there}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


class Peak:
    """The most bytes that were added at once inside a block."""

    value = 0


@contextmanager
def peak_memory(device: torch.device, there: Iterable[torch.Tensor]) -> Generator[Peak]:
    """Measure the most bytes that a block adds: tensors on a CPU, allocated memory on a GPU.

    On a CPU, `there` are the tensors from before, which operations may return.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        torch.cuda.synchronize()
        peak.value = torch.cuda.max_memory_allocated() - before
        return
    with _Live(tensor.untyped_storage() for tensor in there) as live:
        yield peak
    peak.value = live.peak
