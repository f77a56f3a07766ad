"""Log-probabilities of options, put together from what an engine or a server tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.engines import Unscored
from cai.engines.verdicts import OPENERS, contradicts, core_of, opening_of, read_verdict
from cai.errors import CaiError

Ids = tuple[int, ...]

_ROUNDING = 2.0**-23
"""Servers compute in float32: listed probabilities that add up to 1 may leave so much."""
_ROOM = 0.01
"""Listed log-probabilities are rounded; their probabilities may add up to so much more than 1."""
_POSITIVE = 1e-4
"""A log-probability may be so much above 0 by rounding."""
_NOTHING = -9000.0
"""OpenAI's -9999 says "hardly possible", and no more than that."""
_TOLD = 0.05
"""Bounds this close to each other tell how options compare, also where they are about even."""


def check_options(options: Sequence[str], parts: Sequence[Sequence[object]] | None = None) -> None:
    """Raise a CaiError unless there are options, none empty and no two the same.

    `parts`, such as their tokens, are compared instead of the texts if given.
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
    """One place of an answer: its token, and the likeliest ones with log P in nats."""

    token: str
    top: Mapping[str, float]
    logprob: float | None = None
    """Of `token`, where `top` lacks it; None if unknown."""


@dataclass(frozen=True)
class Estimates:
    """Log-probabilities of options, from an answer."""

    logprobs: tuple[float, ...]
    """Nats, one per option."""
    bounds: frozenset[int] = frozenset()
    """The numbers of the options of which this is only an upper bound."""


def probabilities(logprobs: Mapping[str, object]) -> dict[str, float]:
    """Return the probabilities of distinct tokens at one place.

    Raises:
        Unscored: A log-probability is missing, not a number or positive, or they add up to more
            than 1, with room for rounding: whatever they are, they tell nothing.
    """
    found: dict[str, float] = {}
    for text, value in logprobs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise Unscored(f"log P of {text!r} is listed as {value}, which is no number")
        if value > _POSITIVE:
            raise Unscored(f"log P of {text!r} is listed as {value:.4g}, which is more than 0")
        found[text] = math.exp(value) if value > _NOTHING else 0.0
    total = math.fsum(found.values())
    if total > 1 + _ROOM:
        raise Unscored(
            f"the listed probabilities add up to {total:.4g}, more than 1: {_shown(found)}"
        )
    return found


def from_listed(answer: Sequence[Listed], options: Sequence[str], text: str = "") -> Estimates:
    """Follow an answer until each option is told apart from the others.

    The probability of an option is that of the listed tokens that begin it and no other option,
    after the tokens that they share (blanks, bold and a repeated lead among them). What could have
    gone on as an option's and was not followed is room above that. Where none of an option's
    tokens is listed, those that are not listed are room too: none is likelier than the least
    likely one that is, and all together have what the listed ones leave. An option that is not
    listed at all gets the most that it can have.

    Args:
        answer: The tokens of an answer, of which the first options can begin.
        options: Blanks around them are not compared.
        text: The answer as a whole, if it is known: a list may stop before it, or be of another.

    Raises:
        Unscored: No option is listed at all, the bounds do not tell which option is likelier, the
            answer takes its verdict back, or the numbers are none.
    """
    wanted = [option.strip() for option in options]
    places = [probabilities(listed.top) for listed in answer]
    found, most, said, chosen = _followed(answer, places, wanted)
    shown = _shown(places[0]) if places else "nothing"
    if not any(found):
        raise Unscored(
            f"none of the options {list(options)} is among the tokens that the server lists "
            f"({shown}); it answers {said[:80]!r}. `server.scores: samples` reads whole answers"
        )
    for whole in ("".join(listed.token for listed in answer), text):
        if chosen is not None and whole.strip() and contradicts(whole, wanted, chosen):
            raise Unscored(
                f"the answer {whole[:80]!r} is no clear verdict for one of {list(options)}"
            )
    best = max(range(len(wanted)), key=lambda option: found[option])
    for other in range(len(wanted)):
        if other != best and not _told(found[best], most[best], found[other], most[other]):
            raise Unscored(
                f"the tokens that the server lists ({shown}) do not tell which of "
                f"{options[best]!r} (probability {found[best]:.3g} to {most[best]:.3g}) and "
                f"{options[other]!r} ({found[other]:.3g} to {most[other]:.3g}) is likelier"
            )
    unlisted = frozenset(option for option, some in enumerate(found) if not some)
    # One bound for all of them: nothing tells which of two is likelier.
    bound = max((most[option] for option in unlisted), default=1.0)
    logprobs = (math.log(some or bound) for some in found)
    return Estimates(tuple(logprobs), unlisted)


def _followed(
    answer: Sequence[Listed], places: Sequence[Mapping[str, float]], options: Sequence[str]
) -> tuple[list[float], list[float], str, int | None]:
    """Return the least and most of each option, the text that was read, and the option it is."""
    found, room, unlisted, unseen = ([0.0] * len(options) for _ in range(4))
    text, path = "", 1.0
    undecided: tuple[int, ...] = tuple(range(len(options)))
    for listed, likeliest in zip(answer, places, strict=True):
        before, top = opening_of(text, options), likeliest
        if listed.token not in top and listed.logprob is not None:
            top = probabilities({**listed.top, listed.token: listed.logprob})
        now = opening_of(text + listed.token, options)
        seen = set[int]()
        for token, probability in top.items():
            then = opening_of(text + token, options)
            same_form = then.form == "literal" or (then.form == now.form == "bare")
            seen.update(then.options if same_form else ())
            if token == listed.token and len(then.options) != 1:
                continue  # followed below
            for option in then.options:
                sure = len(then.options) == 1 and same_form
                (found if sure else room)[option] += path * probability
        for option in undecided:
            rest = path * _unlisted(listed, likeliest, top, before.said, options[option])
            unlisted[option] += rest
            unseen[option] += 0.0 if option in seen else rest
        text += listed.token
        undecided = now.options
        if len(undecided) < 2:
            path = 0.0
            break
        path *= top.get(listed.token, max(1.0 - math.fsum(top.values()), _ROUNDING))
        if listed.token not in top:
            break
    for option in undecided:
        room[option] += path
    left = max(1.0 - math.fsum(found), _ROUNDING)
    most = [
        some + min(left, known + (there if some else anywhere))
        for some, known, there, anywhere in zip(found, room, unseen, unlisted, strict=True)
    ]
    return found, most, text, undecided[0] if len(undecided) == 1 else None


def _unlisted(
    listed: Listed,
    likeliest: Mapping[str, float],
    top: Mapping[str, float],
    said: str,
    option: str,
) -> float:
    """Return the most that tokens which are not listed can give an option at one place."""
    rest = 1.0 - math.fsum(top.values())
    rest = max(rest, -rest, _ROUNDING)
    most = max(likeliest.values(), default=0.0)
    # A server may add the token that it drew to the likeliest ones.
    least = [p for token, p in likeliest.items() if token != listed.token or p == most]
    left = option[len(said) :] if option.startswith(said) else core_of(option)
    ways = OPENERS + 2 * (len(left) + (0 if said else len(core_of(option))))
    return min(rest, max(ways * min(least, default=1.0), _ROUNDING))


def _told(low: float, high: float, other_low: float, other_high: float) -> bool:
    """Whether bounds on two probabilities tell which is larger, or that they are about even."""
    least, most = low / (low + other_high), high / (high + other_low)
    return least > 0.5 or most < 0.5 or most - least <= _TOLD


def _shown(top: Mapping[str, float]) -> str:
    first = sorted(top.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{text!r} {probability:.3g}" for text, probability in first) or "nothing"


def from_samples(texts: Sequence[str], options: Sequence[str]) -> Estimates:
    """Count which option each of n sampled answers is for, see `read_verdict`.

    The estimate is (count + ½) / (n + 1): the mean of a Beta posterior with Jeffreys' prior, which
    is never 0. Raises Unscored if no answer is for an option.
    """
    counts = [0] * len(options)
    for text in texts:
        option = read_verdict(text, options)
        if option is not None:
            counts[option] += 1
    if not any(counts):
        said = ", ".join(repr(text[:60]) for text in texts[:3])
        raise Unscored(
            f"none of {len(texts)} sampled answers is a clear verdict for one of {list(options)}; "
            f"they say {said}"
        )
    return Estimates(tuple(math.log((n + 0.5) / (len(texts) + 1)) for n in counts))
