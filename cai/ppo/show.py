"""A line for each step, for scripts; `cai run` has a bar of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console

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

    Args:
        steps: How many there will be.
        console: Where to print; standard output if None.
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
