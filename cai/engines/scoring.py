"""Exact log-probabilities of options that may follow a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, islice
from typing import Any

import torch

from cai.engines.draws import nan_error
from cai.engines.forward import Piece, prompt_tokens, run_tokens
from cai.engines.pages import PagedCache, pages_for
from cai.engines.prefixes import Begun, Prefixes, Stored, begin_prompts

_OPTION_TOKENS = 256
"""Tokens of options in one forward pass: each has logits of its own."""


@dataclass(frozen=True)
class TokenQuestion:
    """A prompt and the options that may follow it, each of at least one token."""

    prompt_ids: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def columns(self) -> int:
        """The columns that the prompt and its longest option take."""
        return len(self.prompt_ids) + max(map(len, self.options))

    @property
    def tokens(self) -> int:
        """The tokens that are run: the prompt once, then every option."""
        return len(self.prompt_ids) + sum(map(len, self.options))


@dataclass(frozen=True)
class TokenScores:
    """The answer to a question."""

    logprobs: tuple[float, ...]
    """log P(option | prompt) of each option, nats, in float32."""
    cached: int = field(compare=False)
    """The tokens of the prompt that were cached."""


@torch.inference_mode()
def score_options(
    model: Any,  # noqa: ANN401 (any transformers causal language model)
    questions: Sequence[TokenQuestion],
    *,
    max_batch_tokens: int,
    prefixes: Prefixes | None = None,
) -> list[TokenScores]:
    """Return log P(option | prompt) for every option of every question, in their order.

    The prompt runs once for all its options, equal questions run once, and so does what prompts
    share.

    Args:
        model: In eval mode.
        questions: In any order.
        max_batch_tokens: About the most tokens of prompts whose states are held at once.
        prefixes: Sequences to start from; prompts of which most was new are kept there.

    Returns:
        Natural logarithms, summed over each option's tokens, at temperature 1 in float32.

    Raises:
        CaiError: The model computes NaN.
    """
    prefixes = prefixes or Prefixes(0)
    answers: dict[TokenQuestion, TokenScores] = {}
    for some in _slices(questions, max_batch_tokens):
        cache, done, waiting = PagedCache(), list[Begun](), some
        cache.reserve(sum(pages_for(len(question.prompt_ids)) for question in some))
        while waiting:
            prompts = [question.prompt_ids for question in waiting]
            begun = begin_prompts(prompts, prefixes, cache, prompt_tokens(model), shared=True)
            logits = run_tokens(model, cache, [each.piece for each in begun])
            asked = [waiting[each.place] for each in begun]
            scores = _score(model, cache, asked, begun, logits)
            for question, each, logprobs in zip(asked, begun, scores, strict=True):
                prefixes.add(each.stored)
                answers[question] = TokenScores(logprobs, each.piece.known)
            done += begun
            waiting = [question for question in waiting if question not in answers]
        for each in done:
            prefixes.remove(each.stored)
        new = (each for each in done if each.piece.known < len(each.stored.ids) / 2)
        prefixes.keep([each.stored for each in new])
    return [answers[question] for question in questions]


def _slices(questions: Sequence[TokenQuestion], tokens: int) -> Iterator[list[TokenQuestion]]:
    """Yield the distinct questions, those that begin alike together, by about so many tokens."""
    ordered = sorted(set(questions), key=lambda question: question.prompt_ids)
    ends = accumulate(len(question.prompt_ids) for question in ordered)
    numbered = zip(ordered, ends, strict=True)
    for _, some in groupby(numbered, key=lambda pair: pair[1] // tokens):
        yield [question for question, _ in some]


def _score(
    model: Any,  # noqa: ANN401
    cache: PagedCache,
    questions: Sequence[TokenQuestion],
    begun: Sequence[Begun],
    logits: torch.Tensor,
) -> list[tuple[float, ...]]:
    """Score the options of prompts that have run: `logits` have the first token of each."""
    first = torch.log_softmax(logits.float(), -1)
    options = [(row, option) for row, q in enumerate(questions) for option in q.options]
    rows, tokens = torch.tensor([(row, ids[0]) for row, ids in options], device=first.device).T
    scores = first[rows, tokens].tolist()
    longer = [number for number, (_, ids) in enumerate(options) if len(ids) > 1]
    for numbers in _chunks(longer, [len(ids) for _, ids in options]):
        some = [(begun[options[number][0]].stored, options[number][1]) for number in numbers]
        for number, rest in zip(numbers, _rest(model, cache, some), strict=True):
            scores[number] += rest
    if any(math.isnan(score) for score in scores):
        raise nan_error()
    each = iter(scores)
    return [tuple(islice(each, len(question.options))) for question in questions]


def _chunks(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    ends = accumulate(lengths[number] for number in numbers)
    for _, some in groupby(zip(numbers, ends, strict=True), lambda pair: pair[1] // _OPTION_TOKENS):
        yield [number for number, _ in some]


def _rest(
    model: Any,  # noqa: ANN401
    cache: PagedCache,
    options: Sequence[tuple[Stored, tuple[int, ...]]],
) -> list[float]:
    """Return the log-probability of each option, of more than one token, after its first token.

    Each option comes with the prompt that it follows; its own states are not kept.
    """
    pieces = [Piece(ids[:-1], len(stored.ids), stored.pages) for stored, ids in options]
    logits = run_tokens(model, cache, pieces, stored=False, every=True)
    targets = torch.tensor([token for _, ids in options for token in ids[1:]], device=logits.device)
    logprobs = torch.log_softmax(logits.float(), -1).gather(1, targets[:, None]).squeeze(1)
    parts = logprobs.split([len(piece.ids) for piece in pieces])
    return torch.stack([part.sum() for part in parts]).tolist()
