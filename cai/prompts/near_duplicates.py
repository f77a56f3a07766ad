"""Groups of near-duplicate texts: word 3-gram sets that overlap (Jaccard) at least so much.

The join is exact, not sampled: prefix filtering (Xiao et al., "Efficient Similarity Joins for Near
Duplicate Detection", 2008). With the 3-grams of every text ordered from rare to common, two similar
texts must share one among the first few, so only those few are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_WORD = re.compile(r"\w+")
_MIX = np.int64(0x2545F4914F6CDD1D)
_EPSILON = 1e-9


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> list[int]:
    """Group texts by single linkage over near-duplicate pairs.

    Letter case, punctuation and spacing do not count. Texts of fewer than three words are near
    duplicates only if they have the same words.

    Args:
        texts: The texts.
        threshold: Smallest Jaccard overlap of word 3-gram sets, in [0, 1]; at 0, sharing any 3-gram
            is enough.

    Returns:
        For each text the index of the first text of its group.
    """
    if not texts:
        return []
    grams = _unique_grams(texts)
    first, inverse = _distinct_sets(grams)
    distinct = _ordered(grams.take(first))
    groups = _Groups(len(first))
    for index, candidates in _candidates(distinct, threshold):
        others = candidates[groups.label[candidates] != groups.label[index]]
        for other in others[_similar(distinct, index, others, threshold)]:
            groups.join(index, int(other))
    labels = groups.label[distinct.place[inverse]]
    first_of_label: dict[int, int] = {}
    return [first_of_label.setdefault(int(label), i) for i, label in enumerate(labels)]


@dataclass(frozen=True)
class _Sets:
    """Sets of integers, end to end.

    Attributes:
        items: The members of all sets.
        starts: Set i is `items[starts[i] : starts[i + 1]]`.
        place: Where the set that was once at i stands now.
    """

    items: Ints
    starts: Ints
    place: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Ints:
        return self.items[self.starts[index] : self.starts[index + 1]]

    @property
    def sizes(self) -> Ints:
        return np.diff(self.starts)

    def take(self, indices: Ints) -> _Sets:
        """Return the sets at `indices`, in that order."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[indices] = np.arange(len(indices))
        return _Sets(self.items[self.positions(indices)], _starts(self.sizes[indices]), place)

    def positions(self, indices: Ints) -> Ints:
        """Return where in `items` the members of the sets at `indices` stand."""
        sizes = self.sizes[indices]
        skipped = np.repeat(self.starts[indices] - _starts(sizes)[:-1], sizes)
        return np.arange(sizes.sum(), dtype=np.int64) + skipped


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _unique_grams(texts: Sequence[str]) -> _Sets:
    """Return the set of word 3-grams of each text, hashed to 64 bits and sorted."""
    vocabulary: dict[str, int] = {}
    sets = [_gram_set(text, vocabulary) for text in texts]
    sizes = np.array([len(grams) for grams in sets], dtype=np.int64)
    return _Sets(np.concatenate(sets), _starts(sizes), np.arange(len(sets)))


def _gram_set(text: str, vocabulary: dict[str, int]) -> Ints:
    words = _WORD.findall(text.casefold()) or [text.strip()]
    padded = [*words, *[""] * (3 - len(words))]
    ids = np.array([vocabulary.setdefault(w, len(vocabulary)) for w in padded], dtype=np.int64)
    with np.errstate(over="ignore"):  # wrapping around is what mixes the bits
        return np.unique((ids[:-2] * _MIX + ids[1:-1]) * _MIX + ids[2:])


def _distinct_sets(sets: _Sets) -> tuple[Ints, Ints]:
    """Return where each distinct set first stands, and for each set where its first equal stands."""
    seen: dict[bytes, int] = {}
    inverse = [seen.setdefault(sets[i].tobytes(), i) for i in range(len(sets))]
    return np.array(list(seen.values()), dtype=np.int64), np.array(inverse, dtype=np.int64)


def _ordered(sets: _Sets) -> _Sets:
    """Put small sets first, and in each set the members that few sets have first."""
    _, members, counts = np.unique(sets.items, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    owners = np.repeat(np.arange(len(sets)), sets.sizes)
    ranks = rank[members]
    ranked = _Sets(ranks[np.lexsort((ranks, owners))], sets.starts, sets.place)
    ordered = ranked.take(np.argsort(ranked.sizes, kind="stable"))
    known = sets.place >= 0
    place = np.where(known, ordered.place[np.where(known, sets.place, 0)], -1)
    return _Sets(ordered.items, ordered.starts, place)


def _candidates(sets: _Sets, threshold: float) -> Iterator[tuple[int, Ints]]:
    """Yield for each set the smaller (or equally large) sets that may be similar to it.

    A set of n members is looked up by its first n - ceil(t n) + 1, and is found by its first
    n - ceil(2t / (1 + t) n) + 1 (Xiao et al., lemmas 1 and 2).
    """
    sizes = sets.sizes
    look_up = _prefix(sizes, threshold)
    found_by = _prefix(sizes, 2 * threshold / (1 + threshold))
    within = np.arange(len(sets.items)) - np.repeat(sets.starts[:-1], sizes)
    indexed = within < np.repeat(found_by, sizes)
    owners = np.repeat(np.arange(len(sets)), sizes)[indexed]
    order = np.argsort(sets.items[indexed], kind="stable")  # within a member, owners ascend
    owners = owners[order]
    bounds = np.searchsorted(sets.items[indexed][order], np.arange(sets.items.max() + 2))
    for index in range(len(sets)):
        members = sets[index][: look_up[index]]
        lists = [owners[bounds[m] : bounds[m + 1]] for m in members if bounds[m + 1] - bounds[m]]
        lists = [owner[: np.searchsorted(owner, index)] for owner in lists]
        candidates = np.unique(np.concatenate(lists)) if lists else np.empty(0, dtype=np.int64)
        candidates = candidates[sizes[candidates] >= threshold * sizes[index] - _EPSILON]
        if len(candidates):
            yield index, candidates


def _prefix(sizes: Ints, share: float) -> Ints:
    return np.minimum(sizes, sizes - np.ceil(share * sizes - _EPSILON).astype(np.int64) + 1)


def _similar(sets: _Sets, index: int, others: Ints, threshold: float) -> NDArray[np.bool_]:
    """Say which of `others` overlap with the set at `index` at least so much."""
    if not len(others):
        return np.zeros(0, dtype=np.bool_)
    shared = np.isin(sets.items[sets.positions(others)], sets[index])
    overlap = np.add.reduceat(shared.astype(np.int64), _starts(sets.sizes[others])[:-1])
    union = sets.sizes[others] + sets.sizes[index] - overlap
    return overlap >= threshold * union - _EPSILON


class _Groups:
    """Disjoint sets, with the label of every member at hand (the smaller side is relabelled)."""

    def __init__(self, size: int) -> None:
        self.label: Ints = np.arange(size)
        self._members = {i: [i] for i in range(size)}

    def join(self, one: int, other: int) -> None:
        labels = {int(self.label[one]), int(self.label[other])}
        if len(labels) == 1:
            return
        small, large = sorted(labels, key=lambda label: len(self._members[label]))
        self.label[self._members[small]] = large
        self._members[large] += self._members.pop(small)
