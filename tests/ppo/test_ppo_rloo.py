"""Leave-one-out: advantages without a critic, from several samples of a prompt."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ppo_references import (
    NO_CLIPPING_OF_GRADIENTS,
    OF_A_CRITIC,
    SHORT,
    WITHOUT_CRITIC,
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
from rich.console import Console

from cai.data.records import PromptRow
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO, progress_line
from cai.ppo.advantages import ADVANTAGES, RewardedEpisodes, gae, rloo
from cai.ppo.math import kl_shaped_rewards
from cai.ppo.objectives import OBJECTIVES
from cai.ppo.prompts import PromptPool
from cai.ppo.update import update, value_gradients
from cai.report.curves import curves
from cai.settings import ModelSettings, PPOSettings

RLOO = with_settings(**WITHOUT_CRITIC)
RUN = SHORT.model_copy(
    update={"steps": 4, "no_eos_reward": -1.0, "checkpoint_steps": 2, **WITHOUT_CRITIC}
)

Tiny = Callable[[str], ModelSettings]
Run = Callable[..., dict[str, float]]


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def run(tiny: Tiny, tiny_preference: Callable[[str], Path], prompt_rows: list[PromptRow]) -> Run:
    """Run PPO without a critic in a folder; keyword arguments change its settings."""

    def start(folder: Path, on_step: Any = None, **changes: Any) -> dict[str, float]:
        reward = {"preference": tiny_preference("llama"), "letters": (letters, 0.1)}
        ppo = PPO(tiny("llama"), reward, RUN.model_copy(update=changes), seed=7)
        return ppo.train(prompt_rows[:5], folder, held_out=prompt_rows[3:], on_step=on_step)

    return start


def test_each_advantage_and_objective_of_the_settings_is_one_function() -> None:
    for name, functions in (("advantage", ADVANTAGES), ("objective", OBJECTIVES)):
        assert set(get_args(PPOSettings.model_fields[name].annotation)) == set(functions)


def numpy_rloo(
    scores: list[float],
    logprobs: list[list[float]],
    ref_logprobs: list[list[float]],
    lengths: list[int],
    beta: float,
    samples: int,
) -> np.ndarray:
    """Reward of each response, KL included, minus the mean of the others to its prompt."""
    totals = []
    for i, n in enumerate(lengths):
        total = scores[i]
        for t in range(n):
            total -= beta * (logprobs[i][t] - ref_logprobs[i][t])
        totals.append(total)
    result = np.zeros((len(lengths), len(logprobs[0])))
    for i, n in enumerate(lengths):
        first = i - i % samples
        others = [totals[j] for j in range(first, first + samples) if j != i]
        for t in range(n):
            result[i, t] = totals[i] - sum(others) / len(others)
    return result


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, list[int], list[Any]]:
    """Samples of a prompt, lengths of all responses, scores and two tables of numbers."""
    samples, prompts, width = (draw(st.integers(*x)) for x in ((2, 5), (1, 4), (1, 6)))
    number = st.floats(-10, 10, width=32)
    rows = samples * prompts
    lengths = draw(st.lists(st.integers(1, width), min_size=rows, max_size=rows))
    line = st.lists(number, min_size=width, max_size=width)
    tables = [draw(st.lists(line, min_size=rows, max_size=rows)) for _ in range(2)]
    return samples, lengths, [draw(st.lists(number, min_size=rows, max_size=rows)), *tables]


@given(batch=groups(), beta=st.floats(0, 2))
@hypothesis_settings(max_examples=200, deadline=None)
def test_rloo_equals_plain_loops_whatever_stands_on_padding(
    batch: tuple[int, list[int], list[Any]], beta: float
) -> None:
    samples, lengths, (scores, logp, ref) = batch
    mask = torch.arange(len(logp[0]))[None] < torch.tensor(lengths)[:, None]
    tensors = [torch.tensor(x, dtype=torch.float64) for x in (scores, logp, ref)]
    rewards = kl_shaped_rewards(*tensors, mask, beta)
    expected = numpy_rloo(scores, logp, ref, lengths, beta, samples)
    for table in (rewards, rewards.masked_fill(~mask, math.nan)):
        advantages, returns = rloo(RewardedEpisodes(table, mask, samples_per_prompt=samples))
        np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-9)
        assert returns is None


def test_rloo_knows_neighbours_as_samples_of_one_prompt() -> None:
    """Prompt one was answered for 1 and 4, prompt two for 10 and 2."""
    rewards = torch.tensor([[1.0, 0.0], [1.0, 3.0], [10.0, 0.0], [1.0, 1.0]])
    mask = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1]], dtype=torch.bool)
    advantages, _ = rloo(RewardedEpisodes(rewards, mask, samples_per_prompt=2))
    assert advantages.tolist() == [[-3.0, 0.0], [3.0, 3.0], [8.0, 0.0], [-8.0, -8.0]]


@pytest.mark.parametrize("objective", ["policy_gradient", "clip"])
def test_one_step_of_rloo_is_reinforce_with_the_other_samples_as_baseline(
    objective: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Σ_i A_i ∇ log π(y_i), with log π of the whole response, over the batch's tokens."""
    settings = with_settings(
        **WITHOUT_CRITIC,
        objective=objective,
        epochs=1,
        minibatches=1,
        whiten_advantages=False,
        max_grad_norm=NO_CLIPPING_OF_GRADIENTS,
        kl_coef=0.3,
    )
    learner = learner_of("llama", settings)
    with torch.no_grad():  # so that there is a KL
        for weight in learner.policy.parameters():
            weight.add_(0.02 * torch.sin(torch.arange(weight.numel())).reshape(weight.shape))
    prompts = token_prompts("llama")
    rollout = rollout_of(learner, [prompts[i] for i in (0, 0, 2, 2, 4, 4)])
    kl = (rollout.logprobs_BT - rollout.ref_logprobs_BT).double().sum(dim=1)
    assert kl.abs().max() > 0.01

    totals = (rollout.scores_B.double() - settings.kl_coef * kl).tolist()
    policy = copy.deepcopy(learner.policy).double()
    objective_sum, tokens = torch.zeros((), dtype=torch.float64), 0
    for i, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        table = naive_logprob_table(policy, prompt, response, settings.temperature)
        logprob = table[range(len(response)), response].sum()
        objective_sum = objective_sum - (totals[i] - totals[i ^ 1]) * logprob
        tokens += len(response)
    expected = torch.autograd.grad(objective_sum / tokens, list(policy.parameters()))
    (got,) = gradients_of_update(learner, rollout, settings)
    assert_same_gradients(got, expected)


