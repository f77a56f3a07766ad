"""Attention of sequences that run side by side, over the pages that hold their states.

Sequences with one new token attend together: page by page, over all pages in use; then each page of
a sequence gets its share of the weight, as in flash decoding (Dao et al., 2023). Others attend one
by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from cai.errors import CaiError

PAGE = 64
"""Tokens of a page. Twice as many, and a matrix product takes longer than two of these."""
IMPLEMENTATION = "cai_pages"
"""The name of `attend` among transformers' attention functions."""
_HIDDEN = -1e30
"""Added to scores of tokens that are not attended to; the differences stay finite."""

_FAR = 1 << 40
"""Where an unused page begins: behind the end of every sequence."""

Store = tuple[torch.Tensor, torch.Tensor]
"""A layer's keys and values, each `(pages, heads, PAGE, size)`."""


@dataclass(frozen=True, eq=False)
class How:
    """The attention of a layer."""

    scaling: float
    window: int | None
    """How many tokens each one sees, itself included; None for all."""
    sinks: torch.Tensor | None
    """Scores of attention sinks, which take a share of the weight: `(heads,)`, or none."""


class Decoding:
    """B sequences with one new token each."""

    def __init__(
        self, pages: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device
    ) -> None:
        """Set up the table of pages.

        `pages` are those of each sequence, with room for its new token, and `lengths` its tokens,
        the new one included.
        """
        counts = np.array([len(some) for some in pages])
        numbers = np.fromiter(chain.from_iterable(pages), dtype=np.int64)
        rows = np.repeat(np.arange(len(pages)), counts)
        within = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
        top = int(numbers.max()) + 1
        # Unused pages count as the first sequence's, far behind its end.
        owners, starts = np.zeros(top, dtype=np.int64), np.full(top, _FAR)
        owners[numbers], starts[numbers] = rows, within * PAGE
        # Missing pages of a shorter sequence are any page, with no weight.
        table = np.zeros((len(pages), int(counts.max())), dtype=np.int64)
        absent = np.full(table.shape, _HIDDEN, dtype=np.float32)
        table[rows, within], absent[rows, within] = numbers, 0.0
        self._lengths = torch.tensor(lengths, device=device)
        self.pages, self._owners, self._starts, self._table, self._absent = (
            torch.from_numpy(array).to(device)
            for array in (numbers[np.cumsum(counts) - 1], owners, starts, table, absent)
        )
        self._hidden: dict[int | None, torch.Tensor] = {}

    @property
    def positions(self) -> torch.Tensor:
        """Where the new tokens are in their sequences, `(B,)`; `pages` says in which pages."""
        return self._lengths - 1

    def advance(self) -> None:
        """Let each sequence have one more token, in the same pages."""
        self._lengths = self._lengths + 1
        self.forget_masks()

    def forget_masks(self) -> None:
        """Make the masks anew when they are next needed."""
        self._hidden.clear()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The sequences, one more than the last page of theirs, the pages of the longest one."""
        return len(self._lengths), len(self._owners), self._table.shape[1]

    @classmethod
    def empty(cls, count: int, pages: int, longest: int, device: torch.device) -> Decoding:
        """Return room for up to so many sequences; `become` fills it."""
        made = cls([[0]], [1], device)
        like = made.pages
        made._lengths, made.pages = like.new_ones(count), like.new_zeros(count)
        made._owners, made._starts = like.new_zeros(pages), like.new_zeros(pages)
        made._table = like.new_zeros(count, longest)
        made._absent = torch.zeros(count, longest, device=device)
        return made

    def become(self, other: Decoding, unused: int) -> None:
        """Copy another one, in place, that is no larger.

        Its sequences come first here. The remaining ones are one token long and write into page
        `unused`.
        """
        count, pages, longest = other.sizes
        for own, value in (
            (self._lengths, 1),
            (self.pages, unused),
            (self._owners, 0),
            (self._starts, _FAR),
            (self._table, 0),
            (self._absent, _HIDDEN),
        ):
            own.fill_(value)
        self._lengths[:count], self.pages[:count] = other._lengths, other.pages
        self._owners[:pages], self._starts[:pages] = other._owners, other._starts
        self._table[:count, :longest] = other._table
        self._absent[:count, :longest] = other._absent

    def attend(self, query: torch.Tensor, store: Store, how: How) -> torch.Tensor:
        """Return `(B, heads, size)` for such queries; the new tokens' states are in `store`."""
        count, kv_heads = len(self._owners), store[0].shape[1]
        keys, values = (states[:count].flatten(0, 1) for states in store)
        shape = (count * kv_heads, query.shape[1] // kv_heads, -1)
        each = (query * how.scaling).to(keys.dtype).index_select(0, self._owners)
        scores = _product(each.view(shape), keys.transpose(1, 2)).view(count, -1, PAGE)
        scores += self._mask(how.window)
        weights = torch.softmax(scores, dim=-1)
        # The log of a page's sum: its largest weight is one over the sum above its largest score.
        sums = scores.amax(-1) - weights.amax(-1).log()
        sums = self._by_row(sums) + self._absent[..., None]
        if how.sinks is not None:
            sums = torch.cat([sums, how.sinks.expand(len(sums), 1, -1)], dim=1)
        shares = torch.softmax(sums, dim=1)[:, : self._table.shape[1], :, None]
        parts = torch.bmm(weights.view(shape).to(values.dtype), values)
        return (shares * self._by_row(parts.view(count, -1, values.shape[2]))).sum(1)

    def _mask(self, window: int | None) -> torch.Tensor:
        """Return what is added to the scores, `(pages, 1, PAGE)`."""
        if window not in self._hidden:
            lengths = self._lengths[self._owners][:, None]
            places = self._starts[:, None] + torch.arange(PAGE, device=lengths.device)
            unseen = places >= lengths
            if window is not None:
                unseen |= places < lengths - window
            hidden = torch.zeros(places.shape, device=lengths.device)
            self._hidden[window] = hidden.masked_fill_(unseen, _HIDDEN)[:, None]
        return self._hidden[window]

    def _by_row(self, by_page: torch.Tensor) -> torch.Tensor:
        """Return `(B, most pages, …)` of `(pages, …)`."""
        taken = by_page.index_select(0, self._table.flatten())
        return taken.view(*self._table.shape, *by_page.shape[1:])


def _product(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the batched product in float32, whatever the states are in."""
    if queries.dtype == torch.float32:
        return torch.bmm(queries, keys)
    if queries.is_cuda:
        return torch.bmm(queries, keys, out_dtype=torch.float32)
    return torch.bmm(queries.float(), keys.float())


class Appending:
    """One sequence with any number of new tokens."""

    def __init__(self, known: int, new: int, pages: Sequence[int], device: torch.device) -> None:
        """Prepare for `new` tokens after `known` ones, whose states are in `pages`."""
        self.new = new
        self._known = known
        self._pages = torch.tensor(pages, device=device) if known else None
        self._hidden: dict[int | None, torch.Tensor] = {}

    def attend(self, query: torch.Tensor, new: Store, store: Store, how: How) -> torch.Tensor:
        """Return `(new tokens, heads, size)`.

        The query is `(heads, new tokens, size)`; the new keys and values are each `(key-value
        heads, new tokens, size)`. The states of the known tokens are in `store`.
        """
        keys, values = (self._all(*pair) for pair in zip(new, store, strict=True))
        mask = self._mask(how, keys)
        if how.sinks is not None:
            # One more token, whose score is the mask alone.
            keys, values = (pad(states, (0, 0, 0, 1)) for states in (keys, values))
            seen = keys.new_zeros(1, keys.shape[1] - 1) if mask is None else mask
            sinks = how.sinks.to(keys.dtype)[:, None, None].expand(-1, self.new, 1)
            mask = torch.cat([seen.expand(len(query), self.new, -1), sinks], dim=2)
        shared = len(query) // len(keys)
        if shared > 1 and mask is not None and query.is_cuda:
            # No fused kernel there takes a mask and heads that share keys.
            keys, values = (states.repeat_interleave(shared, 0) for states in (keys, values))
        output = scaled_dot_product_attention(
            query[None].to(keys.dtype),
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=mask is None and not self._known,
            scale=how.scaling,
            enable_gqa=len(query) != len(keys),
        )
        return output[0].transpose(0, 1)

    def _all(self, new: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        """Return the states of all tokens, `(heads, tokens, size)`."""
        if self._pages is None:
            return new
        known = store.index_select(0, self._pages).transpose(0, 1).flatten(1, 2)
        return torch.cat([known[:, : self._known].to(new.dtype), new], dim=1)

    def _mask(self, how: How, like: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the scores; None if a causal mask does, or none is needed."""
        window, every = how.window, self._known + self.new
        causal = not self._known and how.sinks is None
        if (window is None or every <= window) and (causal or self.new == 1):
            return None
        if window not in self._hidden:
            places = torch.arange(every, device=like.device)
            last = places[self._known :, None]
            unseen = places > last
            if window is not None:
                unseen |= places <= last - window
            self._hidden[window] = like.new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
        return self._hidden[window]


@dataclass(eq=False)
class LayerStates:
    """Takes the place of a layer's keys: its pages, and the states of all new tokens."""

    rows: Decoding | None
    """Sequences with one new token each, which come first."""
    others: Sequence[Appending]
    store: Store
    new: Store
    """Keys and values of the new tokens, each `(heads, T, size)`."""

    def attend(self, query: torch.Tensor, how: How) -> torch.Tensor:
        """Return `(T, heads, size)` for queries `(heads, T, size)`."""
        outputs: list[torch.Tensor] = []
        begin = 0
        if self.rows is not None:
            begin = len(self.rows.pages)
            queries = query[:, :begin].transpose(0, 1)
            outputs.append(self.rows.attend(queries, self.store, how))
        for other in self.others:
            span = slice(begin, begin + other.new)
            keys, values = self.new
            new = (keys[:, span], values[:, span])
            outputs.append(other.attend(query[:, span], new, self.store, how))
            begin = span.stop
        return torch.cat([output.to(query.dtype) for output in outputs])


def attend(
    module: torch.nn.Module,  # noqa: ARG001 (what transformers passes on)
    query: torch.Tensor,
    key: LayerStates,
    value: None,  # noqa: ARG001
    attention_mask: None,  # noqa: ARG001
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention functions do; see them for the other parameters.

    Queries are `(1, heads, T, size)`, the key is the result of `PagedCache.update`, and attention
    sinks (`s_aux`) are `(heads,)`.

    Returns:
        `(1, T, heads, size)`, and no weights.

    Raises:
        CaiError: The model adds a position bias, which is not supported.
    """
    if kwargs.get("position_bias") is not None:
        raise unknown_attention("adds a bias to its scores")
    how = How(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, s_aux)
    with torch.autocast(query.device.type, enabled=False):
        return key.attend(query[0], how)[None], None


def unknown_attention(what: str) -> CaiError:
    """Return the error for a model with an attention that is not supported."""
    return CaiError(
        f"The local engine cannot run this model: it {what}. Set `engine: vllm` for it, or use a "
        "model with full or sliding-window attention in every layer."
    )


AttentionInterface.register(IMPLEMENTATION, attend)
