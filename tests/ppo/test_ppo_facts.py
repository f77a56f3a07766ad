"""What a right PPO satisfies, on tiny models of four families; references are naive, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_models import FAMILIES
from torch import Tensor

from cai.conversation import Prompt, user
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.forward import response_logprobs
from cai.ppo.learner import Learner
from cai.ppo.math import kl_shaped_rewards, linear_decay
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rollout import collect_rollout, has_ended, sample, score_episodes
from cai.ppo.update import policy_gradients, update, value_gradients
from cai.preference_model import PreferenceModel
from cai.settings import PPOSettings

SETTINGS = PPOSettings(
    steps=4,
    batch_size=6,
    minibatches=2,
    micro_batch_size=2,
    max_new_tokens=12,
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature=0.7,
)
ALL_SIX = torch.arange(6)

LearnerOf = Callable[..., Learner]
PromptsOf = Callable[[str], list[TokenPrompt]]


def length_scorer(sequences: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([float(len(ids) % 7) for ids in sequences])


def rollout_of(learner: Learner, prompts: list[TokenPrompt], step: int = 0) -> Rollout:
    return collect_rollout(learner, prompts, length_scorer, SETTINGS, seed=3, step=step)


def naive_logprobs(
    model: Any, prompt: list[int], response: list[int], temperature: float
) -> Tensor:
    """log π of each response token: one row, no padding, no cache, float64."""
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logits = copy.deepcopy(model).double()(input_ids=ids, use_cache=False).logits[0]
    table = torch.log_softmax(logits / temperature, dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.stack([table[p, token] for p, token in zip(places, response, strict=True)])


def rows_of(episodes: Episodes) -> list[tuple[list[int], list[int]]]:
    lengths = episodes.prompt_lengths_B.tolist()
    return [(ids[:n], ids[n:]) for ids, n in zip(episodes.sequences(), lengths, strict=True)]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_fact_01_ratio_is_one_on_the_first_minibatch(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    rollout = rollout_of(learner, token_prompts(family))
    with torch.no_grad():
        again, _ = response_logprobs(learner.policy, rollout.episodes, SETTINGS.temperature)
    torch.testing.assert_close(again, rollout.logprobs_BT, rtol=0, atol=1e-4)
    advantages = torch.ones_like(rollout.logprobs_BT)
    metrics = policy_gradients(learner, rollout, advantages, torch.tensor([0, 4, 2]), SETTINGS)
    assert metrics["policy/clipfrac_avg"] == 0
    assert metrics["policy/approxkl_avg"] < 1e-7
    assert metrics["loss/policy_avg"] == pytest.approx(-1, abs=1e-4)


def test_fact_01_holds_under_bfloat16_autocast(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("llama", SETTINGS, torch.bfloat16)
    assert learner.policy.dtype == torch.float32
    rollout = rollout_of(learner, token_prompts("llama"))
    metrics = policy_gradients(
        learner, rollout, torch.ones_like(rollout.logprobs_BT), ALL_SIX, SETTINGS
    )
    assert metrics["policy/clipfrac_avg"] == 0
    assert metrics["policy/approxkl_avg"] < 1e-5


def test_fact_02_dropout_is_off_while_training(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    start = learner_of("gpt2", SETTINGS)
    for part in (start.policy, start.critic):
        for module in part.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
    start.policy.train()
    learner = Learner.start(start.policy, start.critic.backbone.train(), start.chat, SETTINGS)
    rollout = rollout_of(learner, token_prompts("gpt2"))
    update(learner, rollout, SETTINGS, seed=0, step=0)
    for model in (learner.policy, learner.reference, learner.critic):
        assert not any(module.training for module in model.modules())
    with torch.no_grad():
        first, second = (
            response_logprobs(learner.policy, rollout.episodes, 1.0)[0] for _ in range(2)
        )
    assert torch.equal(first, second)


def test_fact_03_sampled_ids_reach_scorer_and_loss_as_they_are(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    prompts = token_prompts(family)
    seen: list[list[int]] = []

    def scorer(sequences: Sequence[Sequence[int]]) -> Tensor:
        seen.extend(list(ids) for ids in sequences)
        return torch.zeros(len(sequences))

    episodes, _ = sample(learner, prompts, SETTINGS, seed=3, step=0)
    score_episodes(scorer, episodes, torch.ones(6, dtype=torch.bool), -1.0)
    assert seen == episodes.sequences()
    decode = learner.chat.tokenizer.decode
    tokenize = learner.chat.tokenizer
    responses = [response for _, response in rows_of(episodes)]
    again = [tokenize(decode(r), add_special_tokens=False)["input_ids"] for r in responses]
    assert again != responses  # so ids that took the way through text would have been noticed
    assert [row[: len(p.ids)] for row, p in zip(seen, prompts, strict=True)] == [
        list(p.ids) for p in prompts
    ]


def test_facts_04_and_08_logprobs_are_those_of_the_naive_reference(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Sampled, recomputed and reference ones: logits over temperature, shifted by one."""
    learner = learner_of(family, SETTINGS)
    rollout = rollout_of(learner, token_prompts(family))
    with torch.no_grad():
        new, entropy = response_logprobs(learner.policy, rollout.episodes, 0.7)
    assert entropy.min() >= 0
    for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        expected = naive_logprobs(learner.policy, prompt, response, 0.7).float()
        for got in (new, rollout.logprobs_BT, rollout.ref_logprobs_BT):
            torch.testing.assert_close(got[i, : len(response)], expected, rtol=0, atol=2e-4)
            assert not got[i, len(response) :].any()


