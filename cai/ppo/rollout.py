"""One rollout: sample from the live policy, score, and note what the update needs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cai.engines.decode import DecodeLoop, TokenRequest
from cai.errors import CaiError
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.forward import response_logprobs, without_gradient
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt
from cai.records import derive_seed
from cai.settings import PPOSettings

Scorer = Callable[[Sequence[Sequence[int]]], Tensor]
"""Maps token sequences (prompt and response, unpadded) to one score each, `(len,)`."""


def collect_rollout(
    learner: Learner,
    prompts: Sequence[TokenPrompt],
    scorer: Scorer,
    settings: PPOSettings,
    *,
    seed: int,
    step: int,
) -> Rollout:
    """Sample one response per prompt and score it (steps 2 to 5 of docs/ppo.md).

    Args:
        learner: The live policy, its reference and its critic.
        prompts: One per episode.
        scorer: The preference model, or anything else that scores token sequences.
        settings: How to sample, and the score of responses that do not end.
        seed: The run's seed.
        step: Counted from 0; it seeds the sampling, together with each prompt's place.

    Raises:
        CaiError: A score is not finite.
    """
    # 2. Sample.
    episodes, sampled_logprobs_BT = sample(learner, prompts, settings, seed=seed, step=step)
    # 3. Score.
    ended_B = has_ended(episodes, learner.chat.stop_ids)
    scores_B = score_episodes(scorer, episodes, ended_B, settings.no_eos_reward)
    if not scores_B.isfinite().all():
        raise CaiError(
            f"The preference model gave a score that is not a number at PPO step {step + 1}. "
            "Lower `preference.learning_rate` and train the preference model again."
        )
    # 4. Reference log-probabilities, and 5. values.
    with learner.autocast():
        if learner.dtype == torch.float32:
            logprobs_BT = sampled_logprobs_BT
        else:  # bfloat16 log-probs depend on batch shapes: take them as the update will see them
            logprobs_BT = policy_logprobs(learner.policy, episodes, settings)
        return Rollout(
            episodes=episodes,
            logprobs_BT=logprobs_BT,
            ref_logprobs_BT=policy_logprobs(learner.reference, episodes, settings),
            values_BT=without_gradient(learner.critic, episodes, settings.micro_batch_size),
            scores_B=scores_B,
            ended_B=ended_B,
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
    loop = DecodeLoop(
        learner.policy,
        stop_ids=learner.chat.stop_ids,
        pad_id=learner.chat.pad_id,
        max_batch_tokens=learner.max_batch_tokens,
    )
    with learner.autocast():
        completions = loop.run(requests)
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
    last_B1 = episodes.response_lengths_B[:, None] - 1
    last_ids_B = episodes.response_ids_BT.gather(1, last_B1).squeeze(1)
    return torch.isin(last_ids_B, torch.tensor(sorted(stop_ids), device=episodes.device))


def score_episodes(
    scorer: Scorer, episodes: Episodes, ended_B: Tensor, no_eos_reward: float
) -> Tensor:
    """Return the score of each response, `(B,)` float32; `no_eos_reward` where it did not end.

    The scorer sees the very ids that were sampled.
    """
    scores_B = torch.full((len(episodes),), no_eos_reward, device=episodes.device)
    if ended_B.any():
        scores = scorer(episodes.select(ended_B.nonzero().squeeze(1)).sequences())
        scores_B[ended_B] = scores.to(scores_B)
    return scores_B


def policy_logprobs(model: torch.nn.Module, episodes: Episodes, settings: PPOSettings) -> Tensor:
    """Return the log-probabilities of the sampled tokens under a model, `(B, T)`, no gradient."""
    return without_gradient(
        lambda part: response_logprobs(model, part, settings.temperature)[0],
        episodes,
        settings.micro_batch_size,
    )
