"""What the tests of the facts share: settings, a scorer, and naive references in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cai.ppo.batch import Episodes, Rollout
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
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


class TokenFunction:
    """Makes a token scorer of a function of sequences."""

    def __init__(self, function: Callable[[Sequence[Sequence[int]]], Tensor]) -> None:
        self.score_ids = function


def reward_of(function: Callable[[Sequence[Sequence[int]]], Tensor]) -> Reward:
    return Reward({"test": (TokenFunction(function), 1.0)})


LENGTH = reward_of(lambda sequences: torch.tensor([float(len(ids) % 7) for ids in sequences]))


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
