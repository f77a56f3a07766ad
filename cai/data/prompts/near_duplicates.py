"""Groups of near-duplicate texts: word 3-gram sets that overlap (Jaccard) at least so much.

What counts as a word of which script is in `cai.data.words`.

The join is exact, not sampled: prefix filtering (Xiao et al., "Efficient Similarity Joins for Near
Duplicate Detection", 2008). With the 3-grams of every text ordered from rare to common, two similar
texts share one among the first few, so only those few are looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cai.data.words import normalised, words

Ints = NDArray[np.int64]

_MIX = np.int64(0x2545F4914F6CDD1D)  # odd, so that multiplying loses nothing
_EPSILON = 1e-9


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> list[int]:
    """Group texts by single linkage over near-duplicate pairs.

    Letter case, width, punctuation and spacing do not count, nor do accents, vowel points and
    characters that cannot be seen. Texts of fewer than three words are near-duplicates only if
    they have the same words.

    Args:
        texts: The texts.
        threshold: The smallest Jaccard overlap, in [0, 1]; at 0, one shared 3-gram is enough.

    Returns:
        For each text the index of the first text of its group.
    """
    if not texts:
        return []
    vocabulary: dict[str, int] = {}
    found = [_grams(text, vocabulary) for text in texts]
    distinct = sorted({g.tobytes(): g for g in found}.items(), key=lambda item: len(item[1]))
    place = {name: position for position, (name, _) in enumerate(distinct)}
    labels = _linked(_Sets([grams for _, grams in distinct]), threshold)
    first_of_label: dict[int, int] = {}
    return [
        first_of_label.setdefault(int(labels[place[grams.tobytes()]]), index)
        for index, grams in enumerate(found)
    ]


def _grams(text: str, vocabulary: dict[str, int]) -> Ints:
    """Return the set of a text's word 3-grams, each hashed to 64 bits, ascending."""
    found = words(text) or [normalised(text).strip()]
    found += [""] * (3 - len(found))
    ids = np.array([vocabulary.setdefault(w, len(vocabulary)) for w in found], dtype=np.int64)
    return np.unique((ids[:-2] * _MIX + ids[1:-1]) * _MIX + ids[2:])


class _Sets:
    """Sets of integers that ascend in size, their members renumbered from rare to common.

    Attributes:
        items: The members of all sets, end to end; ascending within each set.
        sizes: How many members each set has.
        starts: Where in `items` each set starts.
        owners: Which set each of `items` belongs to.
    """

    def __init__(self, sets: Sequence[Ints]) -> None:
        self.sizes: Ints = np.array([len(members) for members in sets], dtype=np.int64)
        self.starts: Ints = np.cumsum(self.sizes) - self.sizes
        self.owners: Ints = np.repeat(np.arange(len(sets)), self.sizes)
        _, members, counts = np.unique(
            np.concatenate(sets), return_inverse=True, return_counts=True
        )
        rank = np.empty(len(counts), dtype=np.int64)
        rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        ranks = rank[members]
        self.items: Ints = ranks[np.lexsort((ranks, self.owners))]
        self._mark = np.zeros(len(counts), dtype=np.bool_)

    def prefix(self, share: float) -> tuple[Ints, Ints]:
        """Return members and owners of the first n - ceil(share n) + 1 members of all sets."""
        left_out = np.ceil(share * self.sizes - _EPSILON).astype(np.int64) - 1
        within = np.arange(len(self.items)) - self.starts[self.owners]
        chosen = within < (self.sizes - np.maximum(left_out, 0))[self.owners]
        return self.items[chosen], self.owners[chosen]

    def similar(self, index: int, others: Ints, threshold: float) -> Ints:
        """Return those of `others` whose Jaccard overlap with the set at `index` is enough."""
        if not len(others):
            return others
        sizes = self.sizes[others]
        ends = np.cumsum(sizes)
        positions = np.arange(ends[-1]) + np.repeat(self.starts[others] - (ends - sizes), sizes)
        own = self.items[self.starts[index] : self.starts[index] + self.sizes[index]]
        self._mark[own] = True
        shared = self._mark[self.items[positions]]
        self._mark[own] = False
        overlap = np.add.reduceat(shared.astype(np.int64), ends - sizes)
        union = sizes + self.sizes[index] - overlap
        return others[overlap >= threshold * union - _EPSILON]


def _linked(sets: _Sets, threshold: float) -> Ints:
    """Return a label for each set; similar ones have the same."""
    groups = _Groups(len(sets.sizes))
    for index, lists in _candidates(sets, threshold):
        # First one of each list: what is then in the same group need not be compared.
        firsts = np.unique([candidates[0] for candidates in lists])
        groups.join(index, sets.similar(index, firsts, threshold))
        strangers = [c[groups.label[c] != groups.label[index]] for c in lists]
        rest = np.unique(np.concatenate(strangers))
        groups.join(index, sets.similar(index, rest, threshold))
    return groups.label


def _candidates(sets: _Sets, threshold: float) -> Iterator[tuple[int, list[Ints]]]:
    """Yield for each set lists of the smaller (or equally large) sets that may be similar to it.

    A set of n members is looked up by its first n - ceil(t n) + 1 members, and is found by its
    first n - ceil(2t / (1 + t) n) + 1 (Xiao et al., lemmas 1 and 2); a set of fewer than t n
    members cannot be similar.
    """
    total = len(sets.sizes)
    members, owners = sets.prefix(2 * threshold / (1 + threshold))
    index = np.sort(members * total + owners)
    members, owners = sets.prefix(threshold)
    smallest = np.searchsorted(sets.sizes, threshold * sets.sizes - _EPSILON)
    start = np.searchsorted(index, members * total + smallest[owners])
    stop = np.searchsorted(index, members * total + owners)
    some = start < stop
    found_for = owners[some]
    found_by = index % total
    runs = np.flatnonzero(np.diff(found_for, prepend=-1, append=total))
    spans = np.stack([start[some], stop[some]], axis=1)
    for first, last in pairwise(runs):
        yield int(found_for[first]), [found_by[a:b] for a, b in spans[first:last]]


class _Groups:
    """Disjoint sets and the labels of their members; to join two, the smaller is relabelled."""

    def __init__(self, size: int) -> None:
        self.label: Ints = np.arange(size)
        self._members = {label: [label] for label in range(size)}

    def join(self, one: int, others: Iterable[int]) -> None:
        """Put `one` and `others` into one set."""
        for other in others:
            labels = {int(self.label[one]), int(self.label[other])}
            if len(labels) == 2:
                small, large = sorted(labels, key=lambda label: len(self._members[label]))
                self.label[self._members[small]] = large
                self._members[large] += self._members.pop(small)
