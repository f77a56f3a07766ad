"""Beginnings that several sequences share: run once, their states are used again.

The states (keys and values) of a token depend on the tokens before it and on nothing else, so a
sequence can start from the states of another one, up to where they part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cai.engines.cache import RowCache, Stored

BLOCK = 16
"""Beginnings are looked up in steps of so many tokens; shorter ones are not worth a copy."""


class Prefixes:
    """Finds the longest beginning of a sequence whose states are at hand.

    Sequences that are in use are listed by their user. Some that no one uses any more are kept; the
    oldest give way to new ones. As each is kept whole, a beginning that is asked for again and
    again is always in one of the newest.
    """

    def __init__(self, capacity: int) -> None:
        """Keep at most so many tokens; 0 keeps nothing."""
        self._capacity = capacity
        self._kept: deque[tuple[Stored, int]] = deque()
        self._size = 0
        self._ends: dict[int, Stored] = {}

    def longest(self, ids: tuple[int, ...]) -> tuple[Stored | None, int]:
        """Return the sequence that shares the longest beginning, and how many tokens it shares."""
        blocks = block_hashes(ids)
        for number in range(len(blocks), 0, -1):
            found = self._ends.get(blocks[number - 1])
            sure = number * BLOCK
            if found is not None and found.ids[:sure] == ids[:sure]:
                most = min(len(ids), len(found.ids))
                while sure < most and found.ids[sure] == ids[sure]:
                    sure += 1
                return found, sure
        return None, 0

    def add(self, stored: Stored) -> None:
        """List a sequence; whoever does so keeps its whereabouts true, and removes it."""
        self._ends.update(dict.fromkeys(block_hashes(stored.ids), stored))

    def remove(self, stored: Stored) -> None:
        """Forget a sequence."""
        for block in block_hashes(stored.ids):
            if self._ends.get(block) is stored:
                del self._ends[block]

    def keep(self, sequences: Sequence[Stored]) -> None:
        """Keep copies of sequences that are about to go."""
        longest = max((len(stored.ids) for stored in sequences), default=0)
        fitting = sequences[: self._capacity // longest] if longest else []
        if not fitting:
            return
        copies = RowCache.of_beginnings([(stored, len(stored.ids)) for stored in fitting])
        for place, stored in enumerate(fitting):
            copy = Stored(stored.ids, copies, place, len(stored.ids))
            self.add(copy)
            self._kept.append((copy, longest))
            self._size += longest
        while self._size > self._capacity:
            oldest, size = self._kept.popleft()
            self.remove(oldest)
            self._size -= size

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._ends.clear()
        self._size = 0


def block_hashes(ids: Sequence[int]) -> list[int]:
    """Return a hash of the beginning up to the end of each whole block."""
    hashes: list[int] = []
    value = 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        value = hash((value, *ids[end - BLOCK : end]))
        hashes.append(value)
    return hashes
