"""Generation at token level: the synchronous core of the local engine, also PPO's rollouts.

A batch of rows decodes together. Rows leave it when they have finished, and waiting rows join it as
soon as there are enough of them, so mixed lengths do not leave it idle.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cai.engines import PromptTooLong
from cai.engines.cache import RowCache, Stored
from cai.engines.draws import as_seeds, inverse_cdf, uniforms
from cai.engines.prefill import prefill
from cai.engines.prefixes import Prefixes
from cai.errors import CaiError

ENOUGH = 1 / 8
"""Waiting rows join, and questions are answered, when they are this share of the batch."""

FEW = 16
"""With fewer rows than this, a step costs nearly as much as with twice as many."""


@dataclass(frozen=True)
class TokenRequest:
    """One completion, in tokens.

    Attributes:
        prompt_ids: At least one token.
        seed: With the position, it decides every draw.
        max_tokens: At most so many new tokens, at least 1.
        temperature: Logits are divided by it; 0 is greedy.
        ends: Called after each token with the completion so far; True ends it (stop texts).
    """

    prompt_ids: tuple[int, ...]
    seed: int
    max_tokens: int
    temperature: float = 1.0
    ends: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class TokenCompletion:
    """What was sampled.

    Attributes:
        token_ids: Every sampled id, the stop token included.
        logprobs: log P of each id under the sampling distribution (the softmax of logits divided
            by the temperature, by 1 if greedy), nats, in float32.
        finish: `stop` if a stop token or `ends` ended it, be it in the last place, else `length`.
        cached: The tokens of the prompt whose states were at hand; this depends on batch mates.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    cached: int = field(default=0, compare=False)


@dataclass
class _Row:
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
        return len(self.request.prompt_ids) + len(self.token_ids)

    @property
    def remaining(self) -> int:
        return self.request.max_tokens - len(self.token_ids)

    def append(self, token: int, logprob: float, stop_ids: Collection[int]) -> None:
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        ends = self.request.ends
        if token in stop_ids or (ends is not None and ends(self.token_ids)):
            self.finish = "stop"
        elif not self.remaining:
            self.finish = "length"

    def completion(self) -> TokenCompletion:
        return TokenCompletion(
            tuple(self.token_ids), tuple(self.logprobs), self.finish or "length", self.cached
        )


class _Sampler:
    """Draws the next token of each of B rows."""

    def __init__(self, rows: Sequence[_Row], device: torch.device) -> None:
        self._rows = rows
        self._seeds = as_seeds([row.request.seed for row in rows])
        temperatures = torch.tensor([row.request.temperature for row in rows], device=device)
        self._greedy = temperatures == 0 if any(r.request.temperature == 0 for r in rows) else None
        self._divisors = torch.where(temperatures > 0, temperatures, 1.0)[:, None]

    def sample(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[int], list[float]]:
        """Return the tokens `(B,)` on the device, and again with their log-probs on the host.

        Args:
            logits: `(B, V)`.
        """
        positions = np.array([len(row.token_ids) for row in self._rows])
        uniform = torch.from_numpy(uniforms(self._seeds, positions)).to(logits.device)
        probabilities = torch.softmax(logits.float() / self._divisors, dim=-1)
        tokens = inverse_cdf(probabilities, uniform)
        if self._greedy is not None:
            tokens = torch.where(self._greedy, logits.argmax(-1), tokens)
        logprobs = probabilities.gather(1, tokens[:, None]).log().squeeze(1)
        # One transfer for both: ids are exact in float64.
        ids, values = torch.stack([tokens.double(), logprobs.double()]).cpu().numpy()
        return tokens, ids.astype(np.int64).tolist(), values.tolist()


