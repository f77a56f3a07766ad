"""PPO learns: a reward that a tiny model can raise rises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_references import reward_of

from cai.ppo.learner import Learner
from cai.ppo.prompts import PromptPool, TokenPrompt
from cai.ppo.steps import run_steps
from cai.settings import PPOSettings

SETTINGS = PPOSettings(
    steps=25,
    batch_size=32,
    minibatches=2,
    max_new_tokens=10,
    learning_rate=2e-3,
    critic_learning_rate=2e-3,
    kl_coef=0.02,
    max_grad_norm=1.0,
    no_eos_reward=-1.0,
)


def share_of_low_ids(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """From -1 to 1: how many of the last ten ids are below 200."""
    return torch.tensor([sum(i < 200 for i in ids[-10:]) / 5 - 1 for ids in sequences])


def train(
    learner: Learner, prompts: list[TokenPrompt], settings: PPOSettings, folder: Path
) -> list[dict[str, float]]:
    pool = PromptPool(
        prompts,
        batch_size=32,
        red_team_fraction=0.5,
        seed=0,
        samples_per_prompt=settings.samples_per_prompt,
    )
    return run_steps(
        learner,
        pool,
        reward_of(share_of_low_ids),
        settings,
        folder=folder,
        run="test",
        seed=0,
        log_dir=folder / "logs",
    )


def mean(records: list[dict[str, float]], name: str) -> float:
    return sum(record[name] for record in records) / len(records)


@pytest.mark.slow
@pytest.mark.untraced
def test_the_reward_rises_and_kl_holds_it_back(
    tmp_path: Path,
    learner_of: Callable[..., Learner],
    token_prompts: Callable[[str], list[TokenPrompt]],
) -> None:
    prompts = token_prompts("llama")
    free = train(learner_of("llama", SETTINGS), prompts, SETTINGS, tmp_path / "free")
    assert mean(free[-5:], "objective/scores") > mean(free[:5], "objective/scores") + 0.5
    assert mean(free[-5:], "response/ended") > mean(free[:5], "response/ended")
    assert mean(free[-5:], "val/explained_variance") > 0.1
    tied = SETTINGS.model_copy(update={"kl_coef": 2.0})
    held = train(learner_of("llama", tied), prompts, tied, tmp_path / "held")
    assert mean(held[-5:], "objective/kl") < 0.5 * mean(free[-5:], "objective/kl")


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "policy_gradient", "epochs": 1, "minibatches": 1},
        {"advantage": "grpo", "kl_in": "loss", "loss_average": "responses"},
        {
            "advantage": "online_dpo",
            "loss_average": "response_sums",
            "epochs": 1,
            "minibatches": 1,
        },
    ],
    ids=["rloo", "rloo-policy_gradient", "grpo", "online_dpo"],
)
def test_the_reward_rises_without_a_critic(
    changes: dict[str, Any],
    tmp_path: Path,
    learner_of: Callable[..., Learner],
    token_prompts: Callable[[str], list[TokenPrompt]],
) -> None:
    leave_one_out = {"advantage": "rloo", "samples_per_prompt": 4, "whiten_advantages": False}
    settings = PPOSettings.model_validate(SETTINGS.model_dump() | leave_one_out | changes)
    learner = learner_of("llama", settings)
    records = train(learner, token_prompts("llama"), settings, tmp_path)
    assert learner.critic is None
    # RLOO rose by 0.21 or more over four seeds; with a learning rate of nearly 0 by 0.08 at most.
    assert mean(records[-5:], "objective/scores") > mean(records[:5], "objective/scores") + 0.15
