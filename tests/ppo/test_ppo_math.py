"""The arithmetic of PPO against naive float64 references that are written here, loop by loop."""

from __future__ import annotations

import math
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cai.ppo import math as ppo_math
from cai.ppo.advantages import RewardedEpisodes, gae
from cai.ppo.math import (
    explained_variance,
    kl_shaped_rewards,
    masked_mean,
    masked_whiten,
    token_logprobs,
    token_softmax,
    value_loss,
)
from cai.ppo.objectives import OBJECTIVES, PolicyLoss, PolicyTokens, clip

Rows = list[list[float]]


def mask_of(lengths: list[int], width: int) -> Tensor:
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


@st.composite
def ragged(draw: st.DrawFn, count: int) -> tuple[list[int], list[Rows]]:
    """Lengths of a padded batch and `count` arrays of numbers of its padded shape."""
    width = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, width), min_size=1, max_size=5))
    number = st.floats(-10, 10, width=32)
    row = st.lists(number, min_size=width, max_size=width)
    rows = st.lists(row, min_size=len(lengths), max_size=len(lengths))
    return lengths, [draw(rows) for _ in range(count)]


def naive_gae(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """The double sum of the definition, for one episode without padding."""
    n = len(rewards)
    deltas = [
        rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)
    ]
    advantages = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def test_masked_mean_ignores_padding_even_nan() -> None:
    x = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, math.nan]])
    assert masked_mean(x, mask_of([2, 1], 3)).item() == pytest.approx(3.0)


# Fact 9: the score lands on the last real token, in padded and in full rows alike.
def test_fact_09_score_lands_on_the_last_real_token() -> None:
    mask = mask_of([1, 3, 4], 4)
    zeros = torch.zeros(3, 4)
    rewards = kl_shaped_rewards(torch.tensor([5.0, 6.0, 7.0]), zeros, zeros, mask, 0.1)
    expected = [[5.0, 0, 0, 0], [0, 0, 6.0, 0], [0, 0, 0, 7.0]]
    assert rewards.tolist() == expected


# Fact 12: -β (logp - ref_logp) per token, 0 where policy equals reference.
def test_fact_12_kl_reward_per_token() -> None:
    mask = mask_of([3, 2], 3)
    logp = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 99.0]])
    ref = torch.tensor([[-1.0, -1.5, -1.0], [-3.0, -1.0, math.nan]])
    rewards = kl_shaped_rewards(torch.tensor([2.0, -1.0]), logp, ref, mask, 0.1)
    expected = [[0.0, 0.05, 2.0 - 0.05], [-0.2, -1.0, 0.0]]
    torch.testing.assert_close(rewards, torch.tensor(expected))


