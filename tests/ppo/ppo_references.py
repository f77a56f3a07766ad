"""What the tests of the facts share: settings, a scorer, and naive references in float64."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.ppo.batch import Episodes, Rollout
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
from cai.ppo.update import update
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
LORA = SETTINGS.model_copy(update={"lora_rank": 2})
WITHOUT_CRITIC = {"advantage": "rloo", "samples_per_prompt": 2}
OF_A_CRITIC = {
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/grad_norm",
    "val/explained_variance",
    "lr_critic",
}
"""Metrics that are not there without one."""
SHORT = PPOSettings(
    steps=2,
    batch_size=4,
    minibatches=2,
    max_new_tokens=6,
    no_eos_reward=None,
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
)
"""Of whole runs."""
ALL_SIX = torch.arange(6)

LearnerOf = Callable[..., Learner]
PromptsOf = Callable[[str], list[TokenPrompt]]


class TokenFunction:
    """Makes a token scorer of a function of sequences."""

    def __init__(self, function: Callable[[Sequence[Sequence[int]]], Tensor]) -> None:
        self.score_ids = function


def reward_of(function: Callable[[Sequence[Sequence[int]]], Tensor]) -> Reward:
    return Reward({"test": (TokenFunction(function), 1.0)})


LENGTH = reward_of(lambda sequences: torch.tensor([float(len(ids) % 7) for ids in sequences]))


def letters(_: Sequence[Any], responses: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def steps_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def rollout_of(learner: Learner, prompts: list[TokenPrompt], step: int = 0) -> Rollout:
    return collect_rollout(learner, prompts, LENGTH, SETTINGS, seed=3, step=step)


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


NO_CLIPPING_OF_GRADIENTS = 1e9


def with_settings(**changes: Any) -> PPOSettings:
    return SETTINGS.model_copy(update=changes)


def naive_logprob_table(model: Any, prompt: list[int], response: list[int], temperature: float):
    """log π over the vocabulary at each response token, with gradient, in the model's precision."""
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
    places = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.log_softmax(logits[places] / temperature, dim=-1)


def gradients_of_update(learner: Learner, rollout: Rollout, settings: PPOSettings):
    """What one update adds to the weights under plain gradient descent, negated: its gradients."""
    models = [getattr(learner, part) for part in learner.optimizers]
    for model, optimizer in zip(models, learner.optimizers.values(), strict=True):
        optimizer.inner = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [[p.clone() for p in model.parameters()] for model in models]
    update(learner, rollout, settings, seed=0, step=0)
    return [
        [old - new for old, new in zip(olds, model.parameters(), strict=True)]
        for olds, model in zip(before, models, strict=True)
    ]


def assert_same_gradients(got: list[Tensor], expected: tuple[Tensor, ...]) -> None:
    scale = max(gradient.abs().max().item() for gradient in expected)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-3, atol=2e-5 * scale)
