"""Swiss pairing: each player meets a few opponents of about the same strength."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from cai.data.records import content_hash
from cai.evaluate.elo import Match, bradley_terry, wins_of

Pairing = tuple[str, str]
"""The names of two players that meet."""

PRIOR = 0.05
"""Wins of each player over each other that are added between rounds, so that a player without a
loss also has a strength. They are not used for the final ratings."""


def swiss_rounds(players: int) -> int:
    """Return the number of rounds for a number of players: 2 log₂, but no pair meets twice."""
    if players < 2:
        return 0
    everybody = players - 1 + players % 2  # with an odd number, one does not play in each round
    return min(everybody, 2 * math.ceil(math.log2(players)))


def next_round(
    players: Sequence[str],
    earlier: Sequence[Sequence[Pairing]],
    matches: Sequence[Match],
    seed: int,
) -> list[Pairing]:
    """Pair players by their strength so far.

    The fewest possible pairs have met before, and then the players of a pair are as near in
    strength as possible. With an odd number of players, one does not play: the weakest of those
    with the most rounds.

    Args:
        players: All players; a pair has this order.
        earlier: The pairs of the rounds before.
        matches: Their results.
        seed: Orders players of equal strength, such as all in the first round.

    Returns:
        Pairs; no player appears twice.
    """
    from networkx import Graph, min_weight_matching

    wins = wins_of(matches, players).sum(0) + PRIOR
    strength = dict(zip(players, bradley_terry(wins).round(9).tolist(), strict=True))
    by_strength = sorted(players, key=lambda name: (-strength[name], content_hash(seed, name)))
    met = Counter(frozenset(pair) for pairs in earlier for pair in pairs)
    played = Counter(name for pairs in earlier for pair in pairs for name in pair)
    if len(players) % 2:
        by_strength.remove(max(reversed(by_strength), key=lambda name: played[name]))
    # Ranks, not strengths: between equal players all pairs would weigh the same.
    graph = Graph()
    for (i, one), (j, other) in combinations(enumerate(by_strength), 2):
        graph.add_edge(one, other, weight=met[frozenset((one, other))] * len(players) ** 3 + j - i)
    place = {name: number for number, name in enumerate(players)}
    pairs = (sorted(pair, key=lambda name: place[name]) for pair in min_weight_matching(graph))
    return sorted(((first, second) for first, second in pairs), key=lambda pair: place[pair[0]])