def test_the_samples_of_a_prompt_are_neighbours_with_draws_of_their_own(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    prompts = token_prompts("llama")
    arguments = {"red_team_fraction": 0.5, "seed": 3}
    pool = PromptPool(prompts, batch_size=12, samples_per_prompt=3, **arguments)
    single = PromptPool(prompts, batch_size=4, **arguments)
    for step in range(5):
        assert pool.draw(step) == [p for p in single.draw(step) for _ in range(3)]
    rollout = rollout_of(learner_of("llama", RLOO), pool.draw(0))
    responses = [tuple(response) for _, response in rows_of(rollout.episodes)]
    for first in range(0, 12, 3):
        assert len(set(responses[first : first + 3])) == 3


def test_without_a_critic_nothing_of_one_is_in_memory(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("llama", RLOO)
    assert learner.critic is None
    assert set(learner.optimizers) == {"policy"}
    assert set(learner.state_dict()) == {"control", "policy", "policy_moments"}
    rollout = rollout_of(learner, token_prompts("llama"))
    assert rollout.values_BT is None
    with pytest.raises(ValueError, match="needs a critic"):
        value_gradients(learner, rollout, rollout.logprobs_BT, torch.arange(6), RLOO)
    with pytest.raises(ValueError, match="values of a critic"):
        gae(RewardedEpisodes(rollout.logprobs_BT, rollout.episodes.mask_BT))
    adapted = learner_of("llama", RLOO.model_copy(update={"lora_rank": 2}))
    assert set(adapted.adapters) == {"policy", "reference"}
    assert not [name for name, _ in adapted.policy.named_parameters() if "critic" in name]


def test_the_preference_model_is_loaded_to_score_and_not_for_a_critic(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, loads = PreferenceModel.load, []
    monkeypatch.setattr(
        PreferenceModel, "load", lambda *args, **more: loads.append(args) or real(*args, **more)
    )
    run(tmp_path / "rloo", steps=1)
    assert len(loads) == 1
    run(tmp_path / "gae", steps=1, advantage="gae")
    assert len(loads) == 3


def test_metrics_of_a_critic_are_absent_and_what_reads_them_copes(tmp_path: Path, run: Run) -> None:
    console = Console(file=io.StringIO(), width=200)
    run(tmp_path / "rloo", on_step=progress_line(4, console))
    run(tmp_path / "gae", advantage="gae")
    without, whole = steps_of(tmp_path / "rloo"), steps_of(tmp_path / "gae")
    for ours, theirs in zip(without, whole, strict=True):
        assert theirs.keys() - ours.keys() == OF_A_CRITIC
        assert ours.keys() <= theirs.keys()
    said = console.file.getvalue().splitlines()
    assert [line.split(":")[0] for line in said] == [f"step {n}/4" for n in (1, 2, 3, 4)]
    assert curves(without).keys() == curves(whole).keys()


def test_lora_and_gradient_checkpointing_train_without_a_critic(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    settings = RLOO.model_copy(update={"lora_rank": 2, "gradient_checkpointing": True})
    learner = learner_of("llama", settings)
    prompts = token_prompts("llama")
    before = [weight.clone() for weight in learner.policy_optimizer.parameters]
    update(learner, rollout_of(learner, prompts), settings, seed=0, step=0)
    after = learner.policy_optimizer.parameters
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples_per_prompt": 1}, "Set it to 2 or more"),
        ({"samples_per_prompt": 3}, "8 cannot be split into prompts.* multiple of 6"),
        ({"samples_per_prompt": 3, "processes": 2}, "multiple of 12"),
        ({"samples_per_prompt": 3, "advantage": "gae"}, "multiple of 6"),
        ({"critic": "value_head"}, "has no critic"),
        ({"gamma": 0.9}, "whole responses"),
        ({"objective": "policy_gradient"}, "`ppo.epochs` 2 with `ppo.minibatches` 2 take 4"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    good = {"batch_size": 8, **WITHOUT_CRITIC}
    PPOSettings.model_validate(good)
    with pytest.raises(ValidationError, match=words):
        PPOSettings.model_validate(good | changes)
