"""One rollout: sample from the current policy, score, and store the data for the update.

Processes share the prompts of each part of it; all of them get the whole rollout.
"""

from __future__ import annotations

# ruff: noqa: N815 (names end in the shapes of what they hold)
import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain, groupby, islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cai.data.records import derive_seed
from cai.data.states import ADVICE
from cai.engines.decode import TokenRequest
from cai.errors import CaiError
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.control import Control
from cai.ppo.forward import response_logprobs, without_gradient
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward, Score
from cai.ppo.sampling import check_agreement, sample_here
from cai.settings import PPOSettings
from cai.training.processes import ALONE, Processes


def collect_rollout(
    learner: Learner,
    prompts: Sequence[TokenPrompt],
    reward: Reward,
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
    training: bool = True,
    against: Sequence[str] | None = None,
) -> Rollout:
    """Sample one response per prompt and score it (steps 2 to 5 of docs/ppo.md).

    A prompt that is given twice gets two draws. Draws are seeded by `seed`, the `step` (from 0) and
    the prompt's place. `training=False` changes neither the scores nor their running scale, and
    takes each prompt alone; `against` are then the texts that the responses are compared with.

    Raises:
        CaiError: A score is not finite, too many responses get none, or a scorer returns too few
            or too many.
    """
    # 2. Sample.
    episodes, sampled_logprobs_BT = sample(learner, prompts, settings, seed=seed, step=step)
    # 3. Score.
    learner.act_as("preference")
    ended_B = has_ended(episodes, learner.chat.stop_ids)
    scored = score_episodes(
        reward,
        prompts,
        episodes,
        ended_B,
        settings,
        learner.control if training else None,
        learner.processes,
        samples=settings.samples_per_prompt if training else 1,
        against=against,
    )
    _check_scores(scored, settings, f"PPO step {step + 1}" if training else "the guard's check")
    # 4. Reference log-probabilities, and 5. values.
    with learner.autocast():
        logprobs_BT = sampled_logprobs_BT
        elsewhere = learner.sampler is not sample_here
        if learner.dtype != torch.float32 or elsewhere:
            # bfloat16 log-probs depend on batch shapes: take them as the update will see them.
            logprobs_BT = policy_logprobs(learner, "policy", episodes, settings)
        if elsewhere:
            check_agreement(logprobs_BT, sampled_logprobs_BT, episodes.mask_BT)
        ref_logprobs_BT = policy_logprobs(learner, "reference", episodes, settings)
        values_BT = None
        if learner.critic is not None:
            learner.act_as("critic")
            values_BT = without_gradient(
                learner.critic, episodes, settings.micro_batch_size, learner.processes
            )
    return Rollout(
        episodes=episodes,
        logprobs_BT=logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        values_BT=values_BT,
        scores_B=scored.scores_B,
        ended_B=ended_B,
        parts=scored.parts,
        states=scored.states,
        samples_compared=settings.samples_compared if training else 1,
    )


def sample(
    learner: Learner,
    prompts: Sequence[TokenPrompt],
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
) -> tuple[Episodes, Tensor]:
    """Sample from the full softmax (no top-p, no top-k: the loss differentiates all of it).

    Returns:
        The episodes and log π of the sampled tokens as they were sampled, `(B, T)`, nats.
    """
    requests = [
        TokenRequest(
            prompt_ids=prompt.ids,
            seed=derive_seed(seed, "ppo", step, index),
            max_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
        )
        for index, prompt in enumerate(prompts)
    ]
    shared = learner.sampler(learner, learner.processes.share(requests))
    completions = learner.processes.gather(shared)
    episodes = Episodes.from_lists(
        [prompt.ids for prompt in prompts],
        [completion.token_ids for completion in completions],
        pad_id=learner.chat.pad_id,
        device=learner.device,
    )
    logprobs_BT = torch.zeros(episodes.response_ids_BT.shape, device=learner.device)
    flat = [logprob for completion in completions for logprob in completion.logprobs]
    logprobs_BT[episodes.mask_BT] = torch.tensor(flat, device=learner.device)
    return episodes, logprobs_BT


def has_ended(episodes: Episodes, stop_ids: frozenset[int]) -> Tensor:
    """Return which responses end in a stop token, be it in the very last slot, `(B,)` bool."""
    last_B1 = episodes.response_lengths_B[:, None].to(episodes.device) - 1
    last_ids_B = episodes.response_ids_BT.gather(1, last_B1).squeeze(1)
    return torch.isin(last_ids_B, torch.tensor(sorted(stop_ids), device=episodes.device))


