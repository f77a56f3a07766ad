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
    """Which of (A), (B) a text may still become, or has become; brackets may be left out."""
    opened = text.lstrip().lstrip("(")
    if not opened:
        return {"(A)", "(B)"}
    return {f"({letter})" for letter in "AB" if opened in (letter, letter + ")")}


def truth(model, text="", depth=0):
    """P(the answer is told to be each option), over all ways in which it may be said."""
    total = {"(A)": 0.0, "(B)": 0.0}
    for token, probability in model(text).items():
        said = text + token
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
        text += token
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


LEAK = {"**": 0.90, "The": 0.04, "(A": 0.02, "Both": 0.01, "I": 0.005}


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([("**", LEAK)], id="nearly all of it goes on in a way that is not told"),
        pytest.param([("no", {"no": 0.6, "(A": 0.1})], id="not listed may be likelier"),
        pytest.param([("(", {"(": 0.9, "(A": 0.01}), ("B", {"B": 0.5})], id="half is not told"),
        pytest.param([("(A", {"(A": 0.4})], id="both may have four in ten"),
    ],
)
def test_bounds_that_do_not_tell_which_is_likelier_are_a_state(places):
    answer = [Listed(token, {t: math.log(p) for t, p in top.items()}) for token, top in places]
    with pytest.raises(Unscored, match="do not tell which"):
        from_listed(answer, OPTIONS)


def test_no_unlisted_token_is_likelier_than_the_least_listed_one():
    answer = [Listed("(", {"(": -0.001}), Listed("A", {"A": math.log(0.5), ".": math.log(0.001)})]
    estimates = from_listed(answer, OPTIONS)
    assert estimates.bounds == {1}
    assert math.exp(estimates.logprobs[1]) < 0.05


def test_of_several_options_the_likeliest_is_told_and_unlisted_ones_are_even():
    options = (" (A)", " (B)", " (C)", " (D)")
    last = {"B": math.log(0.9), "A": math.log(1e-6), "x": math.log(1e-7)}
    answer = [Listed("(", {"(": -1e-6, "(C or": -16.0}), Listed("B", last)]
    estimates = from_listed(answer, options)
    assert estimates.bounds == {2, 3}
    a, b, c, d = estimates.logprobs
    assert b > c == d > a  # C and D may be likelier than A, and are not told apart


def test_about_even_options_that_are_both_listed_are_about_even():
    estimates = from_listed(
        [Listed("(", {"(": -0.001}), Listed("A", {"A": math.log(0.495), "B": math.log(0.494)})],
        OPTIONS,
    )
    a, b = map(math.exp, estimates.logprobs)
    assert a / (a + b) == pytest.approx(0.5, abs=0.01)
    assert not estimates.bounds


@pytest.mark.parametrize(
    "top",
    [
        {"(A": math.nan, "(B": -1.0},
        {"(A": None, "(B": -1.0},
        {"(A": "-0.1", "(B": -1.0},
        {"(A": 0.2, "(B": -1.0},
        {"(A": math.inf, "(B": -1.0},
        {"(A": -0.1, "(B": -0.2},
        {"(A": -0.1, "(B": -2.0, "x": -2.5},
        {"(A": 0.0, "(B": math.log(0.02)},
    ],
)
def test_numbers_that_cannot_be_log_probabilities_are_no_evidence(top):
    with pytest.raises(Unscored, match=r"no number|more than"):
        from_listed([Listed("(A", top)], OPTIONS)


@pytest.mark.parametrize("nothing", [-math.inf, -9999.0, -800.0])
def test_what_is_hardly_possible_is_a_bound(nothing):
    estimates = from_listed([Listed("(A", {"(A": 0.0, "(B": nothing})], OPTIONS)
    assert estimates.bounds == {1}
    assert 0 < math.exp(estimates.logprobs[1]) < 1e-6


NUMBERS = st.one_of(
    st.floats(),
    st.floats(-12, 0.0),
    st.sampled_from([None, "x", True, -9999.0, math.inf, -math.inf, math.nan]),
)
PLACES = st.tuples(
    st.sampled_from(TOKENS),
    st.dictionaries(st.sampled_from((*TOKENS, "**", " ")), NUMBERS),
    NUMBERS,
)


@given(st.lists(PLACES, max_size=4))
def test_whatever_is_listed_gives_probabilities_or_a_state(places):
    answer = [Listed(token, top, own) for token, top, own in places]
    try:
        estimates = from_listed(answer, OPTIONS)
    except Unscored:
        return
    assert all(math.isfinite(logprob) for logprob in estimates.logprobs)
    assert math.fsum(map(math.exp, estimates.logprobs)) <= 1.02


@given(st.lists(WEIGHTS, min_size=3, max_size=3), st.integers(1, len(TOKENS)))
def test_an_option_is_never_put_above_one_that_is_certain_to_be_likelier(weights, count):
    def model(text):
        some = weights[min(len(text), 2)]
        return {t: w / sum(some) for t, w in zip(TOKENS, some, strict=True)}

    answer, text = [], ""
    for _ in range(3):
        top = sorted(model(text).items(), key=lambda item: -item[1])[:count]
        answer.append(Listed(top[0][0], {t: math.log(p) for t, p in top}))
        text += top[0][0]
    try:
        estimates = from_listed(answer, OPTIONS)
    except Unscored:
        return
    exact = truth(model)
    a, b = estimates.logprobs
    if estimates.bounds and abs(a - b) > 0.2:
        assert (a > b) == (exact["(A)"] > exact["(B)"])


@pytest.mark.parametrize(
    "tokens",
    [
        ["**", "(", "B", ")"],
        ["\n\n", "(", "B"],
        [" ", "B"],
        ["[[", "B", "]]"],
        ["The", " answer", " is", ":", " (", "B", ")"],
    ],
)
def test_bold_blanks_and_leads_are_followed(tokens):
    answer = [Listed(t, {t: math.log(0.99)}) for t in tokens]
    place = tokens.index("B")
    answer[place] = Listed("B", {"B": math.log(0.9), "A": math.log(0.09)})
    a, b = map(math.exp, from_listed(answer, OPTIONS).logprobs)
    assert b / (a + b) == pytest.approx(0.9 / 0.99)


def test_an_answer_that_takes_its_verdict_back_is_no_evidence():
    answer = [Listed(t, {t: math.log(0.9)}) for t in ("(A", ")", " is", " wrong")]
    with pytest.raises(Unscored, match="no clear verdict"):
        from_listed(answer, OPTIONS)


def test_the_token_that_stands_there_counts_where_no_others_are_listed():
    answer = [Listed("(", {}, math.log(0.99)), Listed("A", {}, math.log(0.9))]
    estimates = from_listed(answer, OPTIONS)
    assert estimates.bounds == {1}
    assert math.exp(estimates.logprobs[0]) == pytest.approx(0.891)


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
