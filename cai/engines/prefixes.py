"""Beginnings that several sequences share are run once; their states are used again.

The states (keys and values) of a token depend only on the tokens up to it, so a sequence can start
from the states of another one, up to the first difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cai.engines.attention import PAGE
from cai.engines.forward import Piece
from cai.engines.pages import PagedCache, pages_for

BLOCK = 16
"""Beginnings are looked up in steps of so many tokens; shorter ones are not worth a copy."""


@dataclass(eq=False)
class Stored:
    """Tokens whose states are in a cache, where other sequences may start from them."""

    ids: tuple[int, ...]
    cache: PagedCache
    pages: list[int]
    """Of the states; more pages may follow."""
    left: bool = False
    """Whether its pages are about to be freed: a sequence that continues it may take them."""


class Prefixes:
    """Finds the longest beginning of a sequence whose states are cached.

    Sequences in use are listed by their user. Copies of finished ones are kept, the newest ones
    whole.
    """

    def __init__(self, capacity: int) -> None:
        """Keep at most so many tokens; 0 keeps nothing."""
        self._capacity = capacity
        self._cache = PagedCache()
        self._kept: deque[Stored] = deque()
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
        """List a sequence; the caller keeps its pages true, and removes it."""
        self._ends.update(dict.fromkeys(block_hashes(stored.ids), stored))

    def remove(self, stored: Stored) -> None:
        """Forget a sequence."""
        for block in block_hashes(stored.ids):
            if self._ends.get(block) is stored:
                del self._ends[block]

    def keep(self, sequences: Sequence[Stored]) -> None:
        """Keep copies of sequences of one cache that are about to go."""
        fitting = [stored for stored in sequences if 0 < len(stored.ids) <= self._capacity]
        self._cache.reserve(pages_for(self._capacity) if fitting else 0)
        sources: list[int] = []
        targets: list[int] = []
        for stored in fitting:
            pages = stored.pages[: pages_for(len(stored.ids))]
            copy = Stored(stored.ids, self._cache, self._cache.take(len(pages)))
            sources, targets = sources + pages, targets + copy.pages
            self.add(copy)
            self._kept.append(copy)
            self._size += len(copy.ids)
        if fitting:
            self._cache.copy(fitting[0].cache, sources, targets)
        while self._size > self._capacity:
            oldest = self._kept.popleft()
            self.remove(oldest)
            self._cache.free(oldest.pages)
            self._size -= len(oldest.ids)

    def clear(self) -> None:
        """Forget everything."""
        self._cache = PagedCache()
        self._kept.clear()
        self._ends.clear()
        self._size = 0


@dataclass(frozen=True)
class Begun:
    """A prompt that is about to run."""

    place: int
    """Its number among those given."""
    piece: Piece
    """The part of it to run; `piece.known` of its tokens were cached."""
    stored: Stored
    """Where its states will be; to be added to the prefixes after the pass."""


def begin_prompts(
    prompts: Sequence[tuple[int, ...]],
    prefixes: Prefixes,
    cache: PagedCache,
    most: int,
    *,
    shared: bool = False,
) -> list[Begun]:
    """Prepare the first prompts for one forward pass: take their pages, and fill in cached states.

    A prompt that shares more with another one of this pass than with cached ones is skipped: next
    time it can start from there. The pass has at most `most` tokens, or one prompt. With `shared`,
    several may have a full page together; those that decode may not.
    """
    begun: list[Begun] = []
    running: set[int] = set()
    copies: dict[PagedCache, tuple[list[int], list[int]]] = {}
    for place, ids in enumerate(prompts):
        # The last token is always run, its logits are wanted.
        source, known = prefixes.longest(ids[:-1])
        blocks = block_hashes(ids)
        if not running.isdisjoint(blocks[known // BLOCK : (len(ids) - 1) // BLOCK]):
            continue
        most -= len(ids) - known
        if begun and most < 0:
            break
        running.update(blocks)
        taken = source.pages[: pages_for(known)] if source else []
        same = source is not None and source.cache is cache
        if source and same and source.left and taken == source.pages:
            prefixes.remove(source)
            pages, source.ids, source.pages = taken, (), []
        else:
            whole = taken[: known // PAGE] if same and shared else []
            rest = taken[len(whole) :]
            pages = [*whole, *cache.take(len(rest))]
            if source:
                sources, targets = copies.setdefault(source.cache, ([], []))
                sources += rest
                targets += pages[len(whole) :]
        pages += cache.take(pages_for(len(ids)) - len(taken))
        begun.append(Begun(place, Piece(ids[known:], known, pages), Stored(ids, cache, pages)))
    for other, (sources, targets) in copies.items():
        cache.copy(other, sources, targets)
    return begun


def block_hashes(ids: Sequence[int]) -> list[int]:
    """Return a hash of the beginning up to the end of each whole block."""
    hashes: list[int] = []
    value = 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        value = hash((value, *ids[end - BLOCK : end]))
        hashes.append(value)
    return hashes
