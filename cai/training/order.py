"""In which order a training reads its rows, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

Row = Mapping[str, Any]

FILLER = -1
"""The place of a row that only fills a batch."""


class Rows(Dataset[tuple[Row, float]]):
    """Rows with weight 1, and the first row with weight 0 for those that only fill a batch."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take the rows."""
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Row, float]:
        return (self._rows[0], 0.0) if index == FILLER else (self._rows[index], 1.0)


class Order(Sampler[int]):
    """Each epoch's order, by the seed alone; fillers at the end give every process as many rows.

    Accelerate would fill up with rows that have been seen, and count them twice.
    """

    def __init__(self, rows: int, fillers: int, seed: int) -> None:
        """Take how many rows and fillers there are."""
        self._rows, self._fillers, self._seed, self._epoch = rows, fillers, seed, 0

    def __len__(self) -> int:
        return self._rows + self._fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from [FILLER] * self._fillers

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the loader calls it."""
        self._epoch = epoch
