"""The log of metrics per step: TensorBoard, and JSON lines in steps.jsonl."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from cai.ppo.batch import Rollout
from cai.ppo.prompts import PromptFormat, TokenPrompt


def rollout_metrics(
    rollout: Rollout, prompts: Sequence[TokenPrompt], kl_coef: float
) -> dict[str, float]:
    """Return means over the episodes of a rollout, one per prompt, also by kind of prompt.

    `objective/kl` is a sum per sequence, in nats. `reward/NAME` is the mean of one scorer over the
    responses it has scored, not weighted; `reward/left_out` counts the episodes that the update
    does not use, `left_out/STATE` those without a score, by state.
    """
    scores = rollout.scores_B
    known = ~scores.isnan()
    mean_score = scores[known].mean().item()
    kl = (rollout.logprobs_BT - rollout.ref_logprobs_BT).sum(dim=1).mean().item()
    metrics = {
        "objective/scores": mean_score,
        "objective/kl": kl,
        "objective/entropy": -rollout.logprobs_BT.sum(dim=1).mean().item(),
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": mean_score - kl_coef * kl,
        "tokens": rollout.episodes.response_lengths_B.sum().item(),
        "response/length": rollout.episodes.response_lengths_B.float().mean().item(),
        "val/num_eos_tokens": rollout.ended_B.sum().item(),
        "response/ended": rollout.ended_B.float().mean().item(),
        "reward/left_out": (~rollout.used_B).sum().item(),
        **{f"left_out/{state}": count for state, count in rollout.states.items()},
    }
    for name, part in rollout.parts.items():
        metrics[f"reward/{name}"] = part.nanmean().item()
    for kind in ("red_team", "helpful"):
        of_kind = torch.tensor([prompt.kind == kind for prompt in prompts], device=scores.device)
        if (of_kind & known).any():
            metrics[f"objective/scores_{kind}"] = scores[of_kind & known].mean().item()
    return metrics


class Conversed(NamedTuple):
    """A prompt, the response to it, and its score."""

    prompt: str
    response: str
    score: float


def conversations(
    chat: PromptFormat, prompts: Sequence[TokenPrompt], rollout: Rollout, count: int = 4
) -> list[Conversed]:
    """Return a few conversations of a rollout, evenly spread over the batch, as people read them.

    Special tokens stay in the texts: they show where a response ended.
    """
    places = range(0, len(prompts), max(1, len(prompts) // count))[:count]
    decode = chat.tokenizer.decode
    lengths = rollout.episodes.response_lengths_B.tolist()
    return [
        Conversed(
            decode(list(prompts[i].ids)),
            decode(rollout.episodes.response_ids_BT[i, : lengths[i]].tolist()),
            rollout.scores_B[i].item(),
        )
        for i in places
    ]


class StepLog:
    """Writes every step's metrics to steps.jsonl and TensorBoard; if `silent`, to neither.

    `records` are those of all steps so far, earlier calls included.
    """

    def __init__(self, path: Path, log_dir: Path, *, done: int, silent: bool = False) -> None:
        """Open both, and remove the steps after the first `done`."""
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        # One line a step, in order: the first `done` are whole, and the ones to keep.
        self.records: list[dict[str, float]] = [json.loads(line) for line in lines[:done]]
        self._file, self._board = None, None
        if silent:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(lines[:done]), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")
        # A run from the start takes back what an earlier one has shown of step 0, too.
        self._board = SummaryWriter(log_dir=str(log_dir), purge_step=done and done + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._file, self._board):
            if opened is not None:
                opened.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step (counted from 1); it is on disk when this returns.

        A metric that is not finite, such as the explained variance of equal returns, is left out.
        """
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        record = {"step": step, **known}
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records.append(record)
        self.show(step, known)

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show metrics on TensorBoard only."""
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def conversations(self, step: int, conversed: Sequence[Conversed]) -> None:
        """Show conversations on TensorBoard's text page, and flush what it has so far."""
        if self._board is None:
            return
        for place, (prompt, response, score) in enumerate(conversed):
            text = f"score {score:.3f}\n\n{_quoted(prompt)}\n\n{_quoted(response)}"
            self._board.add_text(f"conversations/{place}", text, step)
        self._board.flush()


def _quoted(text: str) -> str:
    """Write a text as a Markdown code block, to the letter."""
    return "\n".join(f"    {line}" for line in text.splitlines())


SHOWN = {
    "objective/rlhf_reward": "reward",
    "objective/scores": "score",
    "objective/kl": "KL",
    "response/length": "tokens",
    "time/episodes_per_second": "episodes/s",
}
"""Metrics of a step that are worth a place in a line, and what they are called there."""


def progress_line(
    steps: int, console: Console | None = None
) -> Callable[[Mapping[str, float]], None]:
    """Return an `on_step` for `PPO.train` that prints reward, KL, length, speed and time left.

    `steps` is how many there will be; without a console, it prints to standard output.
    """
    console = console or Console()
    first: list[tuple[float, float]] = []

    def on_step(metrics: Mapping[str, float]) -> None:
        now, step = time.monotonic(), metrics["step"]
        if not first:
            first.append((now, step))
        (start, begun), left = first[0], ""
        if step > begun:
            left = f", {(now - start) / (step - begun) * (steps - step):.0f} s left"
        said = ", ".join(f"{name} {metrics[key]:.2f}" for key, name in SHOWN.items())
        line = f"step {step:.0f}/{steps}: {said}{left}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return on_step
