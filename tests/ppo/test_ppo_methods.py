"""GRPO, Dr. GRPO, REINFORCE, online DPO, KL in the loss: against loops and autograd by hand."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ppo_references import (
    NO_CLIPPING_OF_GRADIENTS,
    SHORT,
    LearnerOf,
    PromptsOf,
    assert_same_gradients,
    gradients_of_update,
    letters,
    naive_logprob_table,
    rollout_of,
    rows_of,
    steps_of,
    with_settings,
)
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from cai.data.records import PromptRow
from cai.models.loading import load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO
from cai.ppo.advantages import ADVANTAGES, RewardedEpisodes, online_dpo
from cai.ppo.batch import Rollout
from cai.ppo.loading import open_models
from cai.ppo.objectives import LOSS_AVERAGES, PolicyTokens, reference_kl
from cai.ppo.update import update
from cai.settings import ModelSettings, PPOSettings
from cai.training.dpo_losses import PAIR_LOSSES, expected_loss

ONE_STEP = {
    "epochs": 1,
    "minibatches": 1,
    "whiten_advantages": False,
    "max_grad_norm": NO_CLIPPING_OF_GRADIENTS,
}
ONLINE_DPO = {
    "advantage": "online_dpo",
    "samples_per_prompt": 2,
    "loss_average": "response_sums",
    "objective": "policy_gradient",
    **ONE_STEP,
}


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def naive(name: str, rewards: list[float | None], samples: int) -> list[float]:
    """Advantages of whole responses, by loops over those that have a reward."""
    found = [0.0] * len(rewards)
    groups = [range(first, first + samples) for first in range(0, len(rewards), samples)]
    if name == "reinforce":
        groups = [range(len(rewards))]
    for group in groups:
        used = {i: reward for i in group if (reward := rewards[i]) is not None}
        for i, reward in used.items():
            others = [used[j] for j in used if j != i]
            if name == "rloo":
                found[i] = reward - mean(others) if others else reward
                continue
            found[i] = reward - mean(list(used.values()))
            if name == "grpo":
                found[i] /= float(np.std(list(used.values()), ddof=1)) + 1e-4 if others else 1e-4
    return found


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, list[int], list[list[float]], list[bool]]:
    """Samples of a prompt; of each response its length, its rewards, and whether it is used."""
    samples, prompts, width = (draw(st.integers(*x)) for x in ((2, 4), (1, 4), (1, 5)))
    rows = samples * prompts
    number = st.floats(-10, 10, width=32)
    line = st.lists(number, min_size=width, max_size=width)
    return (
        samples,
        draw(st.lists(st.integers(1, width), min_size=rows, max_size=rows)),
        draw(st.lists(line, min_size=rows, max_size=rows)),
        draw(st.lists(st.booleans(), min_size=rows, max_size=rows)),
    )


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo", "reinforce"])
@given(batch=groups())
@hypothesis_settings(max_examples=100, deadline=None)
def test_advantages_equal_plain_loops_over_the_episodes_that_are_used(
    name: str, batch: tuple[int, list[int], list[list[float]], list[bool]]
) -> None:
    samples, lengths, rewards, used = batch
    mask = torch.arange(len(rewards[0]))[None] < torch.tensor(lengths)[:, None]
    mask &= torch.tensor(used)[:, None]
    table = torch.tensor(rewards, dtype=torch.float64).masked_fill(~mask, math.nan)
    totals = [sum(row[:n]) if u else None for row, n, u in zip(rewards, lengths, used, strict=True)]
    found = ADVANTAGES[name](RewardedEpisodes(table, mask, samples_per_prompt=samples))
    expected = np.array(naive(name, totals, samples))[:, None] * mask.numpy()
    np.testing.assert_allclose(found.advantages_BT.numpy(), expected, atol=1e-6)
    assert found.returns_BT is None


def test_an_episode_without_a_score_leaves_out_a_sample_that_is_then_alone(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    rollout = rollout_of(learner_of("llama", with_settings()), token_prompts("llama"))
    scores = torch.tensor([math.nan, 1.0, 2.0, 3.0, 4.0, 5.0])
    alone = replace(rollout, scores_B=scores)
    assert alone.used_B.tolist() == [False, True, True, True, True, True]
    pairs = replace(alone, samples_compared=2)
    assert pairs.used_B.tolist() == [False, False, True, True, True, True]
    assert pairs.mask_BT[2:].equal(rollout.episodes.mask_BT[2:])
    assert not pairs.mask_BT[:2].any()


def away(model: Any, size: float = 0.02) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(size * torch.sin(torch.arange(weight.numel())).reshape(weight.shape))


def part_of(rollout: Rollout, rows: Tensor) -> Rollout:
    tables = ("logprobs_BT", "ref_logprobs_BT", "values_BT", "scores_B", "ended_B")
    found = {name: getattr(rollout, name) for name in tables}
    return replace(
        rollout,
        episodes=rollout.episodes.select(rows),
        **{name: None if x is None else x[rows] for name, x in found.items()},
    )


@pytest.mark.parametrize("average", LOSS_AVERAGES)
@pytest.mark.parametrize("advantage", ["gae", "grpo", "reinforce"])
def test_an_update_with_episodes_left_out_is_the_update_on_the_others(
    advantage: str, average: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    settings = with_settings(
        **{**ONE_STEP, "whiten_advantages": True, "micro_batch_size": 4},
        advantage=advantage,
        samples_per_prompt=1 if advantage == "gae" else 2,
        loss_average=average,
        kl_in="loss",
    )
    gradients: list[list[list[Tensor]]] = []
    for left_out in (True, False):
        learner = learner_of("llama", settings)
        away(learner.policy)
        prompts = token_prompts("llama")
        rollout = rollout_of(learner, [prompts[i] for i in (0, 0, 2, 2, 4, 4)])
        rollout = replace(rollout, samples_compared=settings.samples_compared)
        if left_out:
            scores = rollout.scores_B.clone()
            scores[[2, 3]] = math.nan
            rollout = replace(rollout, scores_B=scores)
        else:
            rollout = part_of(rollout, torch.tensor([0, 1, 4, 5]))
        gradients.append(gradients_of_update(learner, rollout, settings))
    for got, expected in zip(*gradients, strict=True):
        assert_same_gradients(got, tuple(expected))


@pytest.mark.parametrize("average", LOSS_AVERAGES)
@pytest.mark.parametrize("objective", ["policy_gradient", "clip"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_one_step_is_the_policy_gradient_written_by_hand(
    kl_in: str,
    objective: str,
    average: str,
    learner_of: LearnerOf,
    token_prompts: PromptsOf,
) -> None:
    """REINFORCE with the batch as baseline, each average of the loss, and both places of the KL."""
    beta = 0.3
    settings = with_settings(
        **ONE_STEP,
        advantage="reinforce",
        objective=objective,
        loss_average=average,
        kl_in=kl_in,
        kl_coef=beta,
    )
    learner = learner_of("llama", settings)
    away(learner.policy)
    rollout = rollout_of(learner, token_prompts("llama"))
    policy, reference = (copy.deepcopy(m).double() for m in (learner.policy, learner.reference))
    rows = rows_of(rollout.episodes)
    logprobs, ref_logprobs = (
        [
            naive_logprob_table(model, prompt, response, settings.temperature)[
                range(len(response)), response
            ]
            for prompt, response in rows
        ]
        for model in (policy, reference)
    )
    rewards = rollout.scores_B.double().tolist()
    if kl_in == "reward":
        for i, (ours, theirs) in enumerate(zip(logprobs, ref_logprobs, strict=True)):
            rewards[i] -= beta * (ours - theirs).sum().item()
    count, total = sum(len(response) for _, response in rows), torch.zeros(())
    for i, (ours, theirs) in enumerate(zip(logprobs, ref_logprobs, strict=True)):
        losses = -(rewards[i] - mean(rewards)) * ours
        if kl_in == "loss":
            ratio = (ours - ours.detach()).exp()
            losses = losses + beta * ratio * ((theirs - ours).exp() - (theirs - ours) - 1)
        weight = {
            "tokens": 1 / count,
            "responses": 1 / (len(rows) * len(losses)),
            "response_sums": 1 / len(rows),
        }[average]
        total = total + weight * losses.sum()
    expected = torch.autograd.grad(total, list(policy.parameters()))
    (got,) = gradients_of_update(learner, rollout, settings)
    assert_same_gradients(got, expected)


@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_kl_in_the_loss_has_value_and_gradient_of_the_exact_kl_on_average(moved: float) -> None:
    """Summed over the vocabulary with the probabilities of the policy that sampled."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.log_softmax(torch.randn(7, dtype=torch.float64, generator=generator), -1)
    logits = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    change = torch.randn(7, dtype=torch.float64, generator=generator)
    old = torch.log_softmax(logits.detach() + moved * change, -1)
    total = torch.zeros((), dtype=torch.float64)
    for token in range(7):
        tokens = PolicyTokens(
            torch.log_softmax(logits, -1)[token].reshape(1, 1),
            old[token].reshape(1, 1),
            torch.zeros(1, 1),
            torch.ones(1, 1, dtype=torch.bool),
            1,
            ref_logprobs_BT=reference[token].reshape(1, 1),
        )
        total = total + old[token].exp() * reference_kl(tokens)
    policy = torch.log_softmax(logits, -1)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close(total, exact)
    (got,), (expected,) = (
        torch.autograd.grad(x, logits, retain_graph=True) for x in (total, exact)
    )
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("samples", "left_out"), [(2, ()), (3, ()), (3, (4,)), (6, ())])
def test_online_dpo_has_the_gradient_of_the_mean_expected_dpo_loss(
    samples: int, left_out: tuple[int, ...], learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Against autograd of `expected_loss` on all pairs of samples, labels from the scores."""
    beta = 0.4
    settings = with_settings(**{**ONLINE_DPO, "samples_per_prompt": samples, "kl_coef": beta})
    learner = learner_of("llama", settings)
    away(learner.policy, 0.05)
    prompts = token_prompts("llama")
    rollout = rollout_of(learner, [prompts[i - i % samples] for i in range(6)])
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.3, -3.0])
    scores[list(left_out)] = math.nan
    rollout = replace(rollout, scores_B=scores, samples_compared=samples)
    policy, reference = (copy.deepcopy(m).double() for m in (learner.policy, learner.reference))
    ratios = []
    for prompt, response in rows_of(rollout.episodes):
        ours, theirs = (
            naive_logprob_table(model, prompt, response, settings.temperature)[
                range(len(response)), response
            ].sum()
            for model in (policy, reference)
        )
        ratios.append(ours - theirs.detach())
    assert max(abs(ratio.item()) for ratio in ratios) > 0.1

    def loss_of_pair(i: int, j: int) -> Tensor:
        label = torch.sigmoid(scores[i] - scores[j]).double()
        return expected_loss(PAIR_LOSSES["sigmoid"], ratios[i], ratios[j], label, beta)

    # With unequal groups, each response counts the same: so does each group per used response.
    total, used = torch.zeros((), dtype=torch.float64), 6 - len(left_out)
    for first in range(0, 6, samples):
        group = [i for i in range(first, first + samples) if i not in left_out]
        pairs = [loss_of_pair(i, j) for i in group for j in group if i < j]
        total = total + len(group) / used * torch.stack(pairs).mean()
    expected = torch.autograd.grad(total, list(policy.parameters()))
    (got,) = gradients_of_update(learner, rollout, settings)
    assert_same_gradients(got, expected)


def test_online_dpo_takes_the_scores_of_a_preference_model_as_log_odds(
    tiny: Callable[[str], ModelSettings],
    tiny_preference: Callable[[str], Path],
    token_prompts: PromptsOf,
) -> None:
    """The raw scores, up to a shift: the model of the tests has mean 0.25 and deviation 2."""
    judge = PreferenceModel.load(tiny_preference("llama"), device="cpu")
    policy, chat = tiny("llama"), load_chat_format(tiny("llama"))
    prompts = token_prompts("llama")
    responses = [[7, 9, 11], [30, 100]] * 3
    totals: dict[str, Tensor] = {}
    for settings in (with_settings(), with_settings(**ONLINE_DPO)):
        scorers = {"preference": (tiny_preference("llama"), 1.0)}
        _, reward = open_models(policy, scorers, settings, chat, seed=0)
        parts = {n: torch.tensor(x) for n, x in reward.scores(prompts, responses).items()}
        totals[settings.advantage] = reward.total(parts)
    pairs = zip(prompts, responses, strict=True)
    raw = judge.raw_scores([[*prompt.ids, *ids] for prompt, ids in pairs])
    torch.testing.assert_close(totals["gae"], (raw - 0.25) / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(totals["online_dpo"], raw - 0.25, rtol=0, atol=1e-5)


def test_online_dpo_rests_where_the_margin_agrees_with_the_label() -> None:
    """β m = log-odds of the label: there its loss is smallest."""
    log_ratios = torch.tensor([[1.0, 2.0], [0.5, -0.5]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    batch = RewardedEpisodes(
        torch.zeros(2, 2),
        mask,
        samples_per_prompt=2,
        scores_B=torch.tensor([1.5, 0.0]),
        log_ratios_BT=log_ratios,
        kl_coef=0.5,
    )
    assert online_dpo(batch).advantages_BT.abs().max() < 1e-7
    pulled = online_dpo(replace(batch, scores_B=torch.tensor([3.0, 0.0]))).advantages_BT
    expected = 2 * 0.5 * (1 / (1 + math.exp(-3.0)) - 1 / (1 + math.exp(-1.5)))
    torch.testing.assert_close(pulled, expected * torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    with pytest.raises(ValueError, match="needs scores"):
        online_dpo(RewardedEpisodes(log_ratios, mask, samples_per_prompt=2))


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(
    "method",
    [
        {"advantage": "rloo"},
        {"advantage": "grpo", "kl_in": "loss", "loss_average": "responses"},
        {"advantage": "dr_grpo", "loss_average": "response_sums"},
        {"advantage": "reinforce", "kl_target": 0.1},
        ONLINE_DPO,
        {"advantage": "grpo", "lora_rank": 2},
    ],
    ids=lambda method: "-".join(map(str, (method["advantage"], *method))),
)
def test_a_killed_run_resumes_to_the_same_weights(
    method: dict[str, Any],
    tmp_path: Path,
    tiny: Callable[[str], ModelSettings],
    tiny_preference: Callable[[str], Path],
    prompt_rows: list[PromptRow],
) -> None:
    shape = {"steps": 4, "batch_size": 8, "samples_per_prompt": 2, "checkpoint_steps": 2}
    settings = SHORT.model_copy(update={"no_eos_reward": -1.0, **shape, **method}).checked()

    def run(folder: Path, last: int | None = None) -> None:
        def on_step(metrics: Mapping[str, float]) -> None:
            if metrics["step"] == last:
                raise KilledError

        reward = {"preference": tiny_preference("llama"), "letters": (letters, 0.1)}
        ppo = PPO(tiny("llama"), reward, settings, seed=7)
        ppo.train(prompt_rows[:5], folder, held_out=prompt_rows[3:], on_step=on_step)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole)
    for step in (1, 3, 4):
        with pytest.raises(KilledError):
            run(killed, step)
    saved = torch.load(killed / "checkpoints/step-000004/state.pt", weights_only=True)
    assert not [name for name in saved if "critic" in name]
    run(killed)
    weights, expected = (load_file(f / "model/model.safetensors") for f in (killed, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    ours, theirs = (
        [{k: x for k, x in r.items() if not k.startswith("time/")} for r in steps_of(folder)]
        for folder in (killed, whole)
    )
    assert ours == theirs
    assert ("loss/kl_avg" in ours[0]) == (settings.kl_in == "loss")


def test_lora_and_gradient_checkpointing_train_with_kl_in_the_loss(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    changes = {"advantage": "grpo", "samples_per_prompt": 2, "kl_in": "loss"}
    settings = with_settings(**changes, lora_rank=2, gradient_checkpointing=True)
    learner = learner_of("llama", settings)
    prompts = token_prompts("llama")
    before = [weight.clone() for weight in learner.policy_optimizer.parameters]
    rollout = rollout_of(learner, [prompts[i] for i in (0, 0, 2, 2, 4, 4)])
    metrics = update(learner, rollout, settings, seed=0, step=0)
    assert metrics["loss/kl_avg"] >= 0
    after = learner.policy_optimizer.parameters
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"advantage": "grpo"}, "grpo` compares .* is 1. Set it to 2 or more"),
        ({"advantage": "dr_grpo"}, "dr_grpo` compares"),
        ({"advantage": "reinforce", "critic": "value_head"}, "reinforce` has no critic"),
        ({"advantage": "reinforce", "gamma": 0.9}, "reinforce` uses the reward of whole"),
        ({**ONLINE_DPO, "samples_per_prompt": 1}, "online_dpo` compares"),
        ({**ONLINE_DPO, "samples_per_prompt": 4, "kl_in": "loss"}, "ppo: {kl_in: reward}"),
        ({**ONLINE_DPO, "whiten_advantages": True}, "ppo: {whiten_advantages: false}"),
        (
            {"advantage": "online_dpo", "samples_per_prompt": 2},
            "{loss_average: response_sums, whiten_advantages: false, minibatches: 1, epochs: 1}",
        ),
        ({**ONLINE_DPO, "normalise_rewards": True}, "normalise_rewards: false"),
        ({**ONLINE_DPO, "kl_coef": 0}, "is β of `ppo.advantage: online_dpo`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        PPOSettings.model_validate(changes)


def test_every_average_of_the_loss_is_a_setting() -> None:
    assert set(get_args(PPOSettings.model_fields["loss_average"].annotation)) == set(LOSS_AVERAGES)


def test_the_methods_of_the_papers_in_the_documentation_are_settings() -> None:
    page = Path(__file__).parents[2] / "docs/ppo.md"
    table = page.read_text(encoding="utf-8").split("The methods of the papers, as settings:")[1]
    rows = re.findall(r"^\| (.+?) \| `(\{.+?\})` \|$", table, re.MULTILINE)
    assert len(rows) == 5
    for name, written in rows:
        settings = PPOSettings.model_validate({"batch_size": 32, **yaml.safe_load(written)})
        assert settings.advantage == name.lower().replace(". ", "_").replace(" ", "_")
