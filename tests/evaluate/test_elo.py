import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.evaluate.elo import (
    POINTS,
    Match,
    NoMaximum,
    bradley_terry,
    elo_of_matches,
    elo_of_scores,
)


def by_minorisation(wins, rounds=3_000):
    """Hunter's MM algorithm (2004, equation 3): slow, simple and independent of Newton's."""
    wins = np.array(wins, dtype=np.float64)
    np.fill_diagonal(wins, 0)
    games, strength = wins + wins.T, np.ones(len(wins))
    for _ in range(rounds):
        strength = wins.sum(1) / (games / (strength[:, None] + strength[None, :])).sum(1)
        strength /= strength[0]
    return np.log(strength)


def test_two_players_have_a_closed_form():
    theta = bradley_terry(np.array([[0, 30], [10, 0]]))
    assert theta.tolist() == pytest.approx([0, math.log(10 / 30)], abs=1e-12)


def test_four_hundred_points_are_odds_of_ten_to_one():
    matches = [Match("a", "b", 1.0, str(n)) for n in range(10)] + [Match("a", "b", 0.0, "x")]
    assert elo_of_matches(matches, ["b", "a"], draws=2)["a"].value == pytest.approx(400)
    assert pytest.approx(174, abs=0.3) == POINTS


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_an_independent_reference(seed):
    wins = np.random.default_rng(seed).uniform(0.1, 20, (4, 4))
    assert bradley_terry(wins) == pytest.approx(by_minorisation(wins), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1000), min_size=12, max_size=12))
def test_at_the_maximum_everybody_wins_as_often_as_expected(counts):
    wins = np.zeros((4, 4))
    wins[~np.eye(4, dtype=bool)] = counts
    theta = bradley_terry(wins)
    expected = (wins + wins.T) / (1 + np.exp(theta[None, :] - theta[:, None]))
    np.fill_diagonal(expected, 0)
    assert expected.sum(1) == pytest.approx(wins.sum(1), rel=1e-6)


def test_strengths_far_apart_are_found():
    wins = np.array([[0, 1e6, 0], [1, 0, 1e6], [0, 1, 0]])
    assert bradley_terry(wins) == pytest.approx([0, -6 * math.log(10), -12 * math.log(10)])


@pytest.mark.parametrize(
    "wins",
    [
        [[0, 5], [0, 0]],  # never loses
        [[0, 5, 0], [5, 0, 0], [0, 0, 0]],  # never plays
        [[0, 5, 9], [5, 0, 9], [0, 0, 0]],  # never wins
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],  # two leagues
    ],
)
def test_without_a_maximum_there_is_no_rating(wins):
    with pytest.raises(NoMaximum):
        bradley_terry(np.array(wins, dtype=float))


def test_a_winner_of_everything_has_no_rating_and_one_tie_gives_it_one():
    matches = [Match("a", "b", 1.0, str(n)) for n in range(20)]
    rated = elo_of_matches(matches, ["a", "b"], draws=50)
    assert rated["b"].value is rated["b"].low is None
    assert rated["b"].n == 20
    rated = elo_of_matches([*matches, Match("a", "b", 0.5, "t")], ["a", "b"], draws=50)
    assert rated["b"].value == pytest.approx(POINTS * math.log(0.5 / 20.5))
    assert rated["b"].low is None  # a third of the resamples leave the one tie out


def test_ties_alone_make_equals():
    rated = elo_of_matches([Match("a", "b", 0.5, str(n)) for n in range(9)], ["a", "b"], draws=20)
    assert (rated["b"].value, rated["b"].low, rated["b"].high) == (0, 0, 0)


def test_the_interval_knows_that_matches_on_one_task_go_together():
    def interval(clusters):
        rng = np.random.default_rng(0)
        won = rng.random(20) < 0.7
        matches = [
            Match("a", "b", float(won[n]), str(n if clusters else f"{n} {m}"))
            for n in range(20)
            for m in range(10)
        ]
        rated = elo_of_matches(matches, ["a", "b"], draws=300)["b"]
        assert rated.low < rated.value < rated.high
        return rated.high - rated.low

    # 200 matches are worth 20 when each task is all or nothing: √10 times as wide.
    assert interval(clusters=True) / interval(clusters=False) == pytest.approx(
        math.sqrt(10), rel=0.25
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered, truth = 0, -POINTS * math.log(3)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matches = [Match("a", "b", float(rng.random() < 0.75), str(n)) for n in range(80)]
        rated = elo_of_matches(matches, ["a", "b"], draws=100, seed=seed)["b"]
        covered += rated.low <= truth <= rated.high
    assert covered >= 33  # 38 expected; fewer has a probability below 1%


def test_scores_are_a_shortcut_and_only_common_questions_count():
    scores = {"a": {1: 0.0, 2: 1.0, 3: 9.0}, "b": {1: 1.0, 2: 3.0, 4: -50.0}}
    rated = elo_of_scores(scores, {1: "x", 2: "y", 3: "z", 4: "z"})
    assert (rated["a"].value, rated["a"].low, rated["a"].high) == (0, 0, 0)
    assert rated["b"].value == pytest.approx(1.5 * POINTS)
    assert rated["b"].n == 2
    # Student's t with one degree: 12.706 times the standard error 0.5.
    assert rated["b"].high - rated["b"].value == pytest.approx(12.706 * 0.5 * POINTS, rel=1e-3)
    assert elo_of_scores({}, {}) == {}
