"""A key-value cache whose rows can leave and join.

Rows are aligned at their last token: the last column holds the newest token of every row, and a row
that is shorter than the longest has unused columns on its left, hidden by the attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64
"""Columns added at a time: growing copies everything, writing into a free column does not."""


class _RoomyLayer(DynamicLayer):
    """Keys and values `(B, heads, L, size)`, the first columns of buffers with room for more.

    transformers' own layer copies everything for every token. Sliding-window layers keep all
    columns, too; the mask hides what lies outside of the window.
    """

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,  # noqa: ARG002 (the base class's signature)
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return all states."""
        if not self.is_initialized:
            self.hold(key_states[:, :, :0], value_states[:, :, :0], 0)
        old, new = self.length, self.length + key_states.shape[2]
        if new > self.buffers[0].shape[2]:
            keys, values = self.states()
            self.hold(_with_room(keys, new), _with_room(values, new), old)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self.hold(*self.buffers, new)
        return self.states()

    def hold(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Take over buffers whose first `length` columns are in use."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.buffers, self.length = (keys, values), length
        self.keys, self.values = self.states()

    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the columns in use."""
        keys, values = self.buffers
        return keys[:, :, : self.length], values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self.length if self.is_initialized else 0


class RowCache(Cache):
    """The cache of a batch: empty for a prefill to fill, or made of rows of others."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_RoomyLayer)

    @classmethod
    def of_rows(cls, parts: Sequence[tuple[RowCache, torch.Tensor]], length: int) -> RowCache:
        """Return a new cache of `length` columns.

        Args:
            parts: Caches and which of their rows `(R,)` to take, repeats allowed, in order.
            length: Columns left of the last `length` are cut off; a cache that has fewer leaves
                the rest unused.
        """
        merged = cls()
        for layers in zip(*(cache.layers for cache, _ in parts), strict=True):
            states = [cast("_RoomyLayer", layer).states() for layer in layers]
            keys = [(part[0], rows) for part, (_, rows) in zip(states, parts, strict=True)]
            values = [(part[1], rows) for part, (_, rows) in zip(states, parts, strict=True)]
            layer = _RoomyLayer()
            layer.hold(_merged(keys, length), _merged(values, length), length)
            merged.layers.append(layer)
        return merged


def _with_room(states: torch.Tensor, needed: int) -> torch.Tensor:
    """Return a buffer that begins with `(B, heads, L, size)` and has more than `needed` columns."""
    batch, heads, length, size = states.shape
    buffer = states.new_empty(batch, heads, needed + _ROOM, size)
    buffer[:, :, :length] = states
    return buffer


def _merged(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], length: int) -> torch.Tensor:
    """Return a buffer with the given rows of all parts, their last column at `length - 1`.

    Unused columns hold zeros, not whatever was in memory: a masked NaN would still spread.
    """
    _, heads, _, size = parts[0][0].shape
    total = sum(len(rows) for _, rows in parts)
    buffer = parts[0][0].new_empty(total, heads, length + _ROOM, size)
    row = 0
    for states, rows in parts:
        width = min(length, states.shape[2])
        taken = states[:, :, states.shape[2] - width :].index_select(0, rows)
        buffer[row : row + len(rows), :, : length - width] = 0
        buffer[row : row + len(rows), :, length - width : length] = taken
        row += len(rows)
    return buffer
