"""Log-probabilities of options, put together from what an engine or a server tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.engines import Unscored
from cai.errors import CaiError

Ids = tuple[int, ...]

_ROUNDING = 2.0**-23
"""Servers compute in float32: listed probabilities that add up to 1 may leave so much."""


def check_options(options: Sequence[str], parts: Sequence[Sequence[object]] | None = None) -> None:
    """Raise a CaiError unless there are options, none empty and no two the same.

    Args:
        options: The texts.
        parts: What has to differ: their tokens; None for the texts.
    """
    compared = list(options) if parts is None else [tuple(part) for part in parts]
    if not compared or not all(compared) or len(set(compared)) < len(compared):
        raise CaiError(
            f"Cannot score the options {list(options)}: there must be at least one, none empty and "
            "no two the same (as tokens)."
        )


def questions(options: Sequence[Ids]) -> dict[Ids, list[int]]:
    """Return which next tokens to ask for after each beginning of an option.

    All can be asked at once: `log P(option)` is the sum of its steps' answers, see `summed`.
    """
    asked: dict[Ids, list[int]] = {}
    for option in options:
        for place, token in enumerate(option):
            tokens = asked.setdefault(option[:place], [])
            if token not in tokens:
                tokens.append(token)
    return asked


def summed(options: Sequence[Ids], answers: Mapping[Ids, Mapping[int, float]]) -> list[float]:
    """Return log P of each option, given log P of its tokens after each beginning."""
    return [
        sum(answers[option[:place]][token] for place, token in enumerate(option))
        for option in options
    ]


@dataclass(frozen=True)
class Listed:
    """One place of an answer: the token that stands there, and the likeliest ones with log P."""

    token: str
    top: Mapping[str, float]


@dataclass(frozen=True)
class Estimates:
    """What an answer says of options.

    Attributes:
        logprobs: Nats, one per option.
        bounds: The options of which this is only an upper bound, by number.
    """

    logprobs: tuple[float, ...]
    bounds: frozenset[int] = frozenset()


def from_listed(answer: Sequence[Listed], options: Sequence[str]) -> Estimates:
    """Follow an answer until each option is told apart from the others.

    The probability of an option is that of the listed tokens that begin it and no other option,
    after the tokens that they share: its full probability or, where the answer could have gone on
    in ways that were not followed, a little less. An option of which no such token is listed gets
    the most that it can have: what the listed ones leave.

    Args:
        answer: The tokens of an answer, of which the first options can begin.
        options: Blanks around them are not compared.

    Raises:
        Unscored: No option is listed at all.
    """
    left = [option.strip() for option in options]
    found = [0.0] * len(left)
    most = [0.0] * len(left)
    undecided = list(range(len(left)))
    path = 1.0
    for place, listed in enumerate(answer):
        rest = max(1.0 - sum(map(math.exp, listed.top.values())), _ROUNDING)
        for option in undecided:
            most[option] += path * rest
        for text, logprob in listed.top.items():
            begun = _begun(text, left, undecided, first=place == 0)
            for option in begun:
                if len(begun) == 1:
                    found[option] += path * math.exp(logprob)
                elif text != listed.token:
                    most[option] += path * math.exp(logprob)
        undecided = _begun(listed.token, left, undecided, first=place == 0)
        if len(undecided) < 2 or listed.token not in listed.top:
            break
        path *= math.exp(listed.top[listed.token])
        said = listed.token.lstrip() if place == 0 else listed.token
        left = [text[len(said) :] for text in left]
    if not any(found):
        raise Unscored(
            f"none of the options {list(options)} is among the tokens that the server lists"
        )
    logprobs = (math.log(some or bound) for some, bound in zip(found, most, strict=True))
    unlisted = frozenset(option for option, some in enumerate(found) if not some)
    return Estimates(tuple(logprobs), unlisted)


def _begun(text: str, left: Sequence[str], undecided: Sequence[int], *, first: bool) -> list[int]:
    """Return the options that a token begins, or completes with more behind."""
    said = text.lstrip() if first else text
    if not said.strip():
        return []
    return [o for o in undecided if left[o] and (left[o].startswith(said) or _is_in(left[o], said))]


def _is_in(option: str, said: str) -> bool:
    """Whether a token holds all that is left of an option and then something else."""
    return said.startswith(option) and not said[len(option) : len(option) + 1].isalnum()


def from_samples(texts: Sequence[str], options: Sequence[str]) -> Estimates:
    """Count which option each of n sampled answers begins with.

    The estimate is (count + ½) / (n + 1): the mean of a Beta posterior with Jeffreys' prior, so no
    option has probability 0 because it was not seen in n draws.

    Raises:
        Unscored: No answer begins with an option.
    """
    wanted = [option.strip() for option in options]
    counts = [0] * len(wanted)
    for text in texts:
        begun = [o for o, option in enumerate(wanted) if _is_in(option, text.lstrip())]
        if begun:
            counts[max(begun, key=lambda option: len(wanted[option]))] += 1
    if not any(counts):
        raise Unscored(f"none of {len(texts)} sampled answers begins with one of {list(options)}")
    return Estimates(tuple(math.log((n + 0.5) / (len(texts) + 1)) for n in counts))