class _Batch:
    """B rows that decode together; the cache has L columns, one for each token but the newest."""

    def __init__(self, device: torch.device) -> None:
        self.rows: list[_Row] = []
        self.cache = RowCache()
        self._device = device

    def arrange(self) -> None:
        """Prepare for the next steps, after rows have joined or left."""
        self.sampler = _Sampler(self.rows, self._device)
        columns = self.cache.columns
        unused = [columns - (row.length - 1) for row in self.rows]
        self.starts = torch.tensor(unused, device=self._device)[:, None]
        newest = [row.token_ids[-1] for row in self.rows]
        self.newest = torch.tensor(newest, device=self._device)[:, None]

    def locate(self) -> None:
        """Make the whereabouts of the rows' states true again."""
        for place, row in enumerate(self.rows):
            row.stored.cache, row.stored.place = self.cache, place
            row.stored.length = row.length - 1

    def join(self, rows: Sequence[_Row], cache: RowCache, places: Sequence[int]) -> None:
        """Add rows that have their newest token; the others are in these places of a cache."""
        if rows:
            self.cache.join(cache, places, max(row.length for row in rows) - 1)
            self.rows += rows
            self.locate()

    def leave(self) -> None:
        """Let go of the rows that have finished."""
        finished = [place for place, row in enumerate(self.rows) if row.finish is not None]
        columns = max((row.length - 1 for row in self.rows if row.finish is None), default=0)
        order = self.cache.leave(finished, columns)
        self.rows = [self.rows[place] for place in order]


