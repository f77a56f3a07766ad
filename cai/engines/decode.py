"""Generation at token level: the synchronous core of the local engine, also PPO's rollouts.

A batch of rows decodes together. Finished rows leave it, and prompts of waiting rows run beside the
newest tokens of the others, so rows of different lengths do not leave the batch idle.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import torch

from cai.engines import PromptTooLong
from cai.engines.attention import PAGE, Decoding
from cai.engines.draws import TokenSampler, nan_error
from cai.engines.forward import Piece, check_attention, prompt_tokens, run_tokens
from cai.engines.graphs import StepGraphs, can_capture
from cai.engines.pages import PagedCache, pages_for
from cai.engines.prefixes import Prefixes, Stored, begin_prompts

FEW = 16
"""With fewer rows than this, a step costs nearly as much as with twice as many."""

_STAY = 2
"""Steps for which a finished row stays: a request that continues it then needs no copy."""

_WAIT = 8
"""Steps that a few new prompts wait, so that the steps between them can be CUDA graphs."""

_GAPS = 1 / 8
"""With more free pages than this between those in use, they are put together."""


@dataclass(frozen=True)
class TokenRequest:
    """One completion, in tokens; see `GenerateRequest`."""

    prompt_ids: tuple[int, ...]
    """At least one token."""
    seed: int
    max_tokens: int
    """The most new tokens, at least 1."""
    temperature: float = 1.0
    ends: Callable[[Sequence[int]], bool] | None = None
    """Called after each token with the completion so far; True ends it (stop texts)."""


@dataclass(frozen=True)
class TokenCompletion:
    """A sampled completion."""

    token_ids: tuple[int, ...]
    """Every sampled id, the stop token included."""
    logprobs: tuple[float, ...]
    """log P of each id under the sampling distribution (the softmax of logits divided by the
    temperature, by 1 if greedy), nats, in float32."""
    finish: Literal["stop", "length"]
    """`stop` if a stop token or `ends` ended it, also in the last place, else `length`."""
    cached: int = field(default=0, compare=False)
    """The tokens of the prompt that were cached, which depends on the rest of the batch."""


def check_request(request: TokenRequest, context: int | None) -> None:
    """Raise an error if a request is out of range, or longer than a model's context.

    Raises:
        PromptTooLong: The prompt and `max_tokens` exceed the context.
        ValueError: The prompt is empty, or a number is out of range (see `TokenRequest`).
    """
    length = len(request.prompt_ids)
    if not length or request.max_tokens < 1 or not 0 <= request.temperature < math.inf:
        raise ValueError(
            f"a request needs a prompt (has {length} tokens), max_tokens of at least 1 (has "
            f"{request.max_tokens}) and a temperature of at least 0 (has {request.temperature})"
        )
    if context is not None and length + request.max_tokens > context:
        raise PromptTooLong(
            f"The prompt has {length} tokens and may be followed by {request.max_tokens}, but "
            f"the model's context is {context}."
        )


@dataclass
class Row:
    """A request, the caller's name for it, and what was sampled so far."""

    request: TokenRequest
    tag: Any
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish: Literal["stop", "length"] | None = None
    cached: int = 0
    stored: Stored = field(init=False)

    @property
    def length(self) -> int:
        """The tokens of the prompt and those sampled."""
        return len(self.request.prompt_ids) + len(self.token_ids)

    @property
    def reserved(self) -> int:
        """The tokens of all pages that it may come to need."""
        return PAGE * pages_for(len(self.request.prompt_ids) + self.request.max_tokens)

    def append(self, token: int, logprob: float, stop_ids: Collection[int]) -> None:
        """Take a sampled token; set `finish` if it is the last."""
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        ends = self.request.ends
        if token in stop_ids or (ends is not None and ends(self.token_ids)):
            self.finish = "stop"
        elif len(self.token_ids) == self.request.max_tokens:
            self.finish = "length"

    def completion(self) -> TokenCompletion:
        """Return what was sampled."""
        return TokenCompletion(
            tuple(self.token_ids), tuple(self.logprobs), self.finish or "length", self.cached
        )


