"""Exact log-probabilities of options that may follow a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import torch

from cai.engines.cache import Stored
from cai.engines.decode import nan_error
from cai.engines.prefill import Prefilled, prefill
from cai.engines.prefixes import Prefixes


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
    """The answer to a question.

    Attributes:
        logprobs: log P(option | prompt) of each option, nats, in float32.
        cached: The tokens of the prompt whose states were at hand.
    """

    logprobs: tuple[float, ...]
    cached: int = field(compare=False)


def score_options(
    model: Any,  # noqa: ANN401 (any transformers causal language model)
    questions: Sequence[TokenQuestion],
    *,
    pad_id: int,
    max_batch_tokens: int,
    prefixes: Prefixes | None = None,
) -> list[TokenScores]:
    """Return log P(option | prompt) for every option of every question.

    The prompt runs once, whatever the number of options; equal questions run once; what prompts
    share runs once.

    Args:
        model: In eval mode.
        questions: In any order; they are answered in it.
        pad_id: Any valid token.
        max_batch_tokens: Questions run together while options times the longest question stays
            within; a question alone always runs.
        prefixes: Sequences to start from; prompts of which most was new are kept there.

    Returns:
        Natural logarithms, summed over each option's tokens, at temperature 1 in float32.

    Raises:
        CaiError: The model computes NaN.
    """
    prefixes = prefixes or Prefixes(0)
    answers: dict[TokenQuestion, TokenScores] = {}
    for some in _slices(questions, max_batch_tokens):
        listed: list[tuple[Stored, int]] = []
        groups = prefill(
            model,
            [question.prompt_ids for question in some],
            prefixes,
            pad_id=pad_id,
            max_batch_tokens=max_batch_tokens,
            room=max(question.columns - len(question.prompt_ids) for question in some),
        )
        for group in groups:
            listed += zip(group.stored, group.cached, strict=True)
            asked = [some[place] for place in group.places]
            scores = _score(model, asked, group, pad_id)
            for question, logprobs, cached in zip(asked, scores, group.cached, strict=True):
                answers[question] = TokenScores(logprobs, cached)
        for stored, _ in listed:
            prefixes.remove(stored)
        prefixes.keep([stored for stored, cached in listed if cached < len(stored.ids) / 2])
    return [answers[question] for question in questions]


def _slices(questions: Sequence[TokenQuestion], tokens: int) -> Iterator[list[TokenQuestion]]:
    """Yield the distinct questions, those that begin alike together, by about so many tokens."""
    ordered = sorted(set(questions), key=lambda question: question.prompt_ids)
    ends = accumulate(len(question.prompt_ids) for question in ordered)
    numbered = zip(ordered, ends, strict=True)
    for _, some in groupby(numbered, key=lambda pair: pair[1] // tokens):
        yield [question for question, _ in some]


@torch.inference_mode()
def _score(
    model: Any,  # noqa: ANN401
    questions: Sequence[TokenQuestion],
    group: Prefilled,
    pad_id: int,
) -> list[tuple[float, ...]]:
    """Score the questions of a group: first tokens from the prompts, the others teacher-forced."""
    first = torch.log_softmax(group.logits.float(), -1)
    every: list[torch.Tensor] = []
    for number in range(max(len(question.options) for question in questions)):
        # Questions with fewer options get one again, and no one looks at its score.
        options = [
            question.options[min(number, len(question.options) - 1)] for question in questions
        ]
        tokens = torch.tensor([[option[0]] for option in options], device=model.device)
        scores = first.gather(1, tokens).squeeze(1)
        if max(map(len, options)) > 1:
            scores = scores + _rest(model, group, options, pad_id)
        every.append(scores)
    by_question = torch.stack(every, dim=1)
    if by_question.isnan().any():
        raise nan_error()
    return [
        tuple(scores[: len(question.options)])
        for question, scores in zip(questions, by_question.tolist(), strict=True)
    ]


def _rest(
    model: Any,  # noqa: ANN401
    group: Prefilled,
    options: Sequence[Sequence[int]],
    pad_id: int,
) -> torch.Tensor:
    """Return the log-probability of each option after its first token, `(B,)`.

    The options' states are appended to those of the prompts, and dropped again.

    Args:
        model: The model.
        group: B prompts.
        options: One for each, not all of a single token.
        pad_id: Fills up shorter options on the right, where causal attention never looks.
    """
    length, longest, device = group.cache.columns, max(map(len, options)), model.device
    starts = torch.tensor([[length - len(stored.ids)] for stored in group.stored], device=device)
    padded = [[*option, *[pad_id] * (longest - len(option))] for option in options]
    ids = torch.tensor(padded, device=device)
    columns = torch.arange(length + longest - 1, device=device)
    output = model(
        input_ids=ids[:, :-1],
        attention_mask=columns >= starts,
        position_ids=columns[length:] - starts,
        past_key_values=group.cache,
        use_cache=True,
    )
    group.cache.drop(longest - 1)
    logprobs = torch.log_softmax(output.logits.float(), -1)
    each = logprobs.gather(2, ids[:, 1:, None]).squeeze(2)
    counts = torch.tensor([[len(option) - 1] for option in options], device=device)
    real = torch.arange(longest - 1, device=device) < counts
    return each.where(real, 0.0).sum(1)
