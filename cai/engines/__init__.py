"""What a stage may ask of a model: *generate* and *score*, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal, Protocol

from cai.data.conversation import Prompt


@dataclass(frozen=True)
class GenerateRequest:
    """One completion.

    Attributes:
        prompt: What to continue.
        seed: The draw at each position comes from a hash of (seed, position), so the text does not
            depend on batch mates, concurrency or interruption.
        max_tokens: At most so many new tokens.
        temperature: Logits are divided by it; 0 is greedy.
        stop: Texts that end the completion; they are cut off.
    """

    prompt: Prompt
    seed: int
    max_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()


SERVERS_OWN = "the server's own"
"""Stands in rows for what a server was not sent."""


@dataclass(frozen=True)
class Completion:
    """What the model said.

    Attributes:
        text: Decoded, stripped, without stop text and special tokens.
        token_ids: Every sampled id, the stop token included; servers may not tell (empty).
        logprobs: log P of each sampled id under the sampling distribution, nats, same length.
        finish: `stop` (a stop token or stop text) or `length` (cut off by `max_tokens`).
        fingerprint: The weights that said it.
        sampling: In words, what of the sampling was otherwise than asked for, by its name in rows.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    fingerprint: str
    sampling: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class ScoreRequest:
    """How probable is each option as the continuation of the prompt, to the letter?"""

    prompt: Prompt
    options: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """log P(option | prompt) in nats, summed over the option's tokens; one per option.

    Attributes:
        logprobs: One per option.
        fingerprint: The weights that said it.
        bounded: Some of them are upper bounds: a server lists its likeliest tokens alone.
        unlisted: Those, by number. All are less likely than the likeliest option.
        sampling: As in `Completion`.
    """

    logprobs: tuple[float, ...]
    fingerprint: str
    bounded: bool = False
    unlisted: frozenset[int] = frozenset()
    sampling: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Usage:
    """What an engine has done so far.

    Attributes:
        engine_calls: Requests answered.
        tokens_in: Tokens of their prompts and options.
        tokens_out: Tokens sampled.
        tokens_cached: Those of `tokens_in` whose states were at hand and were not run again.
        engine_seconds: With requests under way; of several engines they can overlap.
        engine_starved_seconds: Those of them with so few requests at once that most of each step
            was wasted, although more would have fitted.
        cost: Of the tokens, at the prices of the settings and in their currency.
    """

    engine_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    engine_seconds: float = 0.0
    engine_starved_seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return what two engines did together."""
        return Usage(
            *(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        )


class PromptTooLong(Exception):  # noqa: N818 (a row's state, not a programming error)
    """The prompt and the tokens asked for do not fit the model's context; nothing was truncated."""

    state: Literal["too_long"] = "too_long"
    """Of the row that asked."""


class Unanswered(Exception):  # noqa: N818 (a row's state, not a programming error)
    """A server gave no answer: a filter or the model refused, or the answer failed halfway."""

    def __init__(self, state: Literal["refused", "failed"], why: str) -> None:
        """Name the state that the row gets, and why."""
        super().__init__(why)
        self.state: Literal["refused", "failed"] = state


def nothing_said(finish: Literal["stop", "length"]) -> str:
    """Say in words that an answer is empty, and what may be behind it."""
    if finish == "stop":
        return "the answer is empty"
    return (
        "the answer is empty and was cut off: its tokens went to reasoning, perhaps. Allow more "
        "tokens, or switch the reasoning off"
    )


class Unscored(Exception):  # noqa: N818 (a row's state, not a programming error)
    """Nothing is said from which it could be known which option is likelier."""

    state: Literal["unparsed"] = "unparsed"
    """Of the row that asked."""


class Engine(Protocol):
    """A model that answers requests, many at a time."""

    @property
    def usage(self) -> Usage:
        """What this engine has done so far."""
        ...

    @property
    def name(self) -> str:
        """What rows call this model: its path, or its name behind a server."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the weights, tokenizer and template behind the answers."""
        ...

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt.

        Raises:
            PromptTooLong: The prompt and `max_tokens` exceed the model's context.
            Unanswered: A server gave no answer.
        """
        ...

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the log-probability of each option.

        Raises:
            PromptTooLong: The prompt and an option exceed the model's context.
            Unanswered: A server gave no answer.
        Unscored: A server does not tell, or the numbers cannot be log-probabilities.
        """
        ...

    async def close(self) -> None:
        """Give the memory back. Requests in flight fail."""
        ...
