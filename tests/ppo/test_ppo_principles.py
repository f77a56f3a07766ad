"""The principles of a constitution as the reward, with scripted feedback models: the scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from principle_judges import (
    both_orders,
    group,
    log_softmax,
    reward_of,
    scored,
    shown,
)

from cai.engines import PromptTooLong, ScoreRequest, Unanswered, Unscored
from cai.ppo.principles import relative_scores


def test_a_score_is_the_mean_of_weighted_log_odds_over_all_samples() -> None:
    """The orders are averaged as probabilities, principles as log-odds: a weighs twice as much."""
    texts = ("a a a", "a e", "e e e")
    reward = reward_of()
    (found,) = reward.score_groups([group(*texts)])

    def odds(one: str, other: str) -> float:
        a, e = (both_orders(one.count(x) - other.count(x)) for x in "ae")
        return (2 * a + e) / 3

    assert found == pytest.approx([sum(odds(x, y) for y in texts) / 3 for x in texts])
    # Three pairs, two principles, two orders; the questions about one pair are neighbours.
    prompts = [request.prompt.messages[-1].content for request in scored(reward)]
    assert len(prompts) == 12
    pairs = [frozenset(shown(text.split("by the letter")[0])) for text in prompts]
    assert [pairs[i] for i in (0, 4, 8)] == [*dict.fromkeys(pairs)]
    (weighted,) = reward_of(weights={"e": 6.0}).score_groups([group("a", "e")])
    expected = (2 - 6) / 8 * both_orders(1.0) / 2
    assert weighted == pytest.approx([expected, -expected])


def test_equal_texts_are_not_asked_about_and_are_even() -> None:
    reward = reward_of()
    found = reward.score_groups(
        [group("a", "a", "e"), group("e", "e"), group("a"), group("a", "e")]
    )
    assert found[0][0] == found[0][1]
    assert found[0][0] - found[0][2] == pytest.approx(both_orders(1.0) / 3)
    assert found[1:3] == [[0.0, 0.0], [0.0]]
    assert len(scored(reward)) == 4  # a against e once, for both groups


def test_all_samples_can_be_ranked_at_once() -> None:
    reward = reward_of(form="ranking")
    (found,) = reward.score_groups([group("a a a", "a e", "e e e")])
    assert len(scored(reward)) == 4
    texts = ("a a a", "a e", "e e e")

    def odds(i: int, j: int) -> float:
        """By Luce's choice rule; the bias is 0.7 for each place."""
        a, e = (both_orders(texts[i].count(x) - texts[j].count(x), 0.7 * (j - i)) for x in "ae")
        return (2 * a + e) / 3

    assert found == pytest.approx([sum(odds(i, j) for j in range(3)) / 3 for i in range(3)])


def test_a_rating_is_the_log_odds_of_the_mean_grade_as_a_share() -> None:
    def rate(request: ScoreRequest) -> list[float]:
        text = request.prompt.messages[-1].content
        grade = 2 if "poor" in text else 6
        shares = [0.9 if n == grade else 0.1 / 6 for n in range(1, 8)]
        return [math.log(x) for x in shares]

    reward = reward_of(rate, form="rating")
    (found,) = reward.score_groups([group("poor", "good", "poor")])
    assert len(scored(reward)) == 4  # two texts, two principles
    for text, grade in zip(found, (2, 6, 2), strict=True):
        mean = sum(n * (0.9 if n == grade else 0.1 / 6) for n in range(1, 8))
        share = (mean - 1) / 6
        assert text == pytest.approx(math.log(share / (1 - share)))
    (sure,) = reward_of(rate, form="rating", clamp=0.4).score_groups([group("good")])
    assert sure == pytest.approx([math.log(0.6 / 0.4)])


