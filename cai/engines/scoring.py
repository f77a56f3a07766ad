"""Exact log-probabilities of options that may follow a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cai.engines.cache import RowCache
from cai.engines.decode import left_padded, nan_error


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


def score_options(
    model: Any,  # noqa: ANN401 (any transformers causal language model)
    questions: Sequence[TokenQuestion],
    *,
    pad_id: int,
    max_batch_tokens: int,
) -> list[tuple[float, ...]]:
    """Return log P(option | prompt) for every option of every question.

    The prompt runs once, whatever the number of options; equal questions run once.

    Args:
        model: In eval mode.
        questions: In any order; they are answered in it.
        pad_id: Any valid token.
        max_batch_tokens: Questions run together while options times the longest question stays
            within; a question alone always runs.

    Returns:
        Natural logarithms, summed over each option's tokens, at temperature 1 in float32.

    Raises:
        CaiError: The model computes NaN.
    """
    waiting = sorted(set(questions), key=lambda question: -question.columns)
    answers: dict[TokenQuestion, tuple[float, ...]] = {}
    while waiting:
        count = _fitting(waiting, max_batch_tokens)
        batch, waiting = waiting[:count], waiting[count:]
        answers.update(zip(batch, _score(model, batch, pad_id), strict=True))
    return [answers[question] for question in questions]


def _fitting(questions: Sequence[TokenQuestion], max_batch_tokens: int) -> int:
    """Return how many of the questions, longest first, run together."""
    options = 0
    for count, question in enumerate(questions):
        options += len(question.options)
        if count and options * questions[0].columns > max_batch_tokens:
            return count
    return len(questions)


@torch.inference_mode()
def _score(
    model: Any,  # noqa: ANN401
    questions: Sequence[TokenQuestion],
    pad_id: int,
) -> list[tuple[float, ...]]:
    """Score one batch: the first tokens from the prompts, the others teacher-forced after them."""
    ids, starts = left_padded([q.prompt_ids for q in questions], pad_id, model.device)
    columns = torch.arange(ids.shape[1], device=model.device)
    cache = RowCache()
    output = model(
        input_ids=ids,
        attention_mask=columns >= starts,
        position_ids=(columns - starts).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    pairs = [(row, option) for row, q in enumerate(questions) for option in q.options]
    rows = torch.tensor([row for row, _ in pairs], device=model.device)
    first = torch.tensor([option[0] for _, option in pairs], device=model.device)
    scores = torch.log_softmax(output.logits[:, -1].float(), -1)[rows, first]
    longer = [index for index, (_, option) in enumerate(pairs) if len(option) > 1]
    if longer:
        options = [pairs[index][1] for index in longer]
        at = torch.tensor(longer, device=model.device)
        scores[at] += _rest(model, cache, rows[at], starts[rows[at]], options, pad_id)
    if scores.isnan().any():
        raise nan_error()
    flat = iter(scores.tolist())
    return [tuple(next(flat) for _ in question.options) for question in questions]


def _rest(
    model: Any,  # noqa: ANN401
    cache: RowCache,
    rows: torch.Tensor,
    starts: torch.Tensor,
    options: Sequence[Sequence[int]],
    pad_id: int,
) -> torch.Tensor:
    """Return the log-probability of each option `(R,)` after its first token.

    Args:
        model: The model.
        cache: Of the prompts.
        rows: `(R,)`, the cache row of each option's prompt.
        starts: `(R, 1)`, the column at which that prompt starts.
        options: R options of two tokens or more.
        pad_id: Fills up shorter options on the right, where causal attention never looks.
    """
    length, longest = cache.get_seq_length(), max(map(len, options))
    padded = [[*option, *[pad_id] * (longest - len(option))] for option in options]
    ids = torch.tensor(padded, device=model.device)
    columns = torch.arange(length + longest - 1, device=model.device)
    output = model(
        input_ids=ids[:, :-1],
        attention_mask=columns >= starts,
        position_ids=columns[length:] - starts,
        past_key_values=RowCache.of_rows([(cache, rows)], length),
        use_cache=True,
    )
    logprobs = torch.log_softmax(output.logits.float(), -1)
    each = logprobs.gather(2, ids[:, 1:, None]).squeeze(2)
    counts = torch.tensor([[len(option) - 1] for option in options], device=model.device)
    real = torch.arange(longest - 1, device=model.device) < counts
    return each.where(real, 0.0).sum(1)
