"""Keys and values of many sequences in pages of one size, so that none is moved for another.

A sequence takes any free page when its last one is full. A page that is still written to belongs to
one sequence only. Unused places hold any finite numbers (a masked NaN would still spread).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from cai.engines.attention import PAGE, Appending, Decoding, LayerStates, Store

_HUGE = 2 << 20
"""Bytes of a huge page of memory. On a CPU, states are read from them faster than from others."""


def pages_for(tokens: int) -> int:
    """Return how many pages so many tokens take."""
    return -(-tokens // PAGE)


class PagedCache(Cache):
    """The pages of all layers. Before a model writes here, `expect` must say where."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._stores: list[Store] = []
        self._used = np.zeros(0, dtype=bool)

    def reserve(self, count: int) -> None:
        """Make room for so many pages in all; when it grows, by a quarter at least."""
        if count > len(self._used):
            capacity = max(count, len(self._used) * 5 // 4)
            self._used = np.append(self._used, np.zeros(capacity - len(self._used), dtype=bool))
            for number, old in enumerate(self._stores):
                self._stores[number] = self._allocate(*old)
                for store, states in zip(self._stores[number], old, strict=True):
                    store[: len(states)] = states

    def take(self, count: int) -> list[int]:
        """Return the first free pages, after making room if need be."""
        self.reserve(self.used + count)
        free = np.flatnonzero(~self._used)[:count]
        self._used[free] = True
        return free.tolist()

    def free(self, pages: Sequence[int]) -> None:
        """Give pages back."""
        self._used[list(pages)] = False

    @property
    def used(self) -> int:
        """The number of pages in use."""
        return int(self._used.sum())

    @property
    def capacity(self) -> int:
        """The pages that there is room for."""
        return len(self._used)

    @property
    def memory(self) -> tuple[int, int]:
        """Identifies where the pages are: it changes when they are moved."""
        return self.capacity, self._stores[0][0].data_ptr() if self._stores else 0

    @property
    def top(self) -> int:
        """One more than the last page in use."""
        used = np.flatnonzero(self._used)
        return int(used[-1]) + 1 if len(used) else 0

    def compact(self) -> dict[int, int]:
        """Move the last pages into the gaps before them; return where each has gone."""
        count = self.used
        gaps = np.flatnonzero(~self._used[:count])
        movers = np.flatnonzero(self._used[count:]) + count
        self.copy(self, movers.tolist(), gaps.tolist())
        self._used[gaps], self._used[movers] = True, False
        return dict(zip(movers.tolist(), gaps.tolist(), strict=True))

    def copy(self, other: PagedCache, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy pages of another cache, or of this one, into pages of this one."""
        if not sources or not other._stores:
            return
        taken, written = torch.tensor([sources, targets], device=other._stores[0][0].device)
        for number, states in enumerate(other._stores):
            if number == len(self._stores):
                self._stores.append(self._allocate(*states))
            for store, old in zip(self._stores[number], states, strict=True):
                store[written] = old[taken]

    def expect(
        self,
        rows: Decoding | None,
        others: Sequence[Appending],
        targets: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Prepare for a forward pass: first `rows` with one new token each, then `others`.

        `targets` are pages, and places in them, for the states of the first new tokens.
        """
        self._rows, self._others, self._targets = rows, others, targets

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,  # noqa: ARG002 (the base class's signature)
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[Any, Any]:
        """Write the states of new tokens, `(1, heads, T, size)`; return keys for `attend`.

        Layers come in their order.
        """
        device = key_states.device.type
        if torch.is_autocast_enabled(device):  # as attention in autocast has it
            dtype = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        if layer_idx == len(self._stores):
            self._stores.append(self._allocate(key_states, value_states))
        new, store = (key_states[0], value_states[0]), self._stores[layer_idx]
        pages, places = self._targets
        for states, written in zip(new, store, strict=True):
            written[pages, :, places] = states[:, : len(pages)].transpose(0, 1).to(written.dtype)
        return LayerStates(self._rows, self._others, store, new), None

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return 0: positions are always given."""
        return 0

    def _allocate(self, keys: torch.Tensor, values: torch.Tensor) -> Store:
        """Return zeros for states like these, `(…, heads, …, size)`."""
        first, second = (
            _zeros((len(self._used), like.shape[1], PAGE, like.shape[3]), like)
            for like in (keys, values)
        )
        return first, second


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Return zeros, on a CPU in huge pages where the system has them."""
    count = math.prod(shape)
    size = count * like.element_size()
    if like.device.type != "cpu" or size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_zeros(shape)
    # PyTorch's own memory may have been in use before, in small pages.
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % _HUGE
    return torch.frombuffer(memory, dtype=like.dtype, count=count, offset=start).view(shape)
