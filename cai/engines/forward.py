"""One forward pass over new tokens of many sequences, side by side and without padding.

A model runs them as one sequence of T tokens. Only attention has to know which of them belong
together, so it is replaced during the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from cai.engines.attention import IMPLEMENTATION, PAGE, Appending, Decoding, unknown_attention
from cai.engines.pages import PagedCache, pages_for

_TOKENS = {"cpu": 1024, "cuda": 16384}
_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(eq=False)
class Piece:
    """New tokens of one sequence."""

    ids: Sequence[int]
    known: int
    """How many tokens come before them."""
    pages: Sequence[int]
    """Of the states of those, and also of the new ones if they are stored."""


def prompt_tokens(model: Any) -> int:  # noqa: ANN401 (any transformers causal language model)
    """Return how many tokens of prompts to run at once; on a CPU, more no longer fit its caches."""
    return _TOKENS.get(model.device.type, _TOKENS["cuda"])


def check_attention(model: Any) -> None:  # noqa: ANN401
    """Raise a CaiError for a model whose attention cannot be replaced."""
    if problem := attention_problem(model.config, model):
        raise unknown_attention(problem)


def attention_problem(config: Any, model: Any) -> str | None:  # noqa: ANN401
    """Return why the attention of a model, or of a class of models, cannot be replaced."""
    config = config.get_text_config(decoder=True)
    if others := set(getattr(config, "layer_types", None) or ()) - _LAYERS:
        return f"has layers of `{min(others)}`"
    if getattr(config, "num_kv_shared_layers", 0):
        return "shares keys and values between layers"
    if getattr(config, "kv_lora_rank", None):
        return "keeps keys and values compressed"
    if not getattr(model, "_supports_attention_backend", False):
        return "computes attention in its own way"
    return None


@torch.inference_mode()
def run_tokens(
    model: Any,  # noqa: ANN401
    cache: PagedCache,
    pieces: Sequence[Piece],
    *,
    rows: Decoding | None = None,
    newest: torch.Tensor | None = None,
    stored: bool = True,
    every: bool = False,
) -> torch.Tensor:
    """Run new tokens of many sequences, with the model in eval mode.

    Args:
        model: A transformers causal language model.
        cache: The states of the sequences.
        pieces: New tokens of sequences.
        rows: Further sequences, with one new token each.
        newest: Those tokens, `(B,)`.
        stored: Whether the states of the pieces are written into their pages.
        every: Return the logits of every token of the pieces, not of their last ones only.

    Returns:
        Logits `(B + pieces, V)` for the token after each sequence, or `(B + tokens, V)`.
    """
    device = model.device
    ids = _tensor([*chain.from_iterable(piece.ids for piece in pieces)], device)
    spans = [range(piece.known, piece.known + len(piece.ids)) for piece in pieces]
    positions = _tensor([*chain.from_iterable(spans)], device)
    placed = zip(pieces, spans, strict=True) if stored else ()
    pages = _tensor([piece.pages[at // PAGE] for piece, span in placed for at in span], device)
    count = 0
    if rows is not None and newest is not None:
        count = len(newest)
        ids = torch.cat([newest, ids])
        positions = torch.cat([rows.positions, positions])
        pages = torch.cat([rows.pages, pages])
    wanted = torch.arange(len(ids), device=device)
    if pieces and not every:
        ends = _tensor([len(piece.ids) for piece in pieces], device).cumsum(0)
        wanted = torch.cat([wanted[:count], count - 1 + ends])
    others = [
        Appending(piece.known, len(piece.ids), piece.pages[: pages_for(piece.known)], device)
        for piece in pieces
    ]
    cache.expect(rows, others, (pages, positions[: len(pages)] % PAGE))
    return _logits(model, cache, ids, positions, wanted)


def run_rows(
    model: Any,  # noqa: ANN401
    cache: PagedCache,
    rows: Decoding,
    newest: torch.Tensor,
) -> torch.Tensor:
    """Run only the newest tokens `(B,)` of sequences; return logits `(B, V)`.

    Nothing is moved between host and device.
    """
    cache.expect(rows, (), (rows.pages, rows.positions % PAGE))
    return _logits(model, cache, newest, rows.positions)


def _logits(
    model: Any,  # noqa: ANN401
    cache: PagedCache,
    ids: torch.Tensor,
    positions: torch.Tensor,
    wanted: torch.Tensor | int = 0,
) -> torch.Tensor:
    """Run tokens through the model as `cache` expects them; return logits `(wanted, V)`."""
    config = model.config.get_text_config(decoder=True)
    usual, config._attn_implementation = config._attn_implementation, IMPLEMENTATION
    try:
        output = model(
            input_ids=ids[None],
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=wanted,
        )
    finally:
        config._attn_implementation = usual
    return output.logits[0]


def _tensor(numbers: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=device)