# Facts 13 and 14: the O(T²) double sum for any γ, λ; returns are advantage + value.
@given(batch=ragged(2), gamma=st.floats(0, 1), lam=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_fact_13_gae_equals_the_double_sum(
    batch: tuple[list[int], list[Rows]], gamma: float, lam: float
) -> None:
    lengths, (rewards, values) = batch
    mask = mask_of(lengths, len(rewards[0]))
    r, v = (torch.tensor(x, dtype=torch.float64) for x in (rewards, values))
    advantages, returns = gae(RewardedEpisodes(r, mask, v, gamma, lam))
    for i, n in enumerate(lengths):
        want_advantages, want_returns = naive_gae(rewards[i][:n], values[i][:n], gamma, lam)
        assert advantages[i, :n].tolist() == pytest.approx(want_advantages, abs=1e-9)
        assert returns[i, :n].tolist() == pytest.approx(want_returns, abs=1e-9)
        assert not advantages[i, n:].any()
        assert not returns[i, n:].any()


def test_fact_13_gamma_and_lambda_one_give_reward_to_go_minus_value() -> None:
    rewards = torch.tensor([[1.0, -2.0, 4.0, 0.0]])
    values = torch.tensor([[0.5, 0.25, -1.0, 0.0]])
    advantages, _ = gae(RewardedEpisodes(rewards, mask_of([3], 4), values, 1.0, 1.0))
    assert advantages.tolist() == [[2.5, 1.75, 5.0, 0.0]]


@given(batch=ragged(3))
@settings(max_examples=100, deadline=None)
def test_fact_13_padded_values_change_nothing(batch: tuple[list[int], list[Rows]]) -> None:
    lengths, (rewards, values, noise) = batch
    mask = mask_of(lengths, len(rewards[0]))
    r, v, z = (torch.tensor(x, dtype=torch.float64) for x in (rewards, values, noise))
    clean = gae(RewardedEpisodes(r, mask, v, 0.9, 0.8))
    noisy = torch.where(mask, r, z), mask, torch.where(mask, v, z * math.nan)
    dirty = gae(RewardedEpisodes(*noisy, 0.9, 0.8))
    assert torch.equal(clean[0], dirty[0])
    assert torch.equal(clean[1], dirty[1])


def test_fact_14_returns_come_before_whitening() -> None:
    rewards, values = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, -1.0]])
    advantages, returns = gae(RewardedEpisodes(rewards, mask_of([2], 2), values, 1.0, 0.5))
    assert advantages.tolist() == [[0.0, 4.0]]  # δ = (0 - 1 - 1, 3 + 1); -2 + 0.5·4 = 0
    assert returns.tolist() == [[1.0, 3.0]]


# Fact 15: masked mean 0 and variance 1.
@given(batch=ragged(1))
@settings(max_examples=200, deadline=None)
def test_fact_15_whitened_values_have_mean_zero_and_variance_one(
    batch: tuple[list[int], list[Rows]],
) -> None:
    lengths, (rows,) = batch
    x = torch.tensor(rows, dtype=torch.float64)
    whitened = masked_whiten(x, mask_of(lengths, x.shape[1]))
    real = [rows[i][t] for i, n in enumerate(lengths) for t in range(n)]
    mean = sum(real) / len(real)
    variance = sum((value - mean) ** 2 for value in real) / len(real)
    got = [whitened[i, t].item() for i, n in enumerate(lengths) for t in range(n)]
    scale = 1 / math.sqrt(variance + 1e-8)
    assert got == pytest.approx([(value - mean) * scale for value in real], abs=1e-6)
    assert sum(got) / len(got) == pytest.approx(0, abs=1e-6)
    if variance > 1e-2:
        assert sum(g * g for g in got) / len(got) == pytest.approx(1, abs=1e-5)
    assert all(not whitened[i, n:].any() for i, n in enumerate(lengths))


def test_fact_15_padding_changes_nothing_and_equal_values_become_zero() -> None:
    x = torch.tensor([[2.0, 4.0, math.nan], [9.0, math.inf, -math.inf]])
    whitened = masked_whiten(x, mask_of([2, 1], 3))
    alone = masked_whiten(torch.tensor([[2.0, 4.0, 9.0]]), mask_of([3], 3))
    torch.testing.assert_close(whitened[mask_of([2, 1], 3)], alone[0])
    assert not masked_whiten(torch.full((2, 2), 3.0), mask_of([2, 2], 2)).any()


def naive_policy_loss(logp: Rows, old: Rows, adv: Rows, lengths: list[int], clip: float) -> float:
    total = 0.0
    for i, n in enumerate(lengths):
        for t in range(n):
            ratio = math.exp(logp[i][t] - old[i][t])
            clipped = min(max(ratio, 1 - clip), 1 + clip)
            total -= min(ratio * adv[i][t], clipped * adv[i][t])
    return total / sum(lengths)


