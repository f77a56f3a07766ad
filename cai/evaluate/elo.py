"""Elo ratings, from matches (Bradley-Terry by maximum likelihood) or from preference scores.

An Elo difference of 400 points is odds of ten to one, so a difference Δ of log-odds is
400 / ln 10 · Δ = 174 · Δ points. A preference model's scores are log-odds (paper, section 4.2), so
the difference of two models' mean scores is an Elo difference without matches (2204.05862).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from cai.evaluate.rates import Rate, mean

Floats = NDArray[np.float64]

POINTS = 400 / log(10)
"""Elo points per unit of log-odds."""

MOST_UNDEFINED = 0.025
"""There are no intervals if a larger share of the bootstrap draws has no maximum."""
_ITERATIONS = 100


class NoMaximum(Exception):  # noqa: N818 (a finding about the matches, not a fault)
    """The likelihood has no maximum: some players never lose to the others, or never meet them."""


@dataclass(frozen=True)
class Match:
    """One comparison of two players, on the task `cluster`.

    `score` is P(the first wins): 1 if it wins, 0 if the second wins, 1/2 for a tie.
    """

    first: str
    second: str
    score: float
    cluster: str


def bradley_terry(wins: Floats) -> Floats:
    """Return the log-strengths θ that maximise Σ w_ij log σ(θ_i - θ_j), by Newton's method.

    Args:
        wins: `(K, K)`, at least 0: how often i beat j; a tie is half a win for both. The diagonal
            does not count.

    Returns:
        `(K,)` float64, the first 0.

    Raises:
        NoMaximum: Wins do not connect every player to every other, so the maximum is at infinity
            or not unique (Ford 1957; Hunter 2004, assumption 1).
    """
    wins = np.array(wins, dtype=np.float64)
    np.fill_diagonal(wins, 0.0)
    players = len(wins)
    if not (_reaches_all(wins > 0) and _reaches_all(wins.T > 0)):
        raise NoMaximum
    games, theta = wins + wins.T, np.zeros(players)
    for _ in range(_ITERATIONS):
        expected = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        gradient = (wins - games * expected).sum(1)
        weights = games * expected * (1 - expected)
        curvature = np.diag(weights.sum(1)) - weights
        step = np.linalg.solve(curvature[1:, 1:], gradient[1:]) if players > 1 else np.zeros(0)
        # Far from the maximum a full Newton step may be too large; a bounded one is not.
        largest = np.abs(step).max(initial=0.0)
        theta[1:] += step * min(1.0, 1.0 / max(largest, 1e-300))
        if largest < 1e-10:
            break
    return theta


def wins_of(matches: Sequence[Match], players: Sequence[str]) -> Floats:
    """Count wins by cluster: `(C, K, K)`, how often i beat j; ties are half a win for both."""
    place = {player: number for number, player in enumerate(players)}
    clusters = {name: number for number, name in enumerate({m.cluster: None for m in matches})}
    wins = np.zeros((len(clusters), len(players), len(players)))
    for match in matches:
        i, j, cluster = place[match.first], place[match.second], clusters[match.cluster]
        wins[cluster, i, j] += match.score
        wins[cluster, j, i] += 1 - match.score
    return wins


def elo_of_matches(
    matches: Sequence[Match], players: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, Rate]:
    """Rate players by their matches.

    Args:
        matches: Between any of the players.
        players: In any order; the first one's rating is 0.
        draws: Bootstrap resamples of whole clusters.
        seed: Of the bootstrap.

    Returns:
        By player: the rating in Elo points against the first player, its 95% percentile interval,
        and its number of matches. The value is None if the likelihood has no maximum; the ends are
        also None if more than 2.5% of the resamples have no maximum.
    """
    wins = wins_of(matches, players)
    taken = Counter(player for match in matches for player in (match.first, match.second))
    try:
        theta = POINTS * bradley_terry(wins.sum(0))
    except NoMaximum:
        return {player: Rate(None, n=taken[player]) for player in players}
    low, high = _bootstrap(wins, draws, np.random.default_rng(seed))
    return {
        player: Rate(
            float(theta[n]), low[n] if low else None, high[n] if high else None, taken[player]
        )
        if n
        else Rate(0.0, 0.0, 0.0, taken[player])
        for n, player in enumerate(players)
    }


def elo_of_scores(
    scores: Mapping[str, Mapping[int, float]], clusters: Mapping[int, str]
) -> dict[str, Rate]:
    """Rate models by a preference model's scores of their answers (174 points a unit).

    Args:
        scores: Model to raw scores (log-odds) by question. The first model's rating is 0; others
            are compared with it on the questions that both answered.
        clusters: The task of each question.

    Returns:
        By model: the mean difference in Elo points, its 95% interval (clustered by task, Student's
        t), and the number of questions.
    """
    anchor = next(iter(scores.values()), {})
    rated: dict[str, Rate] = {}
    for model, answered in scores.items():
        both = [question for question in answered if question in anchor]
        rated[model] = mean(
            [POINTS * (answered[question] - anchor[question]) for question in both],
            [clusters[question] for question in both],
        )
    return rated


def _bootstrap(
    wins: Floats, draws: int, rng: np.random.Generator
) -> tuple[list[float] | None, list[float] | None]:
    """Return the 2.5th and 97.5th percentiles of the ratings over resampled clusters."""
    found: list[Floats] = []
    clusters = len(wins)
    for _ in range(draws):
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters))
        try:
            found.append(POINTS * bradley_terry(np.tensordot(weights, wins, axes=1)))
        except NoMaximum:
            continue
    if len(found) < (1 - MOST_UNDEFINED) * draws or not found:
        return None, None
    low, high = np.percentile(np.array(found), [2.5, 97.5], axis=0)
    return low.tolist(), high.tolist()


def _reaches_all(beats: NDArray[np.bool_]) -> bool:
    """Return whether each player can be reached from the first along the given arrows."""
    seen = np.zeros(len(beats), dtype=np.bool_)
    seen[:1] = True
    for _ in range(len(beats)):
        seen |= beats[seen].any(axis=0)
    return bool(seen.all())
