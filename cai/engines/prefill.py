"""Prefill: prompts into states, what is at hand already and what they share only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cai.engines.cache import RowCache, Stored
from cai.engines.prefixes import BLOCK, Prefixes, block_hashes

_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of one forward pass. On a CPU, more no longer fit its caches and run a third slower."""
_STATES = 16
"""Tokens read from caches in one forward pass, as a multiple of `_TOKENS`."""
_SIMILAR = 3 / 4
"""Prompts run together if they are at least this share of the longest among them."""


@dataclass(frozen=True)
class Prefilled:
    """Prompts that ran together.

    Attributes:
        places: Which of the prompts these B are.
        stored: Where the states of each are; listed in the prefixes, until the caller removes it.
        cached: How many tokens of each came from states at hand.
        cache: Their states.
        logits: `(B, V)`, for the token after each prompt.
    """

    places: list[int]
    stored: list[Stored]
    cached: list[int]
    cache: RowCache
    logits: torch.Tensor


@dataclass(frozen=True)
class _Plan:
    """Which prompt to run, from where on."""

    place: int
    ids: tuple[int, ...]
    source: Stored | None
    known: int

    @property
    def new(self) -> int:
        return len(self.ids) - self.known


def prefill(
    model: Any,  # noqa: ANN401 (any transformers causal language model)
    prompts: Sequence[tuple[int, ...]],
    prefixes: Prefixes,
    *,
    pad_id: int,
    max_batch_tokens: int,
    room: int = 0,
) -> Iterator[Prefilled]:
    """Run prompts in groups of like length; which groups these are makes no difference.

    A prompt that shares its beginning with another one waits for it and starts from its states.

    Args:
        model: In eval mode.
        prompts: None empty.
        prefixes: Where to look for states, and where those of the prompts are listed.
        pad_id: Any valid token.
        max_batch_tokens: A group's rows times its longest prompt stay within; a row alone may not.
        room: Columns that the caller will append to the caches.
    """
    waiting = list(range(len(prompts)))
    while waiting:
        plans, waiting = _in_turn(prompts, waiting, prefixes)
        tokens = _TOKENS.get(model.device.type, _TOKENS["cuda"])
        for group in _groups(plans, tokens, min(max_batch_tokens, _STATES * tokens)):
            prefilled = _run(model, group, pad_id, room)
            for stored in prefilled.stored:
                prefixes.add(stored)
            yield prefilled


def _in_turn(
    prompts: Sequence[tuple[int, ...]], waiting: Sequence[int], prefixes: Prefixes
) -> tuple[list[_Plan], list[int]]:
    """Plan those that gain nothing from waiting; return the plans, and which prompts do wait.

    A prompt waits if it shares more with one that is about to run than with what is at hand.
    """
    plans: list[_Plan] = []
    later: list[int] = []
    running: set[int] = set()
    for place in waiting:
        ids = prompts[place]
        # The last token is always run, its logits are wanted.
        source, known = prefixes.longest(ids[:-1])
        if running.isdisjoint(block_hashes(ids[:-1])[known // BLOCK :]):
            plans.append(_Plan(place, ids, source, known))
            running.update(block_hashes(ids))
        else:
            later.append(place)
    return plans, later


def _groups(plans: Sequence[_Plan], tokens: int, states: int) -> Iterator[list[_Plan]]:
    """Yield groups of which little is padding, within the given tokens to run and to hold."""
    group: list[_Plan] = []
    longest = 0
    for plan in sorted(plans, key=lambda plan: -plan.new):
        count, longest = len(group) + 1, max(longest, len(plan.ids))
        if group and (
            plan.new < _SIMILAR * group[0].new
            or count * group[0].new > tokens
            or count * longest > states
        ):
            yield group
            group, longest = [], len(plan.ids)
        group.append(plan)
    if group:
        yield group


@torch.inference_mode()
def _run(model: Any, plans: Sequence[_Plan], pad_id: int, room: int) -> Prefilled:  # noqa: ANN401
    """Run the last tokens of each prompt: as many as the one with the most new ones has.

    So nothing but short prompts is padded, on the left, and all rows end in the last column.
    """
    device = model.device
    new = max(plan.new for plan in plans)
    taken = [max(0, len(plan.ids) - new) for plan in plans]
    columns = max(taken) + new
    cache = RowCache(room=room)
    if any(taken):
        parts = [(plan.source, count) for plan, count in zip(plans, taken, strict=True)]
        cache = RowCache.of_beginnings(parts, room=new + room)
    lengths = [len(plan.ids) for plan in plans]
    ids = [[pad_id] * (new - len(plan.ids)) + list(plan.ids[-new:]) for plan in plans]
    starts = torch.tensor([[columns - length] for length in lengths], device=device)
    every = torch.arange(columns, device=device)
    output = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=every >= starts,
        position_ids=(every[-new:] - starts).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefilled(
        places=[plan.place for plan in plans],
        stored=[Stored(plan.ids, cache, row, len(plan.ids)) for row, plan in enumerate(plans)],
        cached=taken,
        cache=cache,
        logits=output.logits[:, -1],
    )