def test_a_critique_gives_the_log_odds_of_finding_no_fault() -> None:
    """The letters are exchanged in the second question; the judge likes (B)."""
    likes = {" (A)": 0.2, " (B)": 0.6}

    def find(request: ScoreRequest) -> list[float]:
        return [math.log(likes[option]) for option in request.options]

    reward = reward_of(find, form="critique", principles=["o"])
    (found,) = reward.score_groups([group("x")])
    assert len(scored(reward)) == 2
    assert found == pytest.approx([0.0])
    sure = reward_of(lambda _: [math.log(0.2), math.log(0.6)], form="critique", principles=["o"])
    assert sure.score_groups([group("x")]) == [pytest.approx([math.log(3)])]


def test_principles_without_an_opinion_have_no_vote() -> None:
    (found,) = reward_of(ignore_within=0.2).score_groups([group("a a a e", "e")])
    expected = both_orders(3.0) / 2  # e is even: its vote would have made this two thirds
    assert found == pytest.approx([expected, -expected])
    (even,) = reward_of(ignore_within=0.4).score_groups([group("a", "e")])
    assert even == [0.0, 0.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5), st.data())
@hypothesis_settings(max_examples=100, deadline=None)
def test_scores_of_consistent_log_odds_differ_by_them_and_sum_to_zero(
    worth: list[float], data: st.DataObject
) -> None:
    of = data.draw(st.lists(st.integers(0, len(worth) - 1), min_size=2, max_size=6))
    odds = {(i, j): worth[i] - worth[j] for i, j in combinations(range(len(worth)), 2)}
    scores = [float(x) for x in relative_scores(odds, of)]
    assert sum(scores) == pytest.approx(0, abs=1e-9)
    for (x, i), (y, j) in combinations(zip(scores, of, strict=True), 2):
        assert x - y == pytest.approx(worth[i] - worth[j], abs=1e-9)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ({}, [1.0, 0.0, -1.0]),
        ({(0, 1): "refused"}, ["refused", "refused", "refused"]),  # and 2 has nobody left
        ({(0, 1): "too_long", (0, 2): "too_long"}, ["too_long", 0.5, -0.5]),
        ({(0, 1): "failed", (0, 2): "failed", (1, 2): "refused"}, ["failed", "failed", "failed"]),
    ],
)
def test_a_text_whose_comparisons_failed_is_left_out(
    failed: Mapping[tuple[int, int], str], expected: list[float | str]
) -> None:
    odds: dict[tuple[int, int], float | str] = {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 1.0, **failed}
    assert relative_scores(odds, [0, 1, 2]) == expected


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PromptTooLong("long"), "too_long"),
        (Unanswered("refused", "no"), "refused"),
        (Unscored("what?"), "unparsed"),
        (ValueError("the server fell over"), "failed"),
        ([-20.0, -20.0], "unparsed"),
    ],
)
@pytest.mark.parametrize("form", ["comparison", "ranking", "rating"])
def test_a_verdict_that_fails_is_a_state_and_never_a_number(
    form: str, error: Any, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    def score(request: ScoreRequest) -> Any:
        text = request.prompt.messages[-1].content
        if "broken" in text and "letter e" in text:
            return error if isinstance(error, Exception) else [-20.0] * len(request.options)
        return log_softmax([0.0] * len(request.options))

    reward = reward_of(score, form=form, min_mass=0.01)
    with caplog.at_level(logging.WARNING):
        found = reward.score_groups([group("a", "broken", "e"), group("a", "e")])
    if form == "ranking":
        assert found[0] == [state] * 3
    else:
        assert found[0][1] == state
        assert all(isinstance(found[0][i], float) for i in (0, 2))
    assert all(isinstance(x, float) for x in found[1])
    if isinstance(error, Exception):
        assert sum(f"ended as `{state}`: " in text for text in caplog.messages) == 1


def test_a_response_can_be_compared_with_a_given_one() -> None:
    reward = reward_of()
    found = reward.score_groups([group("a a", against="a"), group("a", against="a")])
    assert found == [pytest.approx([2 / 3 * both_orders(1.0)]), [0.0]]
