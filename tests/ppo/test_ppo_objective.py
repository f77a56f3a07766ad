"""Every setting of the objective does what it says, against references in float64."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ppo_references import (
    ALL_SIX,
    LENGTH,
    NO_CLIPPING_OF_GRADIENTS,
    SETTINGS,
    LearnerOf,
    PromptsOf,
    assert_same_gradients,
    gradients_of_update,
    letters,
    naive_logprob_table,
    rollout_of,
    rows_of,
    with_settings,
)
from torch import Tensor

from cai.errors import CaiError
from cai.ppo import PPO
from cai.ppo.batch import Rollout
from cai.ppo.control import Control
from cai.ppo.math import (
    Moments,
    adapted_kl_coef,
    adapted_penalty,
    merged_moments,
)
from cai.ppo.objectives import PolicyTokens, kl_penalty
from cai.ppo.rollout import collect_rollout
from cai.ppo.update import policy_gradients, update


@pytest.mark.parametrize(
    ("gamma", "lam"), [(0.9, 0.0), (0.95, 0.7), (1.0, 1.0)], ids=["a2c", "a2c-gae", "reinforce"]
)
def test_a2c_and_reinforce_with_baseline_are_settings_of_the_same_update(
    gamma: float, lam: float, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """One step on the whole batch, no whitening: the actor-critic gradient and nothing else.

    γ = λ = 1 is REINFORCE with the critic as baseline: its reference is written with the return
    of the whole response and knows nothing of λ.
    """
    settings = with_settings(
        epochs=1,
        minibatches=1,
        whiten_advantages=False,
        value_clip_range=None,
        max_grad_norm=NO_CLIPPING_OF_GRADIENTS,
        gamma=gamma,
        lam=lam,
    )
    learner = learner_of("llama", settings)
    torch.nn.init.normal_(learner.critic.value_head.weight, std=0.1)
    with torch.no_grad():  # away from the reference, so that KL is part of the rewards
        for weight in learner.policy.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    rollout = rollout_of(learner, token_prompts("llama"))
    policy, critic = (copy.deepcopy(m).double() for m in (learner.policy, learner.critic))
    actor = baseline = torch.zeros((), dtype=torch.float64)
    for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        n = len(response)
        table = naive_logprob_table(policy, prompt, response, settings.temperature)
        logprobs = table[range(n), response]
        hidden = critic.backbone(torch.tensor([prompt + response]), use_cache=False)
        states = hidden.last_hidden_state[0, len(prompt) - 1 : len(prompt) + n - 1]
        values = critic.value_head(states).squeeze(-1)
        rewards = -settings.kl_coef * (logprobs.detach() - rollout.ref_logprobs_BT[i, :n].double())
        rewards[-1] += rollout.scores_B[i]
        v = [*values.detach(), 0.0]
        if lam == 1.0:
            targets = torch.stack([rewards[t:].sum() for t in range(n)])
        elif lam == 0.0:
            targets = torch.stack([rewards[t] + gamma * v[t + 1] for t in range(n)])
        else:
            deltas = [rewards[t] + gamma * v[t + 1] - v[t] for t in range(n)]
            gae = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
            targets = torch.stack(gae) + values.detach()
        actor = actor - (logprobs * (targets - values.detach())).sum()
        baseline = baseline + 0.5 * (values - targets).square().sum()
    tokens = int(rollout.episodes.response_lengths_B.sum())
    expected_policy = torch.autograd.grad(actor / tokens, list(policy.parameters()))
    expected_critic = torch.autograd.grad(baseline / tokens, list(critic.parameters()))
    got_policy, got_critic = gradients_of_update(learner, rollout, settings)
    assert_same_gradients(got_policy, expected_policy)
    assert_same_gradients(got_critic, expected_critic)


def test_the_penalised_objective_has_value_and_gradient_of_the_exact_kl_on_average() -> None:
    """Summed over the vocabulary with the old probabilities, the estimate is the KL itself."""
    generator = torch.Generator().manual_seed(0)
    old = torch.log_softmax(torch.randn(7, dtype=torch.float64, generator=generator), -1)
    logits = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    advantages = torch.randn(7, dtype=torch.float64, generator=generator)

    def expected() -> Tensor:
        new = torch.log_softmax(logits, -1)
        surrogate = (old.exp() * (new - old).exp() * advantages).sum()
        return -(surrogate - 3.0 * (old.exp() * (old - new)).sum())

    total = torch.zeros((), dtype=torch.float64)
    for token in range(7):  # each token as a batch of one, weighted by how often it is sampled
        tokens = PolicyTokens(
            torch.log_softmax(logits, -1)[token].reshape(1, 1),
            old[token].reshape(1, 1),
            advantages[token].reshape(1, 1),
            torch.ones(1, 1, dtype=torch.bool),
            token_count=1,
            penalty_coef=3.0,
        )
        result = kl_penalty(tokens)
        total = total + old[token].exp() * result.loss
    torch.testing.assert_close(total, expected())
    got = torch.autograd.grad(total, logits)
    torch.testing.assert_close(got, torch.autograd.grad(expected(), logits))


def test_the_penalty_coefficient_doubles_and_halves_around_its_target() -> None:
    """PPO paper, section 4: d < target / 1.5 halves it, d > 1.5 target doubles it."""
    assert adapted_penalty(1.0, 0.005, 0.01) == 0.5
    assert adapted_penalty(1.0, 0.0067, 0.01) == 1.0
    assert adapted_penalty(1.0, 0.0149, 0.01) == 1.0
    assert adapted_penalty(1.0, 0.0151, 0.01) == 2.0


def test_the_kl_penalty_objective_trains_and_adapts_its_coefficient(tmp_path: Path, tiny) -> None:
    def run(**changes: Any) -> list[dict[str, float]]:
        settings = with_settings(batch_size=4, no_eos_reward=None, **changes)
        records: list[dict[str, float]] = []
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        PPO(tiny("llama"), letters, settings).train(["How?"], folder, on_step=records.append)
        return records

    tight = run(objective="kl_penalty", penalty_target=1e-6, penalty_coef=4.0)
    assert [record["policy/penalty_coef"] for record in tight] == [4, 8, 16, 32]
    loose = run(objective="kl_penalty", penalty_target=100.0, penalty_coef=4.0)
    assert [record["policy/penalty_coef"] for record in loose] == [4, 2, 1, 0.5]
    assert tight[0]["policy/kl_moved"] > 0
    free, held = (
        run(objective="kl_penalty", penalty_coef=coef, learning_rate=1e-4, epochs=10, steps=1)
        for coef in (1e-6, 1e3)
    )
    assert held[0]["policy/kl_moved"] < 0.5 * free[0]["policy/kl_moved"]
    assert "policy/penalty_coef" not in run()[0]


def test_fact_22_the_adaptive_kl_controller_clips_its_error_to_a_fifth() -> None:
    """Ziegler et al. 2019, section 2.2, by hand."""
    assert adapted_kl_coef(0.1, 6.0, 6.0, 64, 10000) == pytest.approx(0.1)
    assert adapted_kl_coef(0.1, 6.6, 6.0, 64, 10000) == pytest.approx(0.1 * (1 + 0.1 * 0.0064))
    assert adapted_kl_coef(0.1, 600.0, 6.0, 64, 10000) == pytest.approx(0.1 * (1 + 0.2 * 0.0064))
    assert adapted_kl_coef(0.1, -3.0, 6.0, 64, 10000) == pytest.approx(0.1 * (1 - 0.2 * 0.0064))


def test_fact_22_kl_is_summed_per_response_as_its_target_is(tmp_path: Path, tiny) -> None:
    """The controller's input is `objective/kl`, a sum over tokens: β moves as that says."""
    settings = with_settings(
        batch_size=4, no_eos_reward=None, kl_coef=0.1, kl_target=0.5, kl_horizon=8
    )
    records: list[dict[str, float]] = []
    PPO(tiny("llama"), letters, settings).train(["How?"], tmp_path, on_step=records.append)
    coef = 0.1
    for record in records:
        assert record["objective/kl_coef"] == pytest.approx(coef)
        expected = -coef * record["objective/kl"]
        assert record["objective/non_score_reward"] == pytest.approx(expected)
        error = min(max(record["objective/kl"] / 0.5 - 1, -0.2), 0.2)
        coef *= 1 + error * 4 / 8
    assert len({record["objective/kl_coef"] for record in records}) > 1
    with pytest.raises(CaiError, match="stays at 0"):
        PPO(tiny("llama"), letters, settings.model_copy(update={"kl_coef": 0.0}))


