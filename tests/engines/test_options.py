"""What the answers of servers say of options, against a made-up model that is known whole."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines import Unscored
from cai.engines.options import (
    Listed,
    check_options,
    from_listed,
    from_samples,
    questions,
    summed,
)
from cai.errors import CaiError

OPTIONS = (" (A)", " (B)")
TOKENS = ("(", "(A", "(B", "A", "B", ")", " (", "A)", "no")
WEIGHTS = st.lists(st.floats(0.001, 1.0), min_size=len(TOKENS), max_size=len(TOKENS))


def begun(text):
    """Which of (A), (B) a text may still become, or has become."""
    return {o for o in ("(A)", "(B)") if o.startswith(text) or text.startswith(o)}


def truth(model, text="", depth=0):
    """P(the answer is told to be each option), over all ways in which it may be said."""
    total = {"(A)": 0.0, "(B)": 0.0}
    for token, probability in model(text).items():
        said = (text + token).lstrip() if not text else text + token
        options = begun(said)
        if len(options) == 1:
            total[options.pop()] += probability
        elif options and depth < 3:
            for option, more in truth(model, said, depth + 1).items():
                total[option] += probability * more
    return total


@given(st.lists(WEIGHTS, min_size=3, max_size=3), st.integers(1, len(TOKENS)))
def test_what_is_listed_is_no_more_and_what_is_not_no_less_than_the_truth(weights, count):
    def model(text):
        some = weights[min(len(text), 2)]
        return {t: w / sum(some) for t, w in zip(TOKENS, some, strict=True)}

    answer, text = [], ""
    for _ in range(3):
        likeliest = sorted(model(text).items(), key=lambda item: -item[1])[:count]
        token = likeliest[0][0]
        answer.append(Listed(token, {t: math.log(p) for t, p in likeliest}))
        text = (text + token).lstrip() if not text else text + token
    exact = truth(model)
    try:
        estimates = from_listed(answer, OPTIONS)
    except Unscored:
        return
    for number, option in enumerate(("(A)", "(B)")):
        estimate = math.exp(estimates.logprobs[number])
        if number in estimates.bounds:
            assert estimate >= exact[option] - 1e-6
        else:
            assert estimate <= exact[option] + 1e-6


def test_the_shared_opening_is_followed_and_the_letters_part_the_options():
    answer = [
        Listed("(", {"(": math.log(0.8), "(A": math.log(0.1)}),
        Listed("B", {"B": math.log(0.5), "A": math.log(0.25)}),
    ]
    estimates = from_listed(answer, OPTIONS)
    assert not estimates.bounds
    a, b = map(math.exp, estimates.logprobs)
    assert (a, b) == (pytest.approx(0.1 + 0.8 * 0.25), pytest.approx(0.8 * 0.5))


def test_an_option_that_is_not_listed_gets_what_the_others_leave_and_says_so():
    answer = [Listed("(A", {"(A": math.log(0.9), "I": math.log(0.06)})]
    estimates = from_listed(answer, OPTIONS)
    assert estimates.bounds == {1}
    assert [math.exp(value) for value in estimates.logprobs] == pytest.approx([0.9, 0.04])


def test_no_option_listed_is_a_state_and_no_number():
    with pytest.raises(Unscored, match="lists"):
        from_listed([Listed("I", {"I": -0.1, "The": -3.0})], OPTIONS)
    with pytest.raises(Unscored, match="2 sampled"):
        from_samples(["neither", "(C)"], OPTIONS)


def test_sampled_verdicts_are_counted_and_none_is_impossible():
    estimates = from_samples([" (A) because", "(A)", "(B)", "(A)x", "hm"], OPTIONS)
    # "(A)x" begins with another word's opening and does not count.
    assert [math.exp(value) for value in estimates.logprobs] == pytest.approx([2.5 / 6, 1.5 / 6])
    assert from_samples(["10", "1"], ("1", "10")).logprobs == (math.log(1.5 / 3),) * 2


def test_options_of_several_tokens_are_asked_for_step_by_step():
    options = [(1, 2, 3), (1, 4, 3), (5,)]
    asked = questions(options)
    assert asked == {(): [1, 5], (1,): [2, 4], (1, 2): [3], (1, 4): [3]}
    answers = {
        (): {1: -1.0, 5: -2.0},
        (1,): {2: -0.5, 4: -0.25},
        (1, 2): {3: -4.0},
        (1, 4): {3: -8.0},
    }
    assert summed(options, answers) == [-5.5, -9.25, -2.0]


@pytest.mark.parametrize("options", [[], ["A", ""], ["A", "A"]])
def test_options_that_cannot_be_told_apart_are_refused(options):
    with pytest.raises(CaiError, match="none empty and no two the same"):
        check_options(options)
    with pytest.raises(CaiError, match="none empty and no two the same"):
        check_options(["A", "B"], [[4], [4]])
