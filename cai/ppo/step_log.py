"""What each step measured: TensorBoard, and one JSON object a line in steps.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch.utils.tensorboard import SummaryWriter

from cai.ppo.batch import Rollout
from cai.ppo.prompts import TokenPrompt


def rollout_metrics(
    rollout: Rollout, prompts: Sequence[TokenPrompt], kl_coef: float
) -> dict[str, float]:
    """Return means over the episodes of a rollout; `objective/kl` is a sum per sequence, nats.

    `reward/NAME` is the mean of one scorer over the responses it has read, not weighted.

    Args:
        rollout: What the policy did.
        prompts: One per episode; scores are also given for each kind of them.
        kl_coef: β of this step.
    """
    scores = rollout.scores_B
    kl = (rollout.logprobs_BT - rollout.ref_logprobs_BT).sum(dim=1).mean().item()
    metrics = {
        "objective/scores": scores.mean().item(),
        "objective/kl": kl,
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": scores.mean().item() - kl_coef * kl,
        "tokens": rollout.episodes.response_lengths_B.sum().item(),
        "response/length": rollout.episodes.response_lengths_B.float().mean().item(),
        "response/ended": rollout.ended_B.float().mean().item(),
    }
    for name, part in rollout.parts.items():
        metrics[f"reward/{name}"] = part.mean().item()
    for kind in ("red_team", "helpful"):
        of_kind = torch.tensor([prompt.kind == kind for prompt in prompts], device=scores.device)
        if of_kind.any():
            metrics[f"objective/scores_{kind}"] = scores[of_kind].mean().item()
    return metrics


class StepLog:
    """Writes every step's metrics to steps.jsonl and TensorBoard.

    Attributes:
        records: All steps so far, those of earlier calls included.
    """

    def __init__(self, path: Path, log_dir: Path, *, done: int) -> None:
        """Open both, and take back what they say of steps after the first `done`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        partial = path.with_name(f".{path.name}.partial")
        # One line a step, in order: the first `done` are whole, and the ones to keep.
        partial.write_text("".join(lines[:done]), encoding="utf-8")
        partial.replace(path)
        self.records: list[dict[str, float]] = [json.loads(line) for line in lines[:done]]
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(log_dir=str(log_dir), purge_step=done + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step (counted from 1); it is on disk when this returns.

        A metric that is not finite, such as the explained variance of equal returns, is left out.
        """
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        record = {"step": step, **known}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.append(record)
        for name, value in known.items():
            self._board.add_scalar(name, value, step)
