"""What a right PPO satisfies from the update on, on tiny models of four families."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ppo_references import (
    ALL_SIX,
    LENGTH,
    SETTINGS,
    LearnerOf,
    PromptsOf,
    rollout_of,
    rows_of,
)
from tiny_models import FAMILIES
from torch import Tensor

from cai.data.conversation import Prompt, user
from cai.models.preference_model import PreferenceModel
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.learner import Learner
from cai.ppo.math import linear_decay
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout, has_ended, sample, score_episodes
from cai.ppo.update import policy_gradients, update, value_gradients
from cai.settings import PPOSettings


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, None])
def test_fact_16_gradients_do_not_depend_on_micro_batches(
    family: str, micro_batch_size: int | None, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    torch.nn.init.normal_(learner.critic.value_head.weight, std=0.1)
    rollout = rollout_of(learner, token_prompts(family))
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(rollout.logprobs_BT.shape, generator=generator)
    gradients: list[list[Tensor]] = []
    metrics: list[list[Tensor]] = []
    for size in (6, micro_batch_size):
        settings = SETTINGS.model_copy(update={"micro_batch_size": size})
        learner.policy.zero_grad()
        learner.critic.zero_grad()
        metrics.append(
            [
                *policy_gradients(learner, rollout, targets, ALL_SIX, settings).values(),
                *value_gradients(learner, rollout, targets, ALL_SIX, settings).values(),
            ]
        )
        parameters = [*learner.policy.parameters(), *learner.critic.parameters()]
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    torch.testing.assert_close(metrics[0], metrics[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_fact_16_the_gradient_is_that_of_the_mean_over_all_tokens(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """With ratio 1 the gradient is that of -Σ A log π / tokens: once more, naively."""
    learner = learner_of("llama", SETTINGS)
    rollout = rollout_of(learner, token_prompts("llama"))
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(rollout.logprobs_BT.shape, generator=generator)
    policy_gradients(learner, rollout, advantages, ALL_SIX, SETTINGS)
    model = copy.deepcopy(learner.reference).requires_grad_(True).double()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
        table = torch.log_softmax(logits / 0.7, dim=-1)
        for t, token in enumerate(response):
            total = total - advantages[i, t].double() * table[len(prompt) - 1 + t, token]
            count += 1
    (total / count).backward()
    for ours, naive in zip(learner.policy.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), naive.grad, rtol=1e-2, atol=1e-5)


def test_fact_18_the_critic_starts_as_the_preference_model_with_a_zero_head(
    family: str,
    learner_of: LearnerOf,
    tiny_preference: Callable[[str], Any],
    token_prompts: PromptsOf,
) -> None:
    learner = learner_of(family, SETTINGS)
    preference = PreferenceModel.load(tiny_preference(family), device="cpu").model.base_model
    theirs = preference.state_dict()
    assert learner.critic.backbone.state_dict().keys() == theirs.keys()
    for name, weight in learner.critic.backbone.state_dict().items():
        assert torch.equal(weight, theirs[name])
    rollout = rollout_of(learner, token_prompts(family))
    assert not rollout.values_BT.any()
    metrics = update(learner, rollout, SETTINGS, seed=0, step=0)
    assert metrics["val/grad_norm"] > 0
    assert rollout_of(learner, token_prompts(family)).values_BT.any()


def test_fact_18_policy_and_critic_share_no_weights(learner_of: LearnerOf) -> None:
    learner = learner_of("llama", SETTINGS)
    models = (learner.policy, learner.reference, learner.critic)
    pointers = [p.data_ptr() for model in models for p in model.parameters()]
    assert len(pointers) == len(set(pointers))


def test_fact_24_sampled_ids_and_text_get_the_same_preference_score(
    family: str, learner_of: LearnerOf, tiny_preference: Callable[[str], Any]
) -> None:
    learner = learner_of(family, SETTINGS)
    preference = PreferenceModel.load(tiny_preference(family), device="cpu")
    text = "I will not help with that."
    ids = learner.chat.completion_ids(text)
    prompts = [learner.chat.prompt_ids(Prompt(user("How?")))]
    episodes = Episodes.from_lists(
        prompts, [ids], pad_id=learner.chat.pad_id, device=torch.device("cpu")
    )
    ended = has_ended(episodes, learner.chat.stop_ids)
    reward = Reward({"preference": (preference, 1.0)})
    asked = [TokenPrompt(tuple(prompts[0]))]
    scores, *_ = score_episodes(reward, asked, episodes, ended, SETTINGS)
    assert ended.all()
    assert scores.tolist() == pytest.approx(preference.score([(user("How?"), text)]), abs=1e-5)


def test_fact_25_a_response_depends_on_seed_step_and_place_alone(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    prompts = token_prompts(family)
    drawn = sample(learner, prompts, SETTINGS, seed=3, step=0)[0].sequences()
    fewer = sample(learner, prompts[:2], SETTINGS, seed=3, step=0)[0].sequences()
    assert fewer == drawn[:2]
    tight = copy.copy(learner)
    tight.max_batch_tokens = 1
    assert sample(tight, prompts, SETTINGS, seed=3, step=0)[0].sequences() == drawn
    assert sample(learner, prompts, SETTINGS, seed=3, step=1)[0].sequences() != drawn
    assert sample(learner, prompts, SETTINGS, seed=4, step=0)[0].sequences() != drawn
    twins = sample(learner, [prompts[0]] * 2, SETTINGS, seed=3, step=0)[0].sequences()
    assert twins[0] != twins[1]


def test_fact_25_learning_rates_end_where_they_say(learner_of: LearnerOf) -> None:
    assert [linear_decay(step, 5, 0.2) for step in range(5)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, 0.2]
    )
    assert linear_decay(0, 1, 0.2) == 1.0
    settings = SETTINGS.model_copy(update={"critic_learning_rate": 5e-3})
    learner = learner_of("llama", settings)
    learner.set_learning_rates(settings, 3)
    assert learner.policy_optimizer.inner.param_groups[0]["lr"] == pytest.approx(2e-4)
    assert learner.critic_optimizer.inner.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert learner.policy_optimizer.inner.param_groups[0]["eps"] == 1e-8


def test_fact_26_the_same_seed_gives_the_same_weights_to_the_bit(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    prompts = token_prompts("llama")

    def train(seed: int) -> list[Tensor]:
        learner = learner_of("llama", SETTINGS)
        for step in range(2):
            rollout = collect_rollout(learner, prompts, LENGTH, SETTINGS, seed=seed, step=step)
            update(learner, rollout, SETTINGS, seed=seed, step=step)
        return [*learner.policy.parameters(), *learner.critic.parameters()]

    first, second, other = train(1), train(1), train(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_padding_of_a_rollout_reaches_no_gradient(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """NaN wherever a rollout is padded leaves metrics and weights as they were."""
    weights: list[list[Tensor]] = []
    for fill in (0.0, float("nan")):
        learner = learner_of("llama", SETTINGS)
        clean = rollout_of(learner, token_prompts("llama"))
        mask = clean.episodes.mask_BT
        assert not mask.all()
        dirty = Rollout(
            clean.episodes,
            *(
                x.masked_fill(~mask, fill)
                for x in (clean.logprobs_BT, clean.ref_logprobs_BT, clean.values_BT)
            ),
            clean.scores_B,
            clean.ended_B,
        )
        update(learner, dirty, SETTINGS, seed=0, step=0)
        weights.append([*learner.policy.parameters(), *learner.critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def naive_targets(rollout: Rollout, settings: PPOSettings) -> tuple[list[Tensor], list[Tensor]]:
    """Whitened advantages and returns of each episode, float64, straight from the definitions."""
    advantages: list[Tensor] = []
    returns: list[Tensor] = []
    for i, n in enumerate(rollout.episodes.response_lengths_B.tolist()):
        logp, ref, values = (
            x[i, :n].double()
            for x in (rollout.logprobs_BT, rollout.ref_logprobs_BT, rollout.values_BT)
        )
        rewards = -settings.kl_coef * (logp - ref)
        rewards[-1] += rollout.scores_B[i]
        after = torch.cat([values[1:], torch.zeros(1)])
        deltas = rewards + settings.gamma * after - values
        decay = settings.gamma * settings.lam
        advantages.append(
            torch.stack([sum(decay ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)])
        )
        returns.append(advantages[-1] + values)
    everything = torch.cat(advantages)
    mean, std = everything.mean(), everything.std(correction=0)
    return [(a - mean) / std for a in advantages], returns


def naive_update(learner: Learner, rollout: Rollout, settings: PPOSettings, rate: float) -> None:
    """PPO with one minibatch and plain gradient descent, episode by episode, in float64."""
    advantages, returns = naive_targets(rollout, settings)
    count = sum(map(len, returns))
    clip, value_clip = settings.clip_range, settings.value_clip_range
    for _ in range(settings.epochs):
        policy_loss = value_loss = torch.zeros((), dtype=torch.float64)
        for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
            n, before = len(response), slice(len(prompt) - 1, len(prompt) + len(response) - 1)
            ids = torch.tensor([prompt + response])
            logits = learner.policy(input_ids=ids, use_cache=False).logits[0, before]
            table = torch.log_softmax(logits / settings.temperature, dim=-1)
            ratio = (table[range(n), response] - rollout.logprobs_BT[i, :n].double()).exp()
            bounded = torch.clamp(ratio, 1 - clip, 1 + clip)
            policy_loss = (
                policy_loss - torch.min(ratio * advantages[i], bounded * advantages[i]).sum()
            )
            hidden = learner.critic.backbone(input_ids=ids, use_cache=False).last_hidden_state
            value = learner.critic.value_head(hidden[0, before]).squeeze(-1)
            old = rollout.values_BT[i, :n].double()
            near = torch.clamp(value, old - value_clip, old + value_clip)
            errors = torch.max((value - returns[i]) ** 2, (near - returns[i]) ** 2)
            value_loss = value_loss + 0.5 * errors.sum()
        for model, loss in ((learner.policy, policy_loss), (learner.critic, value_loss)):
            parameters = list(model.parameters())
            gradients = torch.autograd.grad(loss / count, parameters)
            norm = torch.sqrt(sum((g**2).sum() for g in gradients))
            shrink = min(1.0, settings.max_grad_norm / norm.item())
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= rate * shrink * gradient


def test_an_update_is_that_of_the_naive_reference(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Whole updates: rewards, GAE, whitening, ratios, clipping of all kinds, gradient steps."""
    settings = SETTINGS.model_copy(
        update={"epochs": 3, "minibatches": 1, "gamma": 0.9, "lam": 0.8, "max_grad_norm": 0.5}
    )
    learner = learner_of("llama", settings)
    with torch.no_grad():  # away from the start, where KL, values and value clipping are all zero
        torch.nn.init.normal_(learner.critic.value_head.weight, std=0.1)
        for parameter in learner.policy.parameters():
            parameter += 0.01 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(5)
            )
    rollout = rollout_of(learner, token_prompts("llama"))
    rate = 0.2
    learner.policy_optimizer.inner = torch.optim.SGD(learner.policy.parameters(), lr=rate)
    learner.critic_optimizer.inner = torch.optim.SGD(learner.critic.parameters(), lr=rate)
    naive = copy.deepcopy(learner)
    naive.policy.double()
    naive.critic.double()
    start = [p.clone() for p in (*learner.policy.parameters(), *learner.critic.parameters())]
    metrics = update(learner, rollout, settings, seed=0, step=0)
    naive_update(naive, rollout, settings, rate)
    assert metrics["policy/clipfrac_avg"] > 0
    assert metrics["val/clipfrac_avg"] > 0
    ours = (*learner.policy.parameters(), *learner.critic.parameters())
    theirs = (*naive.policy.parameters(), *naive.critic.parameters())
    for before, mine, reference in zip(start, ours, theirs, strict=True):
        moved, expected = mine - before, reference.float() - before
        torch.testing.assert_close(moved, expected, rtol=2e-2, atol=2e-5)
