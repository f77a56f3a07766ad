"""How numbers, values with their intervals and foreign text are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.rates import Estimate, Rate
from cai.report.wording import (
    HUNDREDTHS,
    POINTS,
    TENTHS,
    WHOLE,
    Scale,
    duration,
    fixed,
    moment,
    number,
    percent,
    shorten,
    show,
    signed,
    visible,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0%"), (0.004, "0.4%"), (0.256, "26%"), (0.996, "99.6%"), (1.0, "100%")],
)
def test_percent(value, shown):
    assert percent(value) == shown


def test_numbers_have_sensible_digits():
    shown = [number(v) for v in (None, 0, 1234567, 0.0123456, 13.0, 1234.5, "x", True, -0.5)]
    assert shown == ["–", "0", "1,234,567", "0.0123", "13.0", "1,234", "x", "True", "−0.500"]
    assert [duration(s) for s in (None, 0.44, 41.7, 200, 7500)] == [
        "–",
        "0.4 s",
        "42 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert moment("2026-11-21T09:12:44+00:00") == "2026-11-21 09:12 UTC"
    assert moment("yesterday") == "yesterday"


def test_a_value_is_written_on_its_scale_with_its_interval():
    half = Rate(0.5, 0.641, 0.77, 9)
    assert (show(half).value, show(half).ends, str(show(half))) == ("50%", "64–77", "50% (64–77)")
    assert str(show(Estimate(-0.5, -0.641, 0.0077), POINTS)) == "−50 (−64 to +0.8)"
    assert str(show(Estimate(-1234.5, -2000.0, 1.4), WHOLE)) == "−1,234 (−2,000 to 1)"
    assert str(show(Estimate(-1234.5), WHOLE)) == "−1,234"
    assert str(show(Estimate(24.55, 24.0, 25.0), TENTHS)) == "24.6 (24.0 to 25.0)"
    change = signed(HUNDREDTHS)
    assert str(show(Estimate(0.126, -0.001, 0.5), change)) == "+0.13 (0.00 to +0.50)"
    assert show(Estimate(0.001), change).value == "0.00"
    assert str(show(Estimate(-0.123, -0.2, -0.03), Scale(fixed(0, times=100)))) == "−12 (−20 to −3)"
    assert str(show(None)) == str(show(Rate(None))) == str(show(None, POINTS)) == "–"


def test_intervals_that_say_nothing_can_be_left_out():
    known, close = Estimate(0.0, 0.0, 0.0), Estimate(1.0014, 1.0001, 1.0031)
    told = [
        [str(show(found, HUNDREDTHS, hide=hide)) for hide in (None, "equal", "alike")]
        for found in (known, close)
    ]
    assert told == [
        ["0.00 (0.00 to 0.00)", "0.00", "0.00"],
        ["1.00 (1.00 to 1.00)", "1.00 (1.00 to 1.00)", "1.00"],
    ]


@given(st.text())
def test_nothing_invisible_survives(text: str):
    shown = visible(text)
    for character in shown:
        assert character in "\n\t" or (ord(character) >= 32 and ord(character) != 127)
        assert not 0x202A <= ord(character) <= 0x202E
    assert visible(shown) == shown
    shown.encode("utf-8")


def test_ordinary_text_is_left_alone():
    text = "Zwölf Boxkämpfer – 拳击手 🥊\n\tif x < 3 && y: 'ok'"
    assert visible(text) == text
    assert visible("\ud800") == "⟨U+D800⟩"
    assert shorten(text) == text
    assert shorten("abcdef", 4) == "abcd … [2 more characters are in the rows]"