class _Batch:
    """B rows that decode together, all with their newest token not yet run."""

    def __init__(self, model: Any, *, graphs: bool) -> None:  # noqa: ANN401
        self.rows: list[Row] = []
        self.cache = PagedCache()
        wanted = graphs and can_capture(model)
        self.graphs = StepGraphs(model, self.cache) if wanted else None
        self._device: torch.device = model.device
        self._decoding: Decoding | None = None

    def decoding(self) -> Decoding | None:
        """Return the places of the newest tokens; rows whose pages are full get one more."""
        full = [row for row in self.rows if row.length > PAGE * len(row.stored.pages)]
        for row, page in zip(full, self.cache.take(len(full)), strict=True):
            row.stored.pages.append(page)
        if not self.rows:
            self._decoding = None
        elif full or self._decoding is None:
            self._decoding = Decoding(
                [row.stored.pages for row in self.rows],
                [row.length for row in self.rows],
                self._device,
            )
        else:
            self._decoding.advance()
        return self._decoding

    def let_go(self, pages: Sequence[int], others: Sequence[Row]) -> None:
        """Free pages; if those of the rows, and of others, have many gaps, close these."""
        self.cache.free(pages)
        if self.cache.top - self.cache.used > _GAPS * self.cache.used:
            moved = self.cache.compact()
            for row in (*self.rows, *others):
                row.stored.pages[:] = [moved.get(page, page) for page in row.stored.pages]
            self._decoding = None

    def become(self, rows: list[Row]) -> None:
        """Decode these rows from now on."""
        self.rows, self._decoding = rows, None


