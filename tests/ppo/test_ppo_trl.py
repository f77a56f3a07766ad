"""GRPO and RLOO against TRL's trainers: one batch of tokens, advantages, losses and gradients.

TRL computes everything itself (scores to advantages, log-probabilities, the loss); only the sampled
tokens are given to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from cai.models.loading import load_causal_lm, load_chat_format
from cai.ppo.advantages import ADVANTAGES, RewardedEpisodes
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.learner import Learner
from cai.ppo.math import kl_shaped_rewards
from cai.ppo.rollout import policy_logprobs
from cai.ppo.update import policy_gradients
from cai.settings import ModelSettings, PPOSettings

K = 3
LONGEST = 9
PROMPTS = ("Bake bread.", "How do plants grow in the spring?")
BETA, TEMPERATURE = 0.2, 0.7
SHARED: dict[str, Any] = {
    "per_device_train_batch_size": K * len(PROMPTS),
    "num_generations": K,
    "max_completion_length": LONGEST,
    "beta": BETA,
    "temperature": TEMPERATURE,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "gradient_checkpointing": False,
}


def score(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [sum(ids) % 17 / 5 for ids in completion_ids]


def disturbed(model: Any, size: float) -> None:
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            wave = torch.sin(number + torch.arange(weight.numel(), dtype=torch.float32))
            weight.add_(size * wave.reshape(weight.shape))


@pytest.fixture
def trainer_of(tiny: Callable[[str], ModelSettings], tmp_path: Path) -> Callable[..., Any]:
    """A trainer of TRL with a policy that differs from its reference."""

    def make(trainer: Any, config: Any, **more: Any) -> Any:
        made = trainer(
            model=tiny("qwen3").path,
            reward_funcs=score,
            args=config(output_dir=str(tmp_path), **SHARED, **more),
            train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        )
        disturbed(made.model, 0.02)
        return made

    return make


def batch_of(trainer: Any, returned: Callable[[list[list[int]]], Any]) -> dict[str, Any]:
    """Let TRL score some responses and make its batch of them."""
    draw = random.Random(3)
    responses = [
        [draw.randrange(3, 200) for _ in range(draw.randint(1, LONGEST))]
        for _ in range(K * len(PROMPTS))
    ]
    trainer._generate_single_turn = lambda *_, **__: returned(responses)
    trainer.model.train()
    asked = [{"prompt": text} for text in PROMPTS for _ in range(K)]
    return trainer._generate_and_score_completions(asked)


def ours(
    batch: dict[str, Any], trainer: Any, settings: PPOSettings, tiny: Callable[[str], ModelSettings]
) -> tuple[Learner, Rollout]:
    """The same weights, tokens and scores as a learner and a rollout of cai."""
    learner = Learner.start(
        load_causal_lm(tiny("qwen3"), device="cpu"),
        None,
        load_chat_format(tiny("qwen3")),
        settings,
    )
    learner.policy.load_state_dict(trainer.model.state_dict())
    prompts, responses = (
        [
            row[mask.bool()].tolist()
            for row, mask in zip(batch[f"{x}_ids"], batch[f"{x}_mask"], strict=True)
        ]
        for x in ("prompt", "completion")
    )
    pad = learner.chat.pad_id
    episodes = Episodes.from_lists(prompts, responses, pad_id=pad, device=torch.device("cpu"))
    rollout = Rollout(
        episodes=episodes,
        logprobs_BT=policy_logprobs(learner, "policy", episodes, settings),
        ref_logprobs_BT=policy_logprobs(learner, "reference", episodes, settings),
        values_BT=None,
        scores_B=torch.tensor(score(responses)),
        ended_B=torch.ones(len(responses), dtype=torch.bool),
        samples_compared=settings.samples_compared,
    )
    return learner, rollout


def advantages_of(rollout: Rollout, settings: PPOSettings) -> Tensor:
    beta = settings.kl_coef if settings.kl_in == "reward" else 0.0
    mask = rollout.episodes.mask_BT
    rewards = kl_shaped_rewards(
        rollout.scores_B, rollout.logprobs_BT, rollout.ref_logprobs_BT, mask, beta
    )
    batch = RewardedEpisodes(rewards, mask, samples_per_prompt=settings.samples_per_prompt)
    return ADVANTAGES[settings.advantage](batch).advantages_BT


def assert_same_gradients(learner: Learner, trainer: Any, scale: float) -> None:
    theirs = {name: p.grad for name, p in trainer.model.named_parameters()}
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, parameter in learner.policy.named_parameters():
        torch.testing.assert_close(
            parameter.grad / scale, theirs[name], rtol=1e-3, atol=1e-5 * largest, msg=name
        )


def settings_of(**changes: Any) -> PPOSettings:
    return PPOSettings(
        batch_size=K * len(PROMPTS),
        samples_per_prompt=K,
        kl_coef=BETA,
        temperature=TEMPERATURE,
        max_new_tokens=LONGEST,
        whiten_advantages=False,
        **changes,
    )


@pytest.mark.parametrize(
    ("advantage", "scale_rewards", "average", "loss_type", "scale"),
    [
        ("grpo", "group", "responses", "grpo", 1.0),
        ("grpo", "group", "tokens", "bnpo", 1.0),
        # Dr. GRPO divides by the token limit, too: a constant, which is left out here.
        ("dr_grpo", "none", "response_sums", "dr_grpo", LONGEST),
    ],
)
def test_grpo_has_the_advantages_loss_and_gradient_of_trl(
    advantage: str,
    scale_rewards: str,
    average: str,
    loss_type: str,
    scale: float,
    trainer_of: Callable[..., Any],
    tiny: Callable[[str], ModelSettings],
) -> None:
    trainer = trainer_of(
        GRPOTrainer, GRPOConfig, loss_type=loss_type, scale_rewards=scale_rewards, epsilon=0.01
    )
    trainer.current_gradient_accumulation_steps = 1
    batch = batch_of(trainer, lambda responses: (responses, None))
    settings = settings_of(advantage=advantage, kl_in="loss", loss_average=average, clip_range=0.01)
    learner, rollout = ours(batch, trainer, settings, tiny)
    advantages = advantages_of(rollout, settings)
    torch.testing.assert_close(advantages[:, 0], batch["advantages"], rtol=0, atol=1e-5)
    assert advantages.abs().max() > 0.1

    # Away from the policy that sampled, so that ratios clip.
    width = rollout.logprobs_BT.shape[1]
    batch["old_per_token_logps"] = rollout.logprobs_BT[:, :width].clone()
    disturbed(trainer.model, 0.003)
    learner.policy.load_state_dict(trainer.model.state_dict())
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    rows = torch.arange(len(rollout.episodes))
    metrics = policy_gradients(learner, rollout, advantages, rows, settings)
    assert 0.1 < metrics["policy/clipfrac_avg"] < 0.9
    total = metrics["loss/policy_avg"] + BETA * metrics["loss/kl_avg"]
    assert metrics["loss/kl_avg"] > 0.01
    assert total.item() / scale == pytest.approx(loss.item(), abs=1e-5)
    assert_same_gradients(learner, trainer, scale)


@pytest.mark.parametrize("objective", ["policy_gradient", "clip"])
def test_rloo_has_the_advantages_and_the_gradient_of_trl(
    objective: str, trainer_of: Callable[..., Any], tiny: Callable[[str], ModelSettings]
) -> None:
    """At the first step: later on TRL clips the ratio of whole responses, not of tokens."""
    trainer = trainer_of(RLOOTrainer, RLOOConfig)
    batch = batch_of(trainer, lambda responses: responses)
    settings = settings_of(
        advantage="rloo",
        loss_average="response_sums",
        objective=objective,
        epochs=1,
        minibatches=1,
    )
    learner, rollout = ours(batch, trainer, settings, tiny)
    advantages = advantages_of(rollout, settings)
    torch.testing.assert_close(advantages[:, 0], batch["advantages"], rtol=0, atol=1e-5)
    kl = (rollout.logprobs_BT - rollout.ref_logprobs_BT).sum(dim=1)
    assert (BETA * kl).abs().max() > 0.05  # the penalty is part of what agrees

    trainer._compute_loss(trainer.model, batch).backward()
    rows = torch.arange(len(rollout.episodes))
    policy_gradients(learner, rollout, advantages, rows, settings)
    assert_same_gradients(learner, trainer, 1.0)
