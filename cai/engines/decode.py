"""Generation at token level: the synchronous core of the local engine, also PPO's rollouts.

A batch of rows decodes together. Rows that have finished leave it and waiting rows join it as soon
as there are enough of either to be worth the copying, so mixed lengths do not leave it idle.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from cai.engines import PromptTooLong
from cai.engines.cache import RowCache
from cai.engines.draws import as_seeds, inverse_cdf, uniforms

_TURNOVER = 8
"""Rows leave and join when they are at least one in so many of the batch."""
_SIMILAR = 0.75
"""Prompts are prefilled together with those at least so long as the longest of them."""


@dataclass(frozen=True)
class TokenRequest:
    """One completion, in tokens.

    Attributes:
        prompt_ids: At least one token.
        seed: With the position, decides every draw.
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
        logprobs: log P of each under the sampling distribution (temperature applied; 1 if greedy),
            nats, from float32 logits.
        finish: `stop` if a stop token, even in the last place, or `ends` ended it, else `length`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


@dataclass
class _Row:
    """A request in the batch. `tag` is the caller's."""

    request: TokenRequest
    tag: Any

    @property
    def length(self) -> int:
        return len(self.request.prompt_ids)


@dataclass
class _Batch:
    """Rows that decode together, as columns of one table; B rows, L cache columns.

    On the device: `cache`; `starts` `(B,)`, the column of each row's first token; `last` `(B,)`,
    the token to feed next; `temperature` `(B,)`, 1 where greedy; `greedy` `(B,)` or None if no row
    is. On the host: `tokens` and `logprobs` `(B, longest max_tokens)`, `counts` `(B,)` tokens so
    far, `limits` `(B,)`, `seeds` `(B,)`, `alive` `(B,)`.
    """

    rows: list[_Row]
    cache: RowCache
    starts: torch.Tensor
    last: torch.Tensor


class DecodeLoop:
    """Samples completions from a causal language model."""