def test_beta_of_the_moment_is_what_rewards_are_made_with(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    settings = with_settings(whiten_advantages=False, epochs=1, minibatches=1)
    gradients: list[list[Tensor]] = []
    for coef, kl_coef in ((0.0, 5.0), (5.0, 0.0), (5.0, 5.0)):
        learner = learner_of("llama", settings.model_copy(update={"kl_coef": kl_coef}))
        with torch.no_grad():
            learner.policy.lm_head.weight.mul_(1.1)
        rollout = rollout_of(learner, token_prompts("llama"))
        learner.control.kl_coef = coef
        gradients.append(gradients_of_update(learner, rollout, settings)[0])
    same, other = gradients[1:], gradients[0]
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(same[0], other, strict=True))


numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9)


@given(st.lists(numbers, min_size=1, max_size=5))
@hypothesis_settings(max_examples=60, deadline=None)
def test_running_moments_are_those_of_all_numbers_together(batches: list[list[float]]) -> None:
    moments = Moments(0, 0.0, 0.0)
    for batch in batches:
        moments = merged_moments(moments, torch.tensor(batch))
    everything = torch.tensor([x for batch in batches for x in batch], dtype=torch.float64)
    assert moments.seen == len(everything)
    assert moments.mean == pytest.approx(everything.mean().item(), abs=1e-4)
    assert moments.variance == pytest.approx(everything.var(correction=0).item(), abs=1e-3)