class DecodeLoop:
    """Samples completions from a causal language model, as its weights are at the moment.

    Either `run` a list of requests, or `submit` them at any time and `step` while `busy`.

    Attributes:
        context: The most tokens that a prompt and its completion may have; None if unlimited.
        prefixes: The sequences whose states are at hand.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (any transformers causal language model)
        *,
        stop_ids: Collection[int],
        pad_id: int,
        max_batch_tokens: int,
        prefix_tokens: int = 0,
    ) -> None:
        """Prepare; nothing is copied.

        Args:
            model: A transformers causal language model with attention in every layer.
            stop_ids: Each of these tokens ends a completion.
            pad_id: Any valid token: what it is makes no difference.
            max_batch_tokens: Rows are admitted while their number times the prompt and
                `max_tokens` of the longest stays within; a row alone always is.
            prefix_tokens: Finished rows of so many tokens are kept beside them, for requests that
                begin as they do. Only for weights that do not change.
        """
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.prefixes = Prefixes(prefix_tokens)
        self._waiting: list[_Row] = []
        self._batch = _Batch(model.device)

    def run(self, requests: Sequence[TokenRequest]) -> list[TokenCompletion]:
        """Complete all requests, in their order; the model is in eval mode meanwhile.

        Raises:
            PromptTooLong: A prompt and its `max_tokens` exceed the context.
            ValueError: A request is malformed.
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
        longest = max((row.length + row.remaining for row in rows), default=0)
        return len(rows) < FEW and 2 * len(rows) * longest <= self._max_batch_tokens

    def check(self, request: TokenRequest) -> None:
        """Raise what `submit` would raise."""
        length = len(request.prompt_ids)
        if not length or request.max_tokens < 1 or not 0 <= request.temperature < math.inf:
            raise ValueError(
                f"a request needs a prompt (has {length} tokens), max_tokens of at least 1 (has "
                f"{request.max_tokens}) and a temperature of at least 0 (has {request.temperature})"
            )
        if self.context is not None and length + request.max_tokens > self.context:
            raise PromptTooLong(
                f"The prompt has {length} tokens and may be followed by {request.max_tokens}, but "
                f"the model's context is {self.context}."
            )

    def submit(self, request: TokenRequest, tag: Any) -> None:  # noqa: ANN401
        """Queue a request; `step` will return its completion together with `tag`.

        Raises:
            PromptTooLong: The prompt and `max_tokens` exceed the context.
            ValueError: The prompt is empty, `max_tokens` is not positive, or the temperature is
                negative or not finite.
        """
        self.check(request)
        bisect.insort(self._waiting, _Row(request, tag), key=lambda row: -row.length)

    def clear(self) -> None:
        """Forget all requests."""
        self._waiting.clear()
        self.prefixes.clear()
        self._batch = _Batch(self._model.device)

    @torch.inference_mode()
    def step(self) -> list[tuple[Any, TokenCompletion]]:
        """Sample the next token of every row; return the tags and completions of finished rows."""
        finished = self._decode() if self._batch.rows else []
        if finished:
            self._batch.locate()
            self._release(finished)
            self._batch.leave()
        joining = self._admissible()
        if joining:
            finished += self._admit(joining)
        if finished or joining:
            self._batch.arrange()
        if not self._batch.rows:
            self._batch = _Batch(self._model.device)
        return [(row.tag, row.completion()) for row in finished]

    def _decode(self) -> list[_Row]:
        """Feed each row's newest token and sample its next one; return those that finished."""
        batch = self._batch
        columns = batch.cache.columns + 1
        output = self._model(
            input_ids=batch.newest,
            attention_mask=torch.arange(columns, device=batch.starts.device) >= batch.starts,
            position_ids=columns - 1 - batch.starts,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = self._sample(batch.rows, batch.sampler, output.logits[:, -1])
        batch.newest = tokens[:, None]
        return [row for row in batch.rows if row.finish is not None]

    def _admissible(self) -> list[_Row]:
        """Return the first waiting rows that fit, if they are enough to be worth a prefill."""
        rows = self._batch.rows
        count = len(rows)
        length = max((row.length for row in rows), default=0)
        remaining = max((row.remaining for row in rows), default=0)
        admitted: list[_Row] = []
        for row in self._waiting:
            count, length = count + 1, max(length, row.length)
            remaining = max(remaining, row.remaining)
            if count > 1 and count * (length + remaining) > self._max_batch_tokens:
                break
            admitted.append(row)
        return admitted if len(admitted) >= ENOUGH * len(rows) else []

    def _admit(self, rows: Sequence[_Row]) -> list[_Row]:
        """Run the prompts of waiting rows and sample their first tokens; return the finished."""
        del self._waiting[: len(rows)]
        self._batch.locate()
        groups = prefill(
            self._model,
            [row.request.prompt_ids for row in rows],
            self.prefixes,
            pad_id=self._pad_id,
            max_batch_tokens=self._max_batch_tokens,
        )
        for group in groups:
            joining = [rows[place] for place in group.places]
            for row, stored, cached in zip(joining, group.stored, group.cached, strict=True):
                row.stored, row.cached = stored, cached
            self._sample(joining, _Sampler(joining, self._model.device), group.logits)
            alive = [place for place, row in enumerate(joining) if row.finish is None]
            self._batch.join([joining[place] for place in alive], group.cache, alive)
        finished = [row for row in rows if row.finish is not None]
        self._release(finished)
        return finished

    def _release(self, rows: Sequence[_Row]) -> None:
        """Take rows out of the prefixes, which may keep copies of them."""
        for row in rows:
            self.prefixes.remove(row.stored)
            # The states of the last token have never been computed.
            row.stored.ids = (*row.request.prompt_ids, *row.token_ids[:-1])
        self.prefixes.keep([row.stored for row in rows])

    def _sample(
        self, rows: Sequence[_Row], sampler: _Sampler, logits: torch.Tensor
    ) -> torch.Tensor:
        """Append a token to each row; return all tokens `(B,)`."""
        tokens, ids, logprobs = sampler.sample(logits)
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            if math.isnan(logprob):
                raise nan_error()
            row.append(token, logprob, self._stop_ids)
        return tokens


def nan_error() -> CaiError:
    """Return what to raise when log-probabilities are NaN."""
    return CaiError(
        "The model computes probabilities that are not numbers (NaN). Its weights may be damaged, "
        "or its training diverged; or it needs `dtype: float32` in its settings."
    )
