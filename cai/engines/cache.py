"""A key-value cache whose rows can leave and join without the others being copied.

Rows are aligned at their last token: the last column holds the newest token of every row, and a row
that is shorter than the longest has unused columns on its left, hidden by the attention mask. What
is in them is finite (a masked NaN would still spread), but otherwise arbitrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64
"""Free columns in new buffers: moving copies everything, writing into a free column does not."""


@dataclass(eq=False)
class Stored:
    """Tokens whose states are in a row of a cache, where others may start from them.

    Attributes:
        ids: The tokens.
        cache: Where their states are.
        place: In which row.
        length: The tokens in that row: `ids`, and what has followed them since.
    """

    ids: tuple[int, ...]
    cache: RowCache
    place: int
    length: int


class _Layer(DynamicLayer):
    """Keys and values `(B, heads, L, size)`: the columns `first` to `end` of larger buffers.

    Sliding-window layers keep all columns, too; the mask hides what lies outside of the window.
    """

    buffers: tuple[torch.Tensor, torch.Tensor]
    rows = first = end = 0

    def __init__(self, *, room: int = 0) -> None:
        super().__init__()
        self._room = room

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,  # noqa: ARG002 (the base class's signature)
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return all states."""
        count = key_states.shape[2]
        if not self.is_initialized:
            self.allocate((key_states, value_states), len(key_states), 0, count + self._room)
        self.reserve(self.rows, self.columns, count)
        new = self.end + count
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.end : new] = states
        self.end = new
        return self.states()

    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows and columns in use."""
        keys, values = (buffer[: self.rows, :, self.first : self.end] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    @property
    def columns(self) -> int:
        """The number of columns in use."""
        return self.end - self.first

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self.columns

    def allocate(
        self, like: tuple[torch.Tensor, torch.Tensor], rows: int, columns: int, room: int
    ) -> None:
        """Begin with `rows` rows of `columns` columns, not yet written, and room for more."""
        self.lazy_initialization(*like)
        keys, values = (
            states.new_empty(rows, states.shape[1], columns + room, states.shape[3])
            for states in like
        )
        self.buffers = (keys, values)
        self.rows, self.first, self.end = rows, 0, columns

    def reserve(self, rows: int, columns: int, room: int) -> None:
        """Make sure of `rows` rows, `columns` columns up to the end and `room` columns after it."""
        capacity, width = self.buffers[0].shape[0], self.buffers[0].shape[2]
        if rows <= capacity and columns <= self.end and self.end + room <= width:
            return
        held, old = self.columns, self.states()
        if rows <= capacity and columns + max(room, _ROOM // 2) <= width:
            for buffer, states in zip(self.buffers, old, strict=True):
                buffer[: self.rows, :, columns - held : columns] = states.clone()
        else:
            self.allocate(self.buffers, max(rows + rows // 8, 1), columns, max(room, _ROOM))
            self.rows = len(old[0])
            for buffer, states in zip(self.buffers, old, strict=True):
                buffer[: self.rows, :, columns - held : columns] = states
        self.first, self.end = columns - held, columns

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Overwrite rows by other rows."""
        for states in self.states():
            states[targets] = states[sources]

    def join(self, other: _Layer, rows: torch.Tensor, columns: int) -> None:
        """Append rows of another layer, of which the last `columns` columns count."""
        if not self.is_initialized:
            self.allocate(other.buffers, 0, 0, 0)
        old, new = self.rows, self.rows + len(rows)
        self.reserve(new, max(columns, self.columns), 1)
        start = self.end - columns
        for buffer, states in zip(self.buffers, other.states(), strict=True):
            taken = states[:, :, states.shape[2] - columns :].index_select(0, rows)
            buffer[old:new, :, start : self.end] = taken
            buffer[old:new, :, self.first : start] = 0
            buffer[:old, :, start : self.first] = 0
        self.rows, self.first = new, min(self.first, start)


class RowCache(Cache):
    """The cache of a batch: empty for a prefill to fill, or made of rows of others."""

    def __init__(self, *, room: int = 0) -> None:
        """Begin empty.

        Args:
            room: Columns that will be appended to those that the prefill fills.
        """
        layer_class = cast("type[_Layer]", partial(_Layer, room=room))
        super().__init__(layer_class_to_replicate=layer_class)

    @classmethod
    def of_beginnings(
        cls, parts: Sequence[tuple[Stored | None, int]], *, room: int = 0
    ) -> RowCache:
        """Return a new cache of copied rows.

        Args:
            parts: For each row a sequence and how many of its tokens to take, from its first on;
                0 tokens (of None) leave the row empty. At least one row takes some.
            room: Columns that will be appended.
        """
        columns = max(count for _, count in parts)
        merged = cls()
        some = next(stored for stored, _ in parts if stored is not None)
        for number, like in enumerate(some.cache.row_layers):
            layer = _Layer()
            layer.allocate(like.buffers, len(parts), columns, room)
            for row, (stored, count) in enumerate(parts):
                for buffer in layer.buffers:
                    buffer[row, :, : columns - count] = 0
                if stored is None or not count:
                    continue
                source = stored.cache.row_layers[number]
                start = source.end - stored.length
                for buffer, states in zip(layer.buffers, source.buffers, strict=True):
                    taken = states[stored.place, :, start : start + count]
                    buffer[row, :, columns - count : columns] = taken
            merged.layers.append(layer)
        return merged

    @property
    def row_layers(self) -> list[_Layer]:
        """The layers."""
        return cast("list[_Layer]", self.layers)

    @property
    def columns(self) -> int:
        """The columns in use."""
        return self.row_layers[0].columns if self.layers else 0

    def drop(self, columns: int) -> None:
        """Forget the last columns."""
        for layer in self.row_layers:
            layer.end -= columns

    def join(self, other: RowCache, rows: Sequence[int], columns: int) -> None:
        """Append rows of another cache, of which the last `columns` columns count."""
        for number, theirs in enumerate(other.row_layers):
            if number == len(self.layers):
                self.layers.append(_Layer())
            index = torch.tensor(rows, device=theirs.buffers[0].device)
            self.row_layers[number].join(theirs, index, columns)

    def leave(self, rows: Sequence[int], columns: int) -> list[int]:
        """Let go of some rows; the last ones take their places.

        Args:
            rows: Which, ascending.
            columns: As many as the longest of the others has.

        Returns:
            For each place, which row is there now.
        """
        order = list(range(self.row_layers[0].rows))
        staying = len(order) - len(rows)
        gone = set(rows)
        holes = [row for row in rows if row < staying]
        movers = [row for row in order[staying:] if row not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        for layer in self.row_layers:
            if holes:
                device = layer.buffers[0].device
                layer.move(torch.tensor(movers, device=device), torch.tensor(holes, device=device))
            layer.rows, layer.first = staying, layer.end - columns
        return order[:staying]
