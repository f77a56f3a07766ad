"""Generation at token level: the synchronous core of the local engine, also PPO's rollouts.

A batch of rows decodes together. Rows that have finished leave it and waiting rows join it as soon
as there are enough of either to be worth the copying, so mixed lengths do not leave it idle.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cai.engines import PromptTooLong
from cai.engines.cache import RowCache
from cai.engines.draws import as_seeds, inverse_cdf, uniforms
from cai.errors import CaiError

_TURNOVER = 1 / 8
"""Rows leave or join when they are at least this share of the batch."""
_SIMILAR = 3 / 4
"""Prompts are prefilled together if they are at least this share of the longest among them."""


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
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


@dataclass
class _Row:
    """A request, the caller's name for it, and what was sampled so far."""

    request: TokenRequest
    tag: Any
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish: Literal["stop", "length"] | None = None

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
        return TokenCompletion(tuple(self.token_ids), tuple(self.logprobs), self.finish or "length")


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


@dataclass
class _Part:
    """Rows that have their newest token, and where in a cache the tokens before it are."""

    rows: list[_Row]
    cache: RowCache
    places: list[int]

    def alive(self) -> _Part:
        pairs = zip(self.rows, self.places, strict=True)
        kept = [(row, place) for row, place in pairs if row.finish is None]
        return _Part([row for row, _ in kept], self.cache, [place for _, place in kept])


class _Batch:
    """B rows that decode together; the cache has L columns, one for each token but the newest."""

    def __init__(self, parts: Sequence[_Part], device: torch.device) -> None:
        self.rows = [row for part in parts for row in part.rows]
        self.sampler = _Sampler(self.rows, device)
        columns = max(row.length for row in self.rows) - 1
        self.cache = RowCache.of_rows(
            [(part.cache, torch.tensor(part.places, device=device)) for part in parts], columns
        )
        unused = [columns - (row.length - 1) for row in self.rows]
        self.starts = torch.tensor(unused, device=device)[:, None]
        newest = [row.token_ids[-1] for row in self.rows]
        self.newest = torch.tensor(newest, device=device)[:, None]

    def part(self) -> _Part:
        return _Part(self.rows, self.cache, list(range(len(self.rows))))


