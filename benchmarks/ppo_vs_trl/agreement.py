"""The same weights, rollout and rewards in TRL's computations and in ours.

`trl_side.py` runs TRL's own training loop and tapes its local variables: nothing of it is copied
here. What differs by choice is shown beside what agrees once that one choice is taken over.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ppo_vs_trl.ours import load
from benchmarks.ppo_vs_trl.workloads import PAD, VALUE_HEAD, Workload
from cai.ppo.advantages import RewardedEpisodes, gae
from cai.ppo.batch import Episodes
from cai.ppo.forward import response_logprobs
from cai.ppo.math import kl_shaped_rewards, masked_whiten, value_loss
from cai.ppo.objectives import PolicyTokens, clip
from cai.ppo.rollout import has_ended

TOLERANCE = 2e-5
"""Absolute; float32, TRL's padded forward passes against ours without padding."""


@torch.no_grad()
def compare(folder: Path, tape_file: Path) -> dict[str, float]:
    """Return the largest absolute difference of each quantity.

    Names that begin with "choice:" are differences that are meant (docs/ppo.md); all others are to
    be within `TOLERANCE`.

    Args:
        folder: The workload that TRL trained on, for one step, with one minibatch.
        tape_file: What `trl_side.py` saved.
    """
    workload = Workload(**json.loads((folder / "workload.json").read_text()))
    tape: list[tuple[str, dict[str, Any]]] = torch.load(tape_file, weights_only=False)
    rollout = tape[0][1]
    episodes = _episodes(rollout)
    mask, width = episodes.mask_BT, rollout["values"].shape[1]
    theirs = {name: x[:, : mask.shape[1]] for name, x in rollout.items() if _is_table(x, width)}

    learner, preference = load(folder, workload)
    learner.critic.value_head.weight.copy_(VALUE_HEAD * preference.model.score.weight)
    ended = has_ended(episodes, learner.chat.stop_ids)
    found: dict[str, Tensor] = {}
    logprobs, _ = response_logprobs(learner.policy, episodes, 1.0)
    found["log-probabilities"] = (logprobs - theirs["logprobs"])[mask]
    reference, _ = response_logprobs(learner.reference, episodes, 1.0)
    found["reference log-probabilities"] = (reference - theirs["ref_logprobs"])[mask]
    found["values"] = (learner.critic(episodes) - theirs["values"])[mask]
    scores = preference.score_ids(episodes.sequences())
    found["scores of responses that ended"] = (scores - rollout["scores"])[ended]

    rewards = kl_shaped_rewards(
        rollout["scores"], theirs["logprobs"], theirs["ref_logprobs"], mask, workload.kl_coef
    )
    discount = {"values_BT": theirs["values"], "gamma": workload.gamma, "lam": workload.lam}
    advantages, returns = gae(RewardedEpisodes(rewards, mask, **discount))
    label = f"λ = {workload.lam:g}"
    for name, ours in (("advantages", advantages), ("returns", returns)):
        difference = ours - theirs[name]
        if workload.gamma == workload.lam == 1:
            found[f"{name}, {label}"] = difference[mask]
            continue
        cut = mask.all(dim=1)
        found[f"{name}, {label}, responses cut off"] = difference[cut]
        found[f"choice: {name}, {label}, responses that ended"] = difference[mask & ~cut[:, None]]
        # TRL pays the score one position after the last token, and values the state there.
        extended = ~theirs["padding_mask_p1"]
        late = gae(RewardedEpisodes(theirs["rewards"], extended, **discount))
        after = late[name == "returns"] - theirs[name]
        found[f"{name}, {label}, with the score a position late"] = after[mask]

    count = int(mask.sum())
    whitened = masked_whiten(theirs["advantages"], mask)
    bessel = ((count - 1) / count) ** 0.5  # TRL divides by n - 1
    found["whitened advantages, over n - 1"] = (whitened * bessel - theirs["whitened"])[mask]
    found |= _losses(tape, mask, workload)
    return {name: difference.abs().max().item() for name, difference in found.items()}


def _losses(
    tape: list[tuple[str, dict[str, Any]]], mask: Tensor, workload: Workload
) -> dict[str, Tensor]:
    """Compare the losses of the last epoch, whose ratios are not all 1."""
    last = tape[-1][1]
    rows = last["micro_batch_inds"]
    tokens, extended = mask[rows], ~tape[0][1]["padding_mask_p1"][rows, : mask.shape[1]]
    table = {name: x[:, : mask.shape[1]] for name, x in last.items() if x.dim() == 2}
    policy = clip(
        PolicyTokens(
            table["new_logprobs"],
            table["mb_logprobs"],
            table["mb_advantage"],
            tokens,
            int(tokens.sum()),
            clip_range=workload.clip_range,
        )
    )

    def value(positions: Tensor) -> Tensor:
        return value_loss(
            table["vpred"],
            table["mb_values"],
            table["mb_return"],
            positions,
            clip_range=workload.clip_range,
            token_count=int(positions.sum()),
        ).loss

    return {
        f"policy loss (clipped: {policy.clip_fraction:.0%} of tokens)": policy.loss
        - last["pg_loss"],
        "value loss, with the state after the end": value(extended) - last["vf_loss"],
        "choice: value loss, response tokens only": value(tokens) - last["vf_loss"],
    }


def _episodes(rollout: dict[str, Any]) -> Episodes:
    """Return what TRL sampled as our episodes."""
    start = rollout["context_length"]
    prompts = [
        [i for i in row if i != PAD] for row in rollout["query_responses"][:, :start].tolist()
    ]
    responses = [
        row[: last + 1]
        for row, last in zip(
            rollout["query_responses"][:, start:].tolist(),
            rollout["sequence_lengths"].tolist(),
            strict=True,
        )
    ]
    return Episodes.from_lists(prompts, responses, pad_id=PAD, device=torch.device("cpu"))


def _is_table(x: Any, width: int) -> bool:  # noqa: ANN401
    return isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] == width