class DecodeLoop:
    """Samples completions from a causal language model with its present weights.

    Either `run` a list of requests, or `submit` them at any time and `step` while `busy`. `context`
    is the most tokens of a prompt and its completion (None: no limit), `prefixes` the cached
    sequences.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (any transformers causal language model)
        *,
        stop_ids: Collection[int],
        max_batch_tokens: int,
        prefix_tokens: int = 0,
        graphs: bool = True,
    ) -> None:
        """Prepare; nothing is copied.

        Args:
            model: A transformers causal language model; see `check_attention`.
            stop_ids: Each of these tokens ends a completion.
            max_batch_tokens: Rows are admitted while the pages for all prompts and `max_tokens`
                hold no more; at least one row always is.
            prefix_tokens: Finished rows of so many tokens are cached for requests that begin alike.
                Only for weights that do not change.
            graphs: On a GPU, repeat steps as CUDA graphs where the model allows it.

        Raises:
            CaiError: The model's attention cannot be replaced.
        """
        check_attention(model)
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._max_batch_tokens = max_batch_tokens
        self._graphs = graphs
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.prefixes = Prefixes(prefix_tokens)
        self.clear()

    def run(self, requests: Sequence[TokenRequest]) -> list[TokenCompletion]:
        """Complete all requests, in their order, with the model in eval mode; errors as `submit`.

        Raises:
            CaiError: The model computes NaN.
        """
        was_training = self._model.training
        self._model.eval()
        completions: dict[int, TokenCompletion] = {}
        try:
            for index, request in enumerate(requests):
                self.submit(request, index)
            while self.busy:
                completions.update(self.step())
        finally:
            self.clear()
            self._model.train(was_training)
        return [completions[index] for index in range(len(requests))]

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting or self._batch.rows)

    @property
    def rows(self) -> int:
        """The number of rows that decode."""
        return len(self._batch.rows)

    @property
    def starved(self) -> bool:
        """Whether there are fewer than `FEW` requests, and twice as many would fit."""
        rows = [*self._batch.rows, *self._waiting[:FEW]]
        reserved = sum(row.reserved for row in rows)
        return len(rows) < FEW and 2 * reserved <= self._max_batch_tokens

    def check(self, request: TokenRequest) -> None:
        """Raise what `submit` would raise."""
        check_request(request, self.context)

    def submit(self, request: TokenRequest, tag: Any) -> None:  # noqa: ANN401
        """Queue a request; `step` will return its completion together with `tag`.

        Raises:
            PromptTooLong: The prompt and `max_tokens` exceed the context.
            ValueError: The prompt is empty, or a number is out of range (see `TokenRequest`).
        """
        self.check(request)
        bisect.insort(self._waiting, Row(request, tag), key=lambda row: -row.length)

    def clear(self) -> None:
        """Forget all requests."""
        self._waiting: list[Row] = []
        self._left = deque[list[Row]]([] for _ in range(_STAY))
        self.prefixes.clear()
        self._batch = _Batch(self._model, graphs=self._graphs)
        self._sampler: TokenSampler | None = None
        self._newest: torch.Tensor | None = None
        self._waited = 0

    @torch.inference_mode()
    def step(self) -> list[tuple[Any, TokenCompletion]]:
        """Sample the next token of every row; return the tags and completions of finished rows.

        The prompts of rows that join run in the same forward pass as the newest tokens of others.
        """
        batch, joining = self._batch, [] if self._later() else self._admit()
        self._let_go([row for row, _ in joining])
        rows = [*batch.rows, *(row for row, _ in joining)]
        if not rows:
            self._leave([])
            return []
        if self._sampler is None or joining:
            self._sampler = TokenSampler(
                [row.request.seed for row in rows],
                [row.request.temperature for row in rows],
                self._model.device,
            )
        logits = self._run([piece for _, piece in joining])
        places = [len(row.token_ids) for row in rows]
        self._newest, ids, logprobs = self._sampler.sample(logits, places)
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            if math.isnan(logprob):
                raise nan_error()
            row.append(token, logprob, self._stop_ids)
        for row, _ in joining:
            self.prefixes.add(row.stored)
        finished = [row for row in rows if row.finish is not None]
        if finished:
            alive = torch.tensor([row.finish is None for row in rows], device=self._newest.device)
            self._newest, self._sampler = self._newest[alive], None
        self._leave(finished)
        if finished or joining:
            batch.become([row for row in rows if row.finish is None])
        return [(row.tag, row.completion()) for row in finished]

    def _later(self) -> bool:
        """Whether to wait: the waiting prompts are few and new."""
        self._waited += 1
        graphs, rows, waiting = self._batch.graphs, len(self._batch.rows), len(self._waiting)
        if graphs and graphs.usable and self._waited < _WAIT and 8 * waiting < rows:
            return True
        self._waited = 0
        return False

    def _run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Return the logits after the newest token of each row, then after those of each piece."""
        batch = self._batch
        rows, newest, graphs = batch.decoding(), self._newest, batch.graphs
        if pieces or graphs is None or not graphs.usable or rows is None or newest is None:
            return run_tokens(self._model, batch.cache, pieces, rows=rows, newest=newest)
        return graphs.run(rows, newest)

    def _admit(self) -> list[tuple[Row, Piece]]:
        """Take the first waiting rows that fit, each with the tokens of its prompt to be run."""
        reserved = sum(row.reserved for row in self._batch.rows)
        fitting: list[Row] = []
        for row in self._waiting:
            if reserved + row.reserved > self._max_batch_tokens and (fitting or self._batch.rows):
                break
            reserved += row.reserved
            fitting.append(row)
        if not fitting:
            return []
        self._batch.cache.reserve(pages_for(reserved))
        begun = begin_prompts(
            [row.request.prompt_ids for row in fitting],
            self.prefixes,
            self._batch.cache,
            prompt_tokens(self._model),
        )
        for some in begun:
            row = fitting[some.place]
            row.stored, row.cached = some.stored, some.piece.known
        for some in reversed(begun):
            del self._waiting[some.place]
        return [(fitting[some.place], some.piece) for some in begun]

    def _leave(self, rows: list[Row]) -> None:
        """Keep the pages of finished rows for some steps."""
        for row in rows:
            self.prefixes.remove(row.stored)
            # The states of the last token have never been computed.
            row.stored.ids = (*row.request.prompt_ids, *row.token_ids[:-1])
            row.stored.left = True
            self.prefixes.add(row.stored)
        self._left.append(rows)

    def _let_go(self, joining: Sequence[Row]) -> None:
        """Free the pages of rows that finished some steps ago; the prefixes may keep copies."""
        gone = [row.stored for row in self._left.popleft()]
        if gone:
            for stored in gone:
                self.prefixes.remove(stored)
            self.prefixes.keep(gone)
            staying = [*joining, *chain.from_iterable(self._left)]
            self._batch.let_go([page for stored in gone for page in stored.pages], staying)