def test_fact_05_training_samples_from_the_full_softmax() -> None:
    for knob in ("top_p", "top_k", "min_p"):
        with pytest.raises(ValidationError):
            PPOSettings.model_validate({knob: 0.9})


def test_fact_06_masks_come_from_lengths_though_pad_is_the_stop_token() -> None:
    pad = stop = 2
    episodes = Episodes.from_lists(
        [[5, 2, 6], [7]], [[2, 9, 2], [8, 2]], pad_id=pad, device=torch.device("cpu")
    )
    assert episodes.mask_BT.tolist() == [[True, True, True], [True, True, False]]
    assert has_ended(episodes, frozenset({stop})).tolist() == [True, True]
    assert episodes.sequences() == [[5, 2, 6, 2, 9, 2], [7, 8, 2]]


def test_fact_07_extra_left_padding_changes_nothing(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    episodes, _ = sample(learner, token_prompts(family), SETTINGS, seed=3, step=0)
    wide = torch.nn.functional.pad(episodes.prompt_ids_BP, (9, 0), value=1)
    padded = Episodes(
        wide, episodes.prompt_lengths_B, episodes.response_ids_BT, episodes.response_lengths_B
    )
    with torch.no_grad():
        assert torch.equal(
            response_logprobs(learner.policy, episodes, 1.0)[0],
            response_logprobs(learner.policy, padded, 1.0)[0],
        )
        assert torch.equal(learner.critic(episodes), learner.critic(padded))


def test_fact_08_values_are_those_of_the_states_before_each_token(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    torch.nn.init.normal_(learner.critic.value_head.weight)
    rollout = rollout_of(learner, token_prompts(family))
    backbone = copy.deepcopy(learner.critic.backbone).double()
    head = learner.critic.value_head.weight.double()[0]
    for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        with torch.no_grad():
            states = backbone(torch.tensor([prompt + response]), use_cache=False)
        values = states.last_hidden_state[0] @ head
        expected = values[len(prompt) - 1 : len(prompt) + len(response) - 1].float()
        torch.testing.assert_close(
            rollout.values_BT[i, : len(response)], expected, rtol=1e-3, atol=1e-3
        )


def test_fact_10_a_stop_token_in_the_very_last_slot_counts_as_ended() -> None:
    episodes = Episodes.from_lists(
        [[5]] * 4,
        [[1, 1, 2], [1, 1, 1], [1, 3], [2, 1]],
        pad_id=2,
        device=torch.device("cpu"),
    )
    assert has_ended(episodes, frozenset({2, 3})).tolist() == [True, False, True, False]


def test_fact_10_full_rows_are_told_apart_in_a_rollout(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Every row is full when one token may be sampled; those that stopped have ended."""
    learner = learner_of(family, SETTINGS)
    prompts = token_prompts(family)
    loose = SETTINGS.model_copy(update={"max_new_tokens": 1})
    sampled, _ = sample(learner, prompts, loose, seed=3, step=0)
    first_ids = sampled.response_ids_BT[:, 0].tolist()
    learner.chat.stop_ids = frozenset({first_ids[1]})
    rollout = collect_rollout(learner, prompts, length_scorer, loose, seed=3, step=0)
    assert rollout.ended_B.tolist() == [token == first_ids[1] for token in first_ids]


def test_fact_11_a_response_without_end_gets_the_fixed_score_unread(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("llama", SETTINGS)
    episodes, _ = sample(learner, token_prompts("llama"), SETTINGS, seed=3, step=0)
    ended = torch.tensor([True, False, False, True, False, False])

    def scorer(sequences: Sequence[Sequence[int]]) -> Tensor:
        assert [list(ids) for ids in sequences] == [episodes.sequences()[i] for i in (0, 3)]
        return torch.tensor([0.5, 2.0])

    scores = score_episodes(scorer, episodes, ended, -3.0)
    assert scores.tolist() == [0.5, -3.0, -3.0, 2.0, -3.0, -3.0]

    def never(_: Sequence[Sequence[int]]) -> Tensor:
        raise AssertionError("nothing to score")

    assert score_episodes(never, episodes, ~ended & ended, -3.0).tolist() == [-3.0] * 6


def test_fact_12_kl_is_zero_while_the_policy_equals_the_reference(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    rollout = rollout_of(learner_of(family, SETTINGS), token_prompts(family))
    rewards = kl_shaped_rewards(
        torch.zeros(6), rollout.logprobs_BT, rollout.ref_logprobs_BT, rollout.episodes.mask_BT, 1.0
    )
    torch.testing.assert_close(rewards, torch.zeros_like(rewards), rtol=0, atol=1e-4)


def test_fact_12_kl_is_against_the_reference_and_not_the_policy_of_now(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("qwen3", SETTINGS)
    before = copy.deepcopy(learner.reference.state_dict())
    first = rollout_of(learner, token_prompts("qwen3"))
    update(learner, first, SETTINGS, seed=0, step=0)
    for name, weight in learner.reference.state_dict().items():
        assert torch.equal(weight, before[name])
    second = rollout_of(learner, token_prompts("qwen3"), step=1)
    prompt, response = rows_of(second.episodes)[0]
    expected = naive_logprobs(learner.reference, prompt, response, 0.7).float()
    got = second.ref_logprobs_BT[0, : len(response)]
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    assert (second.logprobs_BT - second.ref_logprobs_BT).abs().max() > 1e-3


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 6])
def test_fact_16_gradients_do_not_depend_on_micro_batches(
    family: str, micro_batch_size: int, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of(family, SETTINGS)
    torch.nn.init.normal_(learner.critic.value_head.weight, std=0.1)
    rollout = rollout_of(learner, token_prompts(family))
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(rollout.logprobs_BT.shape, generator=generator)
    gradients: list[list[Tensor]] = []
    metrics: list[dict[str, float]] = []
    for size in (6, micro_batch_size):
        settings = SETTINGS.model_copy(update={"micro_batch_size": size})
        learner.policy.zero_grad()
        learner.critic.zero_grad()
        metrics.append(
            policy_gradients(learner, rollout, targets, ALL_SIX, settings)
            | value_gradients(learner, rollout, targets, ALL_SIX, settings)
        )
        parameters = [*learner.policy.parameters(), *learner.critic.parameters()]
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)
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
    scores = score_episodes(preference.score_ids, episodes, ended, -1.0)
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
    assert learner.policy_optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)
    assert learner.critic_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert learner.policy_optimizer.param_groups[0]["eps"] == 1e-8


def test_fact_26_the_same_seed_gives_the_same_weights_to_the_bit(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    prompts = token_prompts("llama")

    def train(seed: int) -> list[Tensor]:
        learner = learner_of("llama", SETTINGS)
        for step in range(2):
            rollout = collect_rollout(
                learner, prompts, length_scorer, SETTINGS, seed=seed, step=step
            )
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


def test_one_update_follows_the_numbered_steps(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """The first value loss, with the zero critic, is half the mean squared return."""
    settings = SETTINGS.model_copy(update={"epochs": 1, "minibatches": 1, "lam": 1.0})
    learner = learner_of("llama", settings)
    rollout = rollout_of(learner, token_prompts("llama"))
    metrics = update(learner, rollout, settings, seed=0, step=0)
    squares = [
        score**2
        for score, length in zip(
            rollout.scores_B.tolist(), rollout.episodes.response_lengths_B.tolist(), strict=True
        )
        for _ in range(length)
    ]
    assert metrics["loss/value_avg"] == pytest.approx(0.5 * sum(squares) / len(squares), rel=1e-3)
    assert metrics["val/explained_variance"] == pytest.approx(0, abs=1e-3)