@given(batch=ragged(3))
@settings(max_examples=200, deadline=None)
def test_policy_loss_equals_the_naive_sum(batch: tuple[list[int], list[Rows]]) -> None:
    lengths, (a, b, advantages) = batch
    logp = [[x / 10 for x in row] for row in a]
    old = [[x / 10 for x in row] for row in b]
    mask = mask_of(lengths, len(logp[0]))
    tensors = (torch.tensor(x, dtype=torch.float64) for x in (logp, old, advantages))
    result = clip(PolicyTokens(*tensors, mask, sum(lengths), clip_range=0.2))
    assert result.loss.item() == pytest.approx(
        naive_policy_loss(logp, old, advantages, lengths, 0.2), abs=1e-9
    )
    ratios = [math.exp(logp[i][t] - old[i][t]) for i, n in enumerate(lengths) for t in range(n)]
    kl = sum(r - 1 - math.log(r) for r in ratios) / len(ratios)
    assert result.approx_kl.item() == pytest.approx(kl, abs=1e-9)
    assert result.approx_kl.item() >= 0


def test_policy_loss_clips_only_what_would_go_further() -> None:
    """Ratio 2 and 0.5 under both signs of the advantage: four cases, worked by hand."""
    logp = torch.tensor([[2.0, 0.5, 2.0, 0.5]]).log().requires_grad_()
    adv = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    result = clip(PolicyTokens(logp, torch.zeros(1, 4), adv, mask, 4, clip_range=0.2))
    assert result.loss.item() == pytest.approx((-1.2 - 0.5 + 2.0 + 0.8) / 4)
    assert result.clip_fraction.item() == 1.0
    result.loss.backward()
    expected = [[0.0, -0.5 / 4, 2.0 / 4, 0.0]]  # d loss / d logp = -ratio · A where not clipped
    torch.testing.assert_close(logp.grad, torch.tensor(expected))


# Fact 17: 0.5·max(unclipped, clipped), clipped around the old values.
@given(batch=ragged(3))
@settings(max_examples=200, deadline=None)
def test_fact_17_value_loss_is_half_the_larger_error(batch: tuple[list[int], list[Rows]]) -> None:
    lengths, (values, old, returns) = batch
    mask = mask_of(lengths, len(values[0]))
    tensors = (torch.tensor(x, dtype=torch.float64) for x in (values, old, returns))
    result = value_loss(*tensors, mask, clip_range=0.3, token_count=sum(lengths))
    total, clipped_count = 0.0, 0
    for i, n in enumerate(lengths):
        for t in range(n):
            v, o, r = values[i][t], old[i][t], returns[i][t]
            clipped = min(max(v, o - 0.3), o + 0.3)
            total += 0.5 * max((v - r) ** 2, (clipped - r) ** 2)
            clipped_count += (clipped - r) ** 2 > (v - r) ** 2 + 1e-9
    assert result.loss.item() == pytest.approx(total / sum(lengths), rel=1e-9, abs=1e-9)
    assert result.clip_fraction.item() >= clipped_count / sum(lengths) - 1e-6


# Fact 16, the arithmetic half: parts with the whole's token count add up to the whole.
@given(batch=ragged(3), data=st.data())
@settings(max_examples=100, deadline=None)
def test_fact_16_losses_of_parts_add_up(
    batch: tuple[list[int], list[Rows]], data: st.DataObject
) -> None:
    lengths, arrays = batch
    x, y, z = (torch.tensor(a, dtype=torch.float64) / 10 for a in arrays)
    mask, count = mask_of(lengths, x.shape[1]), sum(lengths)
    cut = data.draw(st.integers(0, len(lengths)))

    def objective(*arguments: Any, clip_range: float, token_count: int, name: str) -> PolicyLoss:
        tokens = PolicyTokens(*arguments, token_count, clip_range=clip_range, penalty_coef=0.5)
        return OBJECTIVES[name](tokens)

    for function in (value_loss, *(partial(objective, name=name) for name in OBJECTIVES)):
        whole = function(x, y, z, mask, clip_range=0.2, token_count=count)
        parts = [
            function(x[s], y[s], z[s], mask[s], clip_range=0.2, token_count=count)
            for s in (slice(0, cut), slice(cut, None))
        ]
        for name in whole._fields:
            summed = sum(getattr(part, name) for part in parts)
            torch.testing.assert_close(getattr(whole, name), summed, rtol=0, atol=1e-9)