class DecodeLoop:
    """Samples completions from a causal language model, as its weights are at the moment.

    Either `run` a list of requests, or `submit` them at any time and `step` while `busy`.

    Attributes:
        context: The most tokens that a prompt and its completion may have; None if unlimited.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (any transformers causal language model)
        *,
        stop_ids: Collection[int],
        pad_id: int,
        max_batch_tokens: int,
    ) -> None:
        """Prepare; nothing is copied.

        Args:
            model: A transformers causal language model with attention in every layer.
            stop_ids: Each of these tokens ends a completion.
            pad_id: Any valid token: what it is makes no difference.
            max_batch_tokens: Rows are admitted while their number times the prompt and
                `max_tokens` of the longest stays within; a row alone always is. Copies made when
                rows join or leave may double it for a moment.
        """
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self._waiting: list[_Row] = []
        self._batch: _Batch | None = None

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
        return bool(self._waiting) or self._batch is not None

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
        self._batch = None

    @torch.inference_mode()
    def step(self) -> list[tuple[Any, TokenCompletion]]:
        """Sample the next token of every row; return the tags and completions of finished rows."""
        finished: list[_Row] = []
        if self._batch is not None:
            finished += self._decode(self._batch)
        finished += self._turn_over()
        return [(row.tag, row.completion()) for row in finished]

    def _decode(self, batch: _Batch) -> list[_Row]:
        """Feed each row's newest token and sample its next one."""
        columns = batch.cache.get_seq_length() + 1
        positions = columns - 1 - batch.starts
        if self.context is not None:
            positions.clamp_(max=self.context - 1)  # finished rows run on until they leave
        logits = self._last_logits(
            input_ids=batch.newest,
            attention_mask=torch.arange(columns, device=batch.starts.device) >= batch.starts,
            position_ids=positions,
            past_key_values=batch.cache,
        )
        tokens, finished = self._sample(batch.rows, batch.sampler, logits)
        batch.newest = tokens[:, None]
        return finished

    def _turn_over(self) -> list[_Row]:
        """Let finished rows leave and waiting rows join, if they are enough to be worth it."""
        size = len(self._batch.rows) if self._batch else 0
        staying = [self._batch.part().alive()] if self._batch else []
        joining = self._admissible(staying[0].rows if staying else [])
        left = size - sum(len(part.rows) for part in staying)
        if max(left, len(joining)) < _TURNOVER * size:
            return []
        del self._waiting[: len(joining)]
        joined = [self._prefill(group) for group in _similar(joining)]
        finished = [row for part in joined for row in part.rows if row.finish is not None]
        parts = [part for part in (*staying, *(new.alive() for new in joined)) if part.rows]
        self._batch = _Batch(parts, self._model.device) if parts else None
        return finished

    def _admissible(self, staying: Iterable[_Row]) -> list[_Row]:
        """Return the first waiting rows that fit beside those that stay."""
        count = length = remaining = 0
        for row in staying:
            count, length = count + 1, max(length, row.length)
            remaining = max(remaining, row.remaining)
        admitted: list[_Row] = []
        for row in self._waiting:
            count, length = count + 1, max(length, row.length)
            remaining = max(remaining, row.remaining)
            if count > 1 and count * (length + remaining) > self._max_batch_tokens:
                break
            admitted.append(row)
        return admitted

    def _prefill(self, rows: list[_Row]) -> _Part:
        """Run the prompts, equal ones once, and sample each row's first token."""
        prompts = list(dict.fromkeys(row.request.prompt_ids for row in rows))
        places = {prompt: place for place, prompt in enumerate(prompts)}
        part = _Part(rows, RowCache(), [places[row.request.prompt_ids] for row in rows])
        device = self._model.device
        ids, starts = left_padded(prompts, self._pad_id, device)
        columns = torch.arange(ids.shape[1], device=device)
        logits = self._last_logits(
            input_ids=ids,
            attention_mask=columns >= starts,
            position_ids=(columns - starts).clamp(min=0),
            past_key_values=part.cache,
        )
        logits = logits[torch.tensor(part.places, device=device)]
        self._sample(rows, _Sampler(rows, device), logits)
        return part

    def _last_logits(self, **inputs: Any) -> torch.Tensor:  # noqa: ANN401
        output = self._model(**inputs, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]

    def _sample(
        self, rows: Sequence[_Row], sampler: _Sampler, logits: torch.Tensor
    ) -> tuple[torch.Tensor, list[_Row]]:
        """Append a token to each unfinished row; return all tokens and the rows it finished."""
        tokens, ids, logprobs = sampler.sample(logits)
        finished: list[_Row] = []
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            if row.finish is not None:
                continue
            if math.isnan(logprob):
                raise nan_error()
            row.append(token, logprob, self._stop_ids)
            if row.finish is not None:
                finished.append(row)
        return tokens, finished


def left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts as one `(B, longest)` tensor, and the column `(B, 1)` where each starts."""
    longest = max(map(len, prompts))
    padded = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    starts = [[longest - len(prompt)] for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(starts, device=device)


def _similar(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Group rows, sorted longest first, so that little of a prefill is padding."""
    groups: list[list[_Row]] = []
    for row in rows:
        if groups and row.length >= _SIMILAR * groups[-1][0].length:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def nan_error() -> CaiError:
    """Return what to raise when log-probabilities are NaN."""
    return CaiError(
        "The model computes probabilities that are not numbers (NaN). Its weights may be damaged, "
        "or its training diverged; or it needs `dtype: float32` in its settings."
    )