def test_normalised_rewards_do_not_depend_on_the_unit_of_the_score(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    scores: list[Tensor] = []
    settings = with_settings(normalise_rewards=True, no_eos_reward=-9.0)
    for scale in (1.0, 1000.0):
        learner = learner_of("llama", settings)
        reward = copy.copy(LENGTH)
        reward.scorers = {"test": (LENGTH.scorers["test"][0], scale)}
        prompts = token_prompts("llama")
        rollouts = [
            collect_rollout(learner, prompts, reward, settings, seed=3, step=s) for s in (0, 1)
        ]
        scores.append(torch.stack([rollout.scores_B for rollout in rollouts]))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    ended = torch.stack([rollout.ended_B for rollout in rollouts])
    assert (scores[0][~ended] == -9.0).all()
    first = scores[0][0][ended[0]]
    assert first.mean().abs() < 1e-5
    assert first.var(correction=0) == pytest.approx(1, abs=1e-4)
    again = collect_rollout(
        learner, prompts, reward, settings, seed=3, step=1, training=False
    )  # leaves the scale alone
    assert again.scores_B.max() > 10


def test_whitening_can_be_left_out(learner_of: LearnerOf, token_prompts: PromptsOf) -> None:
    learner = learner_of("llama", SETTINGS)
    rollout = rollout_of(learner, token_prompts("llama"))
    big = Rollout(*(getattr(rollout, n) for n in rollout.__dataclass_fields__))
    object.__setattr__(big, "scores_B", rollout.scores_B * 1000)
    norms: dict[bool, list[float]] = {}
    for whiten in (True, False):
        settings = with_settings(whiten_advantages=whiten, epochs=1, minibatches=1)
        norms[whiten] = [
            update(learner_of("llama", settings), r, settings, seed=0, step=0)["policy/grad_norm"]
            for r in (rollout, big)
        ]
    assert norms[True][1] == pytest.approx(norms[True][0], rel=0.02)
    assert norms[False][1] == pytest.approx(1000 * norms[False][0], rel=0.02)


def test_values_can_move_freely(learner_of: LearnerOf, token_prompts: PromptsOf) -> None:
    fractions: list[float] = []
    for value_clip_range in (1e-4, None):
        settings = with_settings(value_clip_range=value_clip_range, epochs=3)
        learner = learner_of("llama", settings)
        rollout = rollout_of(learner, token_prompts("llama"))
        fractions.append(update(learner, rollout, settings, seed=0, step=0)["val/clipfrac_avg"])
    assert fractions[0] > 0
    assert fractions[1] == 0


def test_control_survives_a_checkpoint() -> None:
    settings = with_settings(kl_target=1.0, normalise_rewards=True)
    control = Control.start(settings)
    control.normalise(torch.tensor([1.0, 2.0, 6.0]))
    control.adapt(settings, kl=9.0, moved=1.0)
    other = Control.start(settings)
    assert other != control
    other.load_state_dict(control.state_dict())
    assert other == control
    assert other.scores.mean == pytest.approx(3.0)
    assert other.scores.variance == pytest.approx(14 / 3)
    assert other.kl_coef == pytest.approx(settings.kl_coef * (1 + 0.2 * 6 / 10000))
    assert other.penalty_coef == 2.0


def test_the_policy_gradient_function_reads_the_objective(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Away from the old policy the two objectives differ: only one of them clips."""
    learner = learner_of("llama", SETTINGS)
    rollout = rollout_of(learner, token_prompts("llama"))
    with torch.no_grad():
        learner.policy.lm_head.weight.mul_(1.3)
    ones = torch.ones_like(rollout.logprobs_BT)
    clip, penalty = (
        policy_gradients(learner, rollout, ones, ALL_SIX, with_settings(objective=objective))
        for objective in ("clip", "kl_penalty")
    )
    assert clip["policy/clipfrac_avg"] > 0
    assert penalty["policy/clipfrac_avg"] == 0
    assert clip["policy/approxkl_avg"] == pytest.approx(penalty["policy/approxkl_avg"])
    mask = rollout.episodes.mask_BT
    with torch.no_grad():
        from cai.ppo.forward import response_logprobs

        new, _ = response_logprobs(learner.policy, rollout.episodes, SETTINGS.temperature)
    log_ratio = (new - rollout.logprobs_BT)[mask].double()
    expected = (-log_ratio.exp() + 1.0 * (log_ratio.exp() - 1 - log_ratio)).mean()
    assert penalty["loss/policy_avg"] == pytest.approx(expected.item(), abs=1e-4)
    assert math.isfinite(clip["loss/policy_avg"])
