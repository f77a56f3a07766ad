"""What a right PPO satisfies up to the update, on tiny models of four families."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from ppo_references import (
    ALL_SIX,
    LENGTH,
    SETTINGS,
    LearnerOf,
    PromptsOf,
    naive_logprobs,
    reward_of,
    rollout_of,
    rows_of,
)
from pydantic import ValidationError
from tiny_models import FAMILIES
from torch import Tensor

from cai.ppo.batch import Episodes
from cai.ppo.forward import response_logprobs
from cai.ppo.learner import Learner
from cai.ppo.math import kl_shaped_rewards
from cai.ppo.rollout import collect_rollout, has_ended, sample, score_episodes
from cai.ppo.update import policy_gradients, update
from cai.settings import PPOSettings


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
    assert metrics["loss/policy_avg"].item() == pytest.approx(-1, abs=1e-4)


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
    score_episodes(reward_of(scorer), prompts, episodes, torch.ones(6) > 0, SETTINGS)
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
    rollout = collect_rollout(learner, prompts, LENGTH, loose, seed=3, step=0)
    assert rollout.ended_B.tolist() == [token == first_ids[1] for token in first_ids]


def test_fact_11_a_response_without_end_gets_the_fixed_score_unread(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("llama", SETTINGS)
    prompts = token_prompts("llama")
    settings = SETTINGS.model_copy(update={"no_eos_reward": -3.0})
    episodes, _ = sample(learner, prompts, settings, seed=3, step=0)
    ended = torch.tensor([True, False, False, True, False, False])

    def scorer(sequences: Sequence[Sequence[int]]) -> Tensor:
        assert [list(ids) for ids in sequences] == [episodes.sequences()[i] for i in (0, 3)]
        return torch.tensor([0.5, 2.0])

    scores, parts, _ = score_episodes(reward_of(scorer), prompts, episodes, ended, settings)
    assert parts["test"].tolist() == [0.5, 2.0]
    assert scores.tolist() == [0.5, -3.0, -3.0, 2.0, -3.0, -3.0]

    def never(_: Sequence[Sequence[int]]) -> Tensor:
        raise AssertionError("nothing to score")

    scores, *_ = score_episodes(reward_of(never), prompts, episodes, ~ended & ended, settings)
    assert scores.tolist() == [-3.0] * 6


def test_fact_11_a_response_without_end_may_be_scored_and_fined_instead(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    prompts = token_prompts("llama")
    settings = SETTINGS.model_copy(update={"no_eos_reward": None, "no_eos_penalty": 0.5})
    episodes, _ = sample(learner_of("llama", settings), prompts, settings, seed=3, step=0)
    ended = torch.tensor([True, False, False, True, False, False])
    ones = reward_of(lambda sequences: torch.ones(len(sequences)))
    scores, parts, _ = score_episodes(ones, prompts, episodes, ended, settings)
    assert scores.tolist() == [1.0, 0.5, 0.5, 1.0, 0.5, 0.5]
    assert len(parts["test"]) == 6


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
