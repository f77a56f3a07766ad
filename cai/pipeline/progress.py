"""The progress of a run: a Rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

PLAIN_SECONDS = 10.0
"""Without a terminal, a line is printed at most this often."""

SHOWN = {
    "loss": "loss",
    "objective/rlhf_reward": "reward",
    "objective/scores": "score",
    "objective/kl": "KL",
    "response/length": "tokens",
    "time/episodes_per_second": "episodes/s",
}
"""The metrics of a training step that the bar shows, and their names there."""


class Progress:
    """Shows messages and progress on one console."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self.console = console

    def say(self, text: str) -> None:
        """Print a line (Rich markup is not read)."""
        self.console.print(text, markup=False, highlight=False)

    def task(self, what: str, total: int) -> AbstractContextManager[Callable[[str], None]]:
        """Show a task of `total` units; yields a function that counts one, with a remark."""
        return (self._bar if self.console.is_terminal else self._lines)(what, total)

    @contextmanager
    def rows(
        self, what: str, total: int, *, tokens: Callable[[], int]
    ) -> Generator[Callable[[], None]]:
        """Show how many of `total` rows are finished, and the speed in tokens (in and out).

        Yields a function that counts a finished row.
        """
        started, before = time.monotonic(), tokens()
        with self.task(what, total) as advance:

            def one() -> None:
                seconds = max(time.monotonic() - started, 1e-9)
                advance(f"{(tokens() - before) / seconds:.0f} tokens/s")

            yield one

    @contextmanager
    def training(self, what: str) -> Generator[Callable[[Mapping[str, float]], None]]:
        """Show a training run; yields a function that gets the metrics of each step.

        The metrics hold `step` and `steps` (how many there will be); a few others are shown.
        """
        with ExitStack() as stack:
            advance: Callable[[str], None] | None = None

            def on_step(metrics: Mapping[str, float]) -> None:
                nonlocal advance
                if advance is None:
                    left = int(metrics["steps"] - metrics["step"]) + 1
                    advance = stack.enter_context(self.task(what, left))
                shown = [f"{said} {metrics[n]:.2f}" for n, said in SHOWN.items() if n in metrics]
                advance(", ".join(shown))

            yield on_step

    @contextmanager
    def _bar(self, what: str, total: int) -> Generator[Callable[[str], None]]:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}", markup=False),
        )
        with RichProgress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total, remark="")
            yield lambda remark: bar.update(task, advance=1, remark=remark)

    @contextmanager
    def _lines(self, what: str, total: int) -> Generator[Callable[[str], None]]:
        last = time.monotonic()
        first: float | None = None
        done = 0

        def advance(remark: str) -> None:
            nonlocal done, first, last
            done += 1
            now = time.monotonic()
            first = now if first is None else first  # before it, the model was loaded
            if now - last >= PLAIN_SECONDS:
                last = now
                speed = ""
                if now > first:
                    rate = (done - 1) / (now - first)
                    speed = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left"
                self.say(f"  {what}: {done}/{total}{speed} {remark}")

        yield advance


class _Rate(ProgressColumn):
    """Units a second, blank until it is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")
