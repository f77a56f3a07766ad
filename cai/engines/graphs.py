"""Decoding steps as CUDA graphs: one launch in place of a thousand small ones.

With one new token per row, a GPU finishes an operation before Python can start the next one. A
graph repeats a whole step without Python, on tensors at fixed places. Its sizes are fixed, so the
numbers of rows, of pages and of the longest row's pages are rounded up. Unused rows write into a
page of their own; unused pages have no weight. A row's result is the same as without a graph.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from cai.engines.attention import Decoding
from cai.engines.forward import run_rows
from cai.engines.pages import PagedCache

logger = logging.getLogger(__name__)

_WORTH = 3
"""A size is captured when it has run so often: capturing costs about two steps."""


@dataclass(eq=False)
class _Step:
    """A step of one size: what it reads, and what it writes."""

    graph: torch.cuda.CUDAGraph | None
    rows: Decoding
    newest: torch.Tensor
    logits: torch.Tensor


class StepGraphs:
    """The steps of a model in eval mode over one cache, by their sizes.

    The weights may change in place. Without `capture`, the same padded steps run one operation
    after another (for tests on a CPU).
    """

    def __init__(self, model: Any, cache: PagedCache, *, capture: bool = True) -> None:  # noqa: ANN401
        """Capture nothing yet; take the page that unused rows write into."""
        self._model = model
        self._cache = cache
        self.usable = capture
        (self._scrap,) = cache.take(1)
        self._steps: dict[tuple[int, ...], _Step] = {}
        self._seen: dict[tuple[int, ...], int] = {}
        self._memory: tuple[int, int] = (0, 0)
        self._pool: Any = None

    def run(self, rows: Decoding, newest: torch.Tensor) -> torch.Tensor:
        """Run the newest tokens `(B,)`; return logits `(B, V)`, valid until the next step."""
        if not self.usable:
            step = self._prepare(self._sizes(rows), rows, newest)
            return self._forward(step)[: len(newest)]
        if self._cache.memory != self._memory:  # what was captured reads the old one
            # A pool of memory ends with its last graph.
            self._steps, self._pool = {}, None
            self._memory = self._cache.memory
        sizes = self._sizes(rows)
        self._seen[sizes] = self._seen.get(sizes, 0) + 1
        if self._seen[sizes] <= _WORTH:
            return run_rows(self._model, self._cache, rows, newest)
        if sizes not in self._steps:
            step = self._prepare(sizes, rows, newest)
            if not self._captured(step):
                self.usable, self._steps = False, {}
                return run_rows(self._model, self._cache, rows, newest)
            self._steps[sizes] = step
        step = self._steps[sizes]
        step.rows.become(rows, self._scrap)
        step.newest[: len(newest)] = newest
        assert step.graph is not None
        step.graph.replay()
        return step.logits[: len(newest)]

    def _sizes(self, rows: Decoding) -> tuple[int, int, int]:
        """Return rows, pages and the pages of the longest row, rounded up by an eighth at most."""
        count, pages, longest = rows.sizes
        return _rounded(count), min(_rounded(pages), self._cache.capacity), _rounded(longest)

    def _prepare(self, sizes: tuple[int, int, int], rows: Decoding, newest: torch.Tensor) -> _Step:
        padded = Decoding.empty(*sizes, newest.device)
        padded.become(rows, self._scrap)
        tokens = newest.new_zeros(sizes[0])
        tokens[: len(newest)] = newest
        return _Step(None, padded, tokens, torch.empty(0))

    def _forward(self, step: _Step) -> torch.Tensor:
        step.rows.forget_masks()
        return run_rows(self._model, self._cache, step.rows, step.newest)

    def _captured(self, step: _Step) -> bool:
        """Capture a step; warn and return False where the model does not allow it."""
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                self._forward(step)  # libraries set up what they need at the first call
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    step.logits = self._forward(step)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            logger.warning(
                "This model's decoding steps cannot be captured as CUDA graphs (%s): they run one "
                "operation after another, which is right but slower.",
                str(error).splitlines()[0],
            )
            return False
        torch.cuda.current_stream().wait_stream(stream)
        self._pool = self._pool or graph.pool()
        step.graph = graph
        return True


def can_capture(model: Any) -> bool:  # noqa: ANN401
    """Whether steps of a model may be captured: on a GPU, with whole weights on it."""
    return model.device.type == "cuda" and not any(
        isinstance(weight, DTensor) for weight in model.parameters()
    )


def _rounded(count: int) -> int:
    """Return the next number that has at most its first four binary digits set."""
    unit = 1 << max(0, count.bit_length() - 4)
    return -(-count // unit) * unit
