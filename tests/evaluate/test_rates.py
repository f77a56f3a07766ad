import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.rates import mean, rate


def test_nothing_measured_gives_nulls():
    for estimate in (rate, mean):
        empty = estimate([None, None], ["a", "b"])
        assert (empty.value, empty.low, empty.high, empty.n) == (None, None, None, 0)
        assert estimate([], []).n == 0


def test_unmeasured_rows_are_left_out():
    with_gaps = rate([True, None, False, None], ["a", "a", "b", "c"])
    assert with_gaps == rate([True, False], ["a", "b"])
    assert with_gaps.n == 2


def test_values_and_clusters_must_pair_up():
    with pytest.raises(ValueError):
        rate([True], ["a", "b"])


def test_singleton_tasks_give_wilsons_interval():
    # The roots of (p - q)^2 = z^2 q (1 - q) / n, solved as a quadratic in q.
    hits, n, z = 30, 100, 1.959963984540054
    a, b, c = 1 + z * z / n, -(2 * hits / n + z * z / n), (hits / n) ** 2
    root = math.sqrt(b * b - 4 * a * c)
    measured = rate([i < hits for i in range(n)], [str(i) for i in range(n)])
    # Singletons between them have (n - 1) / n less variance to show: allow for it.
    assert measured.low == pytest.approx((-b - root) / (2 * a), abs=0.002)
    assert measured.high == pytest.approx((-b + root) / (2 * a), abs=0.002)


@pytest.mark.parametrize("value", [False, True])
def test_unanimous_answers_count_as_tasks(value: bool):
    # 300 equal answers over 20 tasks bound the rate as 20 draws do: z^2 / (20 + z^2).
    unanimous = rate([value] * 300, [str(i % 20) for i in range(300)])
    width = 1.959963984540054**2 / (20 + 1.959963984540054**2)
    assert unanimous.value == float(value)
    assert unanimous.high - unanimous.low == pytest.approx(width)


def test_a_single_task_tells_next_to_nothing():
    alone = rate([True, False] * 50, ["t"] * 100)
    assert alone.high - alone.low > 0.8
    average = mean([1.0, 2.0], ["t", "t"])
    assert (average.value, average.low, average.high) == (1.5, None, None)


def test_all_or_nothing_tasks_widen_the_interval():
    clusters = [str(i // 10) for i in range(300)]
    scattered = rate([i % 10 < 5 for i in range(300)], clusters)
    clustered = rate([i // 10 < 15 for i in range(300)], clusters)
    assert clustered.value == scattered.value == 0.5
    assert clustered.high - clustered.low > 2 * (scattered.high - scattered.low)


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.sampled_from("abcdefg"))))
def test_intervals_hold_their_estimate(rows):
    found = rate([value for value, _ in rows], [cluster for _, cluster in rows])
    assert found.n == sum(value is not None for value, _ in rows)
    if found.n:
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("tasks", [10, 40])
@pytest.mark.parametrize("p", [0.03, 0.2, 0.5])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_intervals_cover_the_truth(tasks: int, p: float, correlation: float):
    """Draw task rates from a beta distribution of the given correlation, answers from those."""
    generator = random.Random(17)
    trials, covered = 400, 0
    for _ in range(trials):
        values, clusters = [], []
        for task in range(tasks):
            q = p
            if correlation:
                spread = (1 - correlation) / correlation
                q = generator.betavariate(p * spread, (1 - p) * spread)
            size = generator.randint(4, 12)
            values += [generator.random() < q for _ in range(size)]
            clusters += [str(task)] * size
        found = rate(values, clusters)
        covered += found.low <= p <= found.high
    # 0.95, less about three binomial standard errors.
    assert covered / trials > 0.915


def test_mean_covers_the_truth_for_few_tasks():
    generator = random.Random(3)
    covered = 0
    for _ in range(1000):
        values, clusters = [], []
        for task in range(8):
            centre = generator.gauss(2.0, 1.0)
            values += [generator.gauss(centre, 1.0) for _ in range(5)]
            clusters += [str(task)] * 5
        found = mean(values, clusters)
        covered += found.low <= 2.0 <= found.high
    assert 0.93 < covered / 1000 < 0.97


def test_mean_of_two_tasks_uses_the_t_quantile():
    # Task means 0 and 1: standard error 0.5, one degree of freedom, 12.706 (any t table).
    found = mean([0.0, 1.0], ["a", "b"])
    assert found.high - found.value == pytest.approx(12.706 * 0.5, rel=1e-3)
    wider = mean([0.0, 1.0, 2.0, 3.0], ["a", "b", "c", "d"])
    error = math.sqrt(5 / 3 / 4)
    assert wider.high - wider.value == pytest.approx(3.182 * error, rel=0.01)
