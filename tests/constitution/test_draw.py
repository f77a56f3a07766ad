"""Drawing principles: proportional to weight, and untouched by edits elsewhere."""

import hashlib
import json
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Principle, draw, draw_several
from cai.errors import CaiError

KEYS = [f"row-{i}" for i in range(60)]


def make(name, weight=1.0):
    return Principle(id=name, comparison="text", weight=weight)


names = st.lists(
    st.text("abcdefgh123", min_size=1, max_size=4), min_size=2, max_size=8, unique=True
)
weights = st.floats(0.05, 20, allow_nan=False)


@st.composite
def principle_lists(draw_from):
    return [make(name, draw_from(weights)) for name in draw_from(names)]


def drawn(principles, seed=3, turn=1):
    return [draw(principles, seed=seed, key=key, round=turn).id for key in KEYS]


@settings(deadline=None, max_examples=40)
@given(principle_lists(), st.data())
def test_dropping_one_changes_only_the_rows_that_had_drawn_it(principles, data):
    gone = data.draw(st.sampled_from(principles))
    before = drawn(principles)
    after = drawn([p for p in principles if p is not gone])
    assert all(a == b for a, b in zip(after, before, strict=True) if b != gone.id)


@settings(deadline=None, max_examples=40)
@given(principle_lists(), weights)
def test_adding_one_changes_only_the_rows_that_now_draw_it(principles, weight):
    new = make("new-one", weight)
    before, after = drawn(principles), drawn([*principles, new])
    assert all(a == b for a, b in zip(after, before, strict=True) if a != new.id)


@settings(deadline=None, max_examples=40)
@given(principle_lists(), st.randoms())
def test_rewording_and_reordering_change_no_row(principles, random):
    edited = [p.model_copy(update={"comparison": "other words", "tags": ["t"]}) for p in principles]
    random.shuffle(edited)
    assert drawn(edited) == drawn(principles)


@settings(deadline=None, max_examples=40)
@given(principle_lists(), st.data())
def test_a_heavier_weight_only_wins_rows(principles, data):
    index = data.draw(st.integers(0, len(principles) - 1))
    heavier = list(principles)
    heavier[index] = make(principles[index].id, principles[index].weight * 3)
    before, after = drawn(principles), drawn(heavier)
    assert all(a in (b, heavier[index].id) for a, b in zip(after, before, strict=True))


def chi_square(counts, expected):
    return sum((counts[which] - e) ** 2 / e for which, e in expected.items())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frequencies_are_proportional_to_the_weights(seed):
    principles = [make("a", 1), make("b", 2), make("c", 0.5), make("d", 4.5), make("e", 2)]
    rows = 8000
    counts = Counter(draw(principles, seed=seed, key=f"row-{i}", round=0).id for i in range(rows))
    expected = {p.id: rows * p.weight / 10 for p in principles}
    assert chi_square(counts, expected) < 18.5  # 99.9% quantile, 4 degrees of freedom


def test_rounds_seeds_and_keys_are_independent():
    principles = [make(name) for name in "abcd"]
    rows = 4000
    for other in ({"round": 2}, {"seed": 8}):
        pairs = Counter()
        for i in range(rows):
            where = {"seed": 7, "round": 1}
            first = draw(principles, key=f"row-{i}", **where)
            pairs[first.id, draw(principles, key=f"row-{i}", **where | other).id] += 1
        expected = {(a, b): rows / 16 for a in "abcd" for b in "abcd"}
        assert chi_square(pairs, expected) < 37.7  # 99.9% quantile, 15 degrees of freedom


def test_the_draw_is_the_documented_one():
    """Rows in people's run folders were drawn this way, so the recipe must not change."""

    def score(principle, key):
        name = json.dumps([11, key, 2, principle.id]).encode()
        bits = int(hashlib.blake2b(name, digest_size=8).hexdigest(), 16) // 2**11
        uniform = Fraction(bits + 1, 2**53 + 1)
        return math.log(principle.weight) - math.log(-math.log(uniform))

    principles = [make("alpha"), make("beta", 2), make("gamma", 0.3)]
    expected = [max(principles, key=lambda p: score(p, key)).id for key in KEYS]
    assert drawn(principles, seed=11, turn=2) == expected


def test_several_are_distinct_and_begin_with_the_single_draw():
    principles = [make(name, w) for name, w in zip("abcdef", (1, 2, 3, 1, 2, 3), strict=True)]
    for key in KEYS:
        chosen = draw_several(principles, 4, seed=5, key=key)
        assert len({p.id for p in chosen}) == 4
        assert chosen[0] == draw(principles, seed=5, key=key, round=0)
        assert chosen == draw_several(principles, 6, seed=5, key=key)[:4]


def test_several_follow_sequential_sampling_without_replacement():
    principles = [make("a", 1), make("b", 2), make("c", 3)]
    rows = 9000
    pairs = Counter(
        tuple(p.id for p in draw_several(principles, 2, seed=1, key=f"row-{i}"))
        for i in range(rows)
    )
    weight = {"a": 1, "b": 2, "c": 3}
    expected = {
        (x, y): rows * weight[x] / 6 * weight[y] / (6 - weight[x])
        for x in weight
        for y in weight
        if x != y
    }
    assert chi_square(pairs, expected) < 20.6  # 99.9% quantile, 5 degrees of freedom


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(CaiError, match="no principle to draw"):
        draw([], seed=0, key="k", round=0)
    with pytest.raises(CaiError, match=r"3 principles were asked for.*has 2"):
        draw_several([make("a"), make("b")], 3, seed=0, key="k")


def test_extreme_weights_stay_finite():
    principles = [make("tiny", 5e-324), make("huge", 1.7e308)]
    assert set(drawn(principles)) == {"huge"}
