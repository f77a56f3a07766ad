"""A key-value cache whose rows can leave and join.

Rows are aligned at their last token: column L-1 holds the newest token of every row, and a row that
is shorter than the longest has unused columns on its left. So a row joins by padding on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64


class _RoomyLayer(DynamicLayer):
    """Keys and values `(B, heads, L, size)` with room to grow: a new token is written in place.

    transformers' own layer copies everything for every token. Sliding-window layers keep all
    columns, too; the attention mask hides what lies outside of the window.
    """

    @classmethod
    def holding(cls, keys: torch.Tensor, values: torch.Tensor) -> _RoomyLayer:
        layer = cls()
        layer.update(keys, values)
        return layer

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return all states."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = key_states[:, :, :0], value_states[:, :, :0]
        old = self.get_seq_length()
        new = old + key_states.shape[2]
        if new > self._keys.shape[2]:
            self._keys = _with_room(self._keys[:, :, :old], new)
            self._values = _with_room(self._values[:, :, :old], new)
        self._keys[:, :, old:new] = key_states
        self._values[:, :, old:new] = value_states
        self.keys, self.values = self._keys[:, :, :new], self._values[:, :, :new]
        return self.keys, self.values


class RowCache(Cache):
    """The cache of a batch, grown, cut and joined by rows."""

    def __init__(self, layers: list[_RoomyLayer] | None = None) -> None:
        """Start with the given layers, or with none for a prefill to add."""
        if layers is None:
            super().__init__(layer_class_to_replicate=_RoomyLayer)
        else:
            super().__init__(layers=list(layers))

    @property
    def length(self) -> int:
        """The number of columns L."""
        return self.get_seq_length()

    def select(self, rows: torch.Tensor, skip: int = 0) -> RowCache:
        """Return a cache of the given rows `(R,)` (repeats allowed) without the first columns."""
        return RowCache(
            [
                _RoomyLayer.holding(
                    keys[:, :, skip:].index_select(0, rows), values[:, :, skip:].index_select(0, rows)
                )
                for keys, values in self._states()
            ]
        )

    @classmethod
    def join(cls, caches: Sequence[RowCache]) -> RowCache:
        """Return one cache with the rows of all, in order, aligned at their last column."""
        if len(caches) == 1:
            return caches[0]
        length = max(cache.length for cache in caches)
        layers: list[_RoomyLayer] = []
        for states in zip(*(cache._states() for cache in caches), strict=True):
            keys = torch.cat([_left_padded(keys, length) for keys, _ in states])
            values = torch.cat([_left_padded(values, length) for _, values in states])
            layers.append(_RoomyLayer.holding(keys, values))
        return cls(layers)

    def _states(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        layers = cast("list[_RoomyLayer]", self.layers)
        return [
            (cast("torch.Tensor", layer.keys), cast("torch.Tensor", layer.values))
            for layer in layers
        ]


def _with_room(states: torch.Tensor, needed: int) -> torch.Tensor:
    """Return a copy of `(B, heads, L, size)` in a buffer of more than `needed` columns."""
    batch, heads, length, size = states.shape
    roomy = states.new_empty(batch, heads, needed + _ROOM, size)
    roomy[:, :, :length] = states
    return roomy


def _left_padded(states: torch.Tensor, length: int) -> torch.Tensor:
    """Pad with zeros, not with whatever memory holds: a masked NaN would still spread."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))
