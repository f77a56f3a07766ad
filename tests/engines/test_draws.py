"""The uniforms and the inverse CDF."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.engines.draws import as_seeds, inverse_cdf, uniforms

MASK = 2**64 - 1


def splitmix64_finaliser(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference_uniform(seed, position):
    """Draw with Python's own integers: output `position` of a SplitMix64 seeded by a hash."""
    state = splitmix64_finaliser((seed + 0x9E3779B97F4A7C15) & MASK)
    for _ in range(position + 1):
        state = (state + 0x9E3779B97F4A7C15) & MASK
    return (splitmix64_finaliser(state) >> 40) / 2**24


def draw(seeds, positions):
    return uniforms(as_seeds([int(seed) for seed in seeds]), np.array(positions))


@given(st.lists(st.tuples(st.integers(-(2**70), 2**70), st.integers(0, 300)), max_size=8))
@settings(deadline=None)
def test_uniforms_are_splitmix64_outputs(pairs):
    got = draw([seed for seed, _ in pairs], [position for _, position in pairs])
    assert got.tolist() == [reference_uniform(seed, position) for seed, position in pairs]


def test_first_output_of_a_known_splitmix64_stream():
    # Published test vector: a SplitMix64 with state 1234567 outputs 6457827717110365317 first.
    assert splitmix64_finaliser((1234567 + 0x9E3779B97F4A7C15) & MASK) == 6457827717110365317


@pytest.mark.parametrize("by", ["seed", "position"])
def test_uniforms_are_uniform_and_uncorrelated(by):
    n, bins = 64_000, 64
    order, zeros = np.arange(n), np.zeros(n, dtype=np.int64)
    got = draw(order, zeros) if by == "seed" else draw(zeros, order)
    assert got.min() >= 0
    assert got.max() < 1
    counts = np.histogram(got, bins, (0, 1))[0]
    chi_square = ((counts - n / bins) ** 2 / (n / bins)).sum()
    assert chi_square < 63 + 5 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(got[:-1], got[1:])[0, 1]) < 5 / np.sqrt(n)


def test_draws_follow_a_known_distribution():
    probabilities = np.array([0.5, 0.0, 0.25, 0.2, 0.0, 0.05, 0.0])
    n = 40_000
    uniform = torch.from_numpy(draw(np.arange(n), np.full(n, 7)))
    tokens = inverse_cdf(torch.tensor(probabilities, dtype=torch.float32).repeat(n, 1), uniform)
    counts = np.bincount(tokens.numpy(), minlength=7)
    assert counts[probabilities == 0].sum() == 0
    expected = n * probabilities[probabilities > 0]
    chi_square = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 3 + 5 * np.sqrt(2 * 3)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("total", [1 - 3e-7, 1.0, 1 + 3e-7])
def test_a_token_of_probability_zero_is_never_chosen(uniform, total):
    probabilities = torch.tensor([[0.0, 0.4, 0.0, 0.6, 0.0, 0.0]]) * total
    token = int(inverse_cdf(probabilities, torch.tensor([uniform])))
    assert token == (1 if uniform == 0 else 3)


@given(seed=st.integers(0, 10_000), size=st.integers(2, 2000), zeros=st.floats(0, 0.95))
@settings(max_examples=50, deadline=None)
def test_the_inverse_cdf_agrees_with_float64(seed, size, zeros):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(size, 0.3), 16).astype(np.float32)
    probabilities[rng.random(probabilities.shape) < zeros] = 0
    probabilities[:, rng.integers(size)] += np.float32(1e-3)
    uniform = rng.integers(0, 2**24, 16) / 2**24
    tokens = inverse_cdf(
        torch.from_numpy(probabilities), torch.tensor(uniform, dtype=torch.float32)
    ).numpy()
    cdf = probabilities.astype(np.float64).cumsum(1)
    target = uniform * cdf[:, -1]
    rows = np.arange(16)
    above = cdf[rows, tokens]
    below = above - probabilities[rows, tokens]
    assert (probabilities[rows, tokens] > 0).all()
    assert (below - 1e-6 <= target).all()
    assert (target <= above + 1e-6).all()
