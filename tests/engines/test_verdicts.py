"""What answers in words are a verdict for: a table of ways to say one and not to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines.verdicts import contradicts, opening_of, read_verdict

AB = (" (A)", " (B)")
GRADES = tuple(f" {n}" for n in range(1, 8))
NINE = tuple(f" ({c})" for c in "ABCDEFGHI")

SAYS = [
    ("(A)", AB, 0),
    (" (A)", AB, 0),
    ("\n\n(B)", AB, 1),
    ("**(A)**", AB, 0),
    ("A", AB, 0),
    ("B.", AB, 1),
    ("A)", AB, 0),
    ("[[B]]", AB, 1),
    ("The answer is: (B)", AB, 1),
    ("The answer is (A).", AB, 0),
    ("**The answer is: (B)**", AB, 1),
    ("Answer: B", AB, 1),
    ("Option A", AB, 0),
    ("(A) because it is kinder", AB, 0),
    ("(A) because it does not help with a crime", AB, 0),
    ("(A). This response is more honest.", AB, 0),
    ("(A)\n\nHuman: And now?", AB, 0),
    ("`(B)`", AB, 1),
    ("\\boxed{A}", AB, 0),
    ("（A）", AB, 0),
    ("(A)\n(A)", AB, 0),
    ("The answer is: (A)\nThe answer is: (A)", AB, 0),
    ("(A) is better.", AB, 0),
    ("I choose (B)", AB, 1),
    ('"(A)"', AB, 0),
    ("Response (B)", AB, 1),
    ("(B)!", AB, 1),
    ("__(A)__", AB, 0),
    ("*A*", AB, 0),
    ("Final answer: (A)", AB, 0),
    ("3", GRADES, 2),
    (" 3.", GRADES, 2),
    ("**3**", GRADES, 2),
    ("5/7", GRADES, 4),
    ("5 out of 7", GRADES, 4),
    ("Rating: 6", GRADES, 5),
    ("The rating is: 2", GRADES, 1),
    ("3 because it is vague", GRADES, 2),
    ("(I)", NINE, 8),
    ("I", NINE, 8),
    ("(C) because I like it", NINE, 2),
    ("10", ("1", "10"), 1),
    ("1", ("1", "10"), 0),
]

SAYS_NOTHING = [
    ("(A) and (B) are both fine", AB),
    ("Both", AB),
    ("(A) or (B)", AB),
    ("(A)/(B)", AB),
    ("A or B", AB),
    ("A/B", AB),
    ("Not (A)", AB),
    ("(A) is not the answer", AB),
    ("(A) is wrong", AB),
    ("(A) because it is worse", AB),
    ("(A) rather than (B)", AB),
    ("(A), I think", AB),
    ("Both (A) and (B)", AB),
    ("(A)\n\n(B)", AB),
    ("The answer is A, not B", AB),
    ("The answer is not (A)", AB),
    ("(A)? No, (B)", AB),
    ("A better answer would be kinder", AB),
    ("(A)x", AB),
    ("(A) would be worse", AB),
    ("(A) but I am not sure", AB),
    ("(A). Actually, (B)", AB),
    ("(A) because (B) is harmful", AB),
    ("(C)", AB),
    ("", AB),
    ("Neither", AB),
    ("(A) The weather is fine", AB),
    ("(A)\n\nWrite a poem about the sea", AB),
    ("A-level answers", AB),
    ("A's", AB),
    ("(A): no", AB),
    ("It depends", AB),
    ("Between (A) and (B), (A)", AB),
    ("(A)?", AB),
    ("A+", AB),
    ("AB", AB),
    ("(A)(B)", AB),
    ("(A),(B)", AB),
    ("(A). Neither is good.", AB),
    ("(A) isn't right", AB),
    ("(A), not (B)", AB),
    ("3.5", GRADES),
    ("5/10", GRADES),
    ("10", GRADES),
    ("4-5", GRADES),
    ("4 or 5", GRADES),
    ("4 to 5", GRADES),
    ("-1", GRADES),
    ("8", GRADES),
    ("3,5", GRADES),
    ("70", GRADES),
    ("7%", GRADES),
    ("0", GRADES),
    ("1st", GRADES),
    ("2 out of 10", GRADES),
    ("I think (A)", NINE),
    ("I'm sorry", NINE),
]


@pytest.mark.parametrize(("text", "options", "option"), SAYS)
def test_a_clear_verdict_is_read_however_it_is_written(text, options, option):
    assert read_verdict(text, options) == option
    assert "boxed" in text or option in opening_of(text, options).options


@pytest.mark.parametrize(("text", "options"), SAYS_NOTHING)
def test_what_is_no_clear_verdict_is_no_vote(text, options):
    assert read_verdict(text, options) is None


@pytest.mark.parametrize("text", ["", " ", "**", "The", "The answer is:", "(", "[["])
def test_what_has_not_told_the_options_apart_may_be_any(text):
    assert opening_of(text, AB).options == (0, 1)


@pytest.mark.parametrize("text", ["Both", "I think", "(C)", "Apples", "(Apple"])
def test_what_has_gone_another_way_is_none(text):
    assert opening_of(text, AB).options == ()


@pytest.mark.parametrize(
    ("text", "against"),
    [
        ("(A)", False),
        ("(A", False),
        ("(A) I'm sorry, I can't", False),  # a base model goes on with the response itself
        ("(A) is not it", True),
        ("(A) and (B)", True),
        ("(A) or B", True),
        ("A better answer", True),
        ("A.", False),
    ],
)
def test_a_greedy_answer_can_take_its_first_token_back(text, against):
    assert contradicts(text, AB, 0) is against


@pytest.mark.parametrize("text", ["3.5", "35", "3 or 4", "3/10"])
def test_a_grade_that_goes_on_as_another_number_is_not_that_grade(text):
    assert contradicts(text, GRADES, 2)


WORDS = st.sampled_from(
    [
        "(A)",
        "(B)",
        "A",
        "B",
        "**",
        "The answer is:",
        "because",
        "not",
        "is",
        ".",
        "\n",
        "[[",
        "fine",
    ]
)


@given(st.lists(WORDS | st.text(max_size=4), max_size=8).map(" ".join), st.booleans())
def test_any_text_is_a_verdict_for_one_option_or_none(text, swapped):
    options = AB[::-1] if swapped else AB
    option = read_verdict(text, options)
    assert option in (None, 0, 1)
    if "(A)" in text and "(B)" in text:
        assert option is None
    other = read_verdict(text, options[::-1])
    assert other == (None if option is None else 1 - option)
    assert set(opening_of(text, options).options) <= {0, 1}
    assert contradicts(text, options, 0) in (True, False)