# Fact 21: entropy is never negative, and right.
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_fact_21_entropy_is_never_negative(logits: list[float]) -> None:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    probabilities = [w / sum(weights) for w in weights]
    naive = -sum(p * math.log(p) for p in probabilities if p > 0)
    entropy = token_softmax(torch.tensor([logits]), torch.tensor([0]))[1].item()
    assert entropy >= 0
    assert entropy == pytest.approx(naive, abs=1e-4)


def test_fact_21_entropy_of_impossible_tokens_is_finite() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    logprobs, entropy = token_softmax(logits, torch.tensor([2]))
    assert entropy.item() == pytest.approx(math.log(2))
    assert logprobs.item() == pytest.approx(-math.log(2))


@given(st.integers(1, 40), st.integers(2, 3000), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_token_softmax_is_that_of_torch_in_float64(rows: int, vocabulary: int, seed: int) -> None:
    """Values and gradient, in one block and in several; the logits' memory becomes the gradient."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, 4, generator=generator)
    head = (3 * torch.randn(vocabulary, 4, generator=generator)).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    with mock.patch.object(ppo_math, "_CACHED", 8192):
        logprobs, entropies = token_softmax(states @ head.T, targets)
    (logprobs * weights).sum().backward()
    exact = head.detach().double().requires_grad_()
    table = torch.log_softmax(states.double() @ exact.T, dim=-1)
    expected = table[torch.arange(rows), targets]
    (expected * weights).sum().backward()
    assert head.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        entropies.double(), -(table.exp() * table).sum(-1).detach(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(head.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)


def test_token_softmax_refuses_logits_that_another_backward_pass_needs() -> None:
    logits = torch.randn(2, 5, requires_grad=True).exp()  # exp keeps its result
    logprobs, _ = token_softmax(logits, torch.tensor([1, 2]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def test_explained_variance_of_perfect_constant_and_flat() -> None:
    returns, mask = torch.tensor([[1.0, 3.0, 99.0]]), mask_of([2], 3)
    assert explained_variance(returns, returns, mask).item() == 1.0
    assert explained_variance(torch.zeros(1, 3), returns, mask).item() == 0.0
    assert not explained_variance(returns, torch.ones(1, 3), mask).isfinite()


# Fact 4, the arithmetic half: logits, not log-probabilities, are divided by the temperature.
@pytest.mark.parametrize("max_logits", [1, 14, 2**20])
def test_fact_04_token_logprobs_divide_logits_by_the_temperature(max_logits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 3, generator=generator)
    weight = torch.randn(7, 3, generator=generator)
    targets = torch.tensor([0, 6, 3, 3, 1])
    got, entropy = token_logprobs(
        hidden, targets, lambda h: h @ weight.T, temperature=0.5, max_logits=max_logits
    )
    for i, target in enumerate(targets.tolist()):
        logits = [
            sum(h * w for h, w in zip(hidden[i].tolist(), row, strict=True)) / 0.5
            for row in weight.tolist()
        ]
        total = math.log(sum(math.exp(x) for x in logits))
        assert got[i].item() == pytest.approx(logits[target] - total, abs=1e-5)
        naive = -sum(math.exp(x - total) * (x - total) for x in logits)
        assert entropy[i].item() == pytest.approx(naive, abs=1e-5)


def test_token_logprobs_in_chunks_have_the_gradient_of_one_chunk() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(6, 4, generator=generator)
    start = torch.randn(9, 4, generator=generator)
    targets = torch.tensor([1, 2, 3, 4, 5, 8])
    gradients = []
    for max_logits in (9 * 2, 2**20):
        weight, states = start.clone().requires_grad_(), hidden.clone().requires_grad_()
        logprobs, _ = token_logprobs(
            states, targets, lambda h, w=weight: h @ w.T, temperature=1.0, max_logits=max_logits
        )
        (logprobs * torch.arange(6.0)).sum().backward()
        gradients.append((weight.grad, states.grad))
    torch.testing.assert_close(gradients[0], gradients[1])