class Scored(NamedTuple):
    """What scorers say of sampled responses."""

    scores_B: Tensor
    """The score of each response, `(B,)` float32; NaN where a scorer has none."""
    parts: dict[str, Tensor]
    """Each scorer's scores of the responses that were read, not weighted, `(n,)`: NaN where it has
    none, infinite where what it said is not a number."""
    states: dict[str, int]
    """How many responses have no score, by state."""


def score_episodes(
    reward: Reward,
    prompts: Sequence[TokenPrompt],
    episodes: Episodes,
    ended_B: Tensor,
    settings: PPOSettings,
    control: Control | None = None,
    processes: Processes = ALONE,
    *,
    samples: int = 1,
    against: Sequence[str] | None = None,
) -> Scored:
    """Score the sampled ids; each process scores its share of the prompts.

    A response that did not end gets `no_eos_reward` unread; where that is None it is scored like
    any other. `no_eos_penalty` is subtracted in both cases. With `normalise_rewards`, the given
    scores are normalised by `control`, if there is one. `samples` neighbours answer the same
    prompt; `against` is as in `Reward.scores`.
    """
    scored_B = ended_B if settings.no_eos_reward is not None else torch.ones_like(ended_B)
    scores_B = torch.full((len(episodes),), settings.no_eos_reward or 0.0, device=episodes.device)
    rows: list[int] = scored_B.nonzero().squeeze(1).tolist()
    parts: dict[str, Tensor] = {}
    states: Counter[str] = Counter()
    if rows:
        groups = [list(part) for _, part in groupby(rows, key=lambda row: row // samples)]
        shared = processes.share(groups)
        mine = list(chain(*shared))
        sequences = episodes.select(torch.tensor(mine, dtype=torch.long)).sequences()
        asked = [prompts[row] for row in mine]
        pairs = zip(asked, sequences, strict=True)
        said = reward.scores(
            asked,
            [ids[len(prompt.ids) :] for prompt, ids in pairs],
            groups=[len(group) for group in shared],
            against=None if against is None else [against[row] for row in mine],
        )
        by_row = zip(*said.values(), strict=True)
        gathered = processes.gather([list(islice(by_row, len(group))) for group in shared])
        by_scorer = [list(scores) for scores in zip(*chain(*gathered), strict=True)]
        parts = {n: _numbers(x) for n, x in zip(reward.scorers, by_scorer, strict=True)}
        worst = [next((x for x in row if isinstance(x, str)), None) for row in chain(*gathered)]
        states.update(state for state in worst if state is not None)
        scores = reward.total(parts)
        if settings.normalise_rewards and control is not None:
            known = ~scores.isnan()
            scores[known] = control.normalise(scores[known])
        scores_B[scored_B] = scores.to(scores_B)
    return Scored(scores_B - settings.no_eos_penalty * ~ended_B, parts, dict(states))


def _numbers(scores: Sequence[Score]) -> Tensor:
    """Write states as NaN, and what is not finite as infinity, `(n,)` float32."""
    return torch.tensor(
        [math.nan if isinstance(x, str) else x if math.isfinite(x) else math.inf for x in scores]
    )


def _check_scores(scored: Scored, settings: PPOSettings, where: str) -> None:
    """Raise a CaiError if a score is not finite, or too many responses have none."""
    for name, scores in scored.parts.items():
        if scores.isinf().any():
            raise CaiError(
                f"The reward `{name}` gave a score that is not a number at {where}. If it is a "
                "preference model, lower `preference.learning_rate` and train it again; if it is "
                "your own function, fix it. The newest checkpoint is kept."
            )
    lost, count = sum(scored.states.values()), len(scored.scores_B)
    if lost <= settings.max_left_out * count and lost < count:
        return
    said = ", ".join(f"{state} {n}" for state, n in scored.states.items())
    common = max(scored.states, key=lambda state: scored.states[state])
    raise CaiError(
        f"{lost} of {count} responses got no score at {where} ({said}); `ppo.max_left_out` allows "
        f"{settings.max_left_out:.0%}. {ADVICE.get(common, 'Repair the reward.')} The newest "
        "checkpoint is kept."
    )


def policy_logprobs(
    learner: Learner,
    role: Literal["policy", "reference"],
    episodes: Episodes,
    settings: PPOSettings,
) -> Tensor:
    """Return the log-probabilities of the sampled tokens under a model, `(B, T)`, no gradient."""
    model = learner.policy if role == "policy" else learner.reference
    learner.act_as(role)
    return without_gradient(
        lambda part: response_logprobs(model, part, settings.temperature)[0],
        episodes,
        settings.micro_batch_size,
        learner.processes,
    )
