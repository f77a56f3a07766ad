"""What is read off a server's answer: texts, listed tokens, log-probabilities and cost.

An answer is what the client makes of JSON without checking it: fields can be missing, or anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cai.engines import Unanswered, Unscored, Usage, nothing_said
from cai.engines.finish import Said, said_by
from cai.engines.options import Listed, probabilities
from cai.engines.server_errors import NoLogprobsError
from cai.settings import ServerSettings


def answers_of(answer: Any) -> list[Said]:  # noqa: ANN401
    """Return what each choice says, and how it ended."""
    said = [said_by(choice) for choice in answer.choices]
    if not said:
        raise ValueError("no choices")
    return said


def answer_of(answer: Any) -> Said:  # noqa: ANN401
    """Return what the first choice says.

    Raises:
        Unanswered: It was refused, or failed.
    """
    said = answers_of(answer)[0]
    if said.end in ("refused", "failed"):
        raise Unanswered(said.end, said.why)
    return said


def count(usage: Usage, answer: Any, server: ServerSettings) -> None:  # noqa: ANN401
    """Add what an answer cost, as far as the server says."""
    used = getattr(answer, "usage", None)
    details = getattr(used, "prompt_tokens_details", None)
    places = ((used, "prompt_tokens"), (details, "cached_tokens"), (used, "completion_tokens"))
    told = [getattr(where, name, None) for where, name in places]
    read, cached, sampled = (tokens if isinstance(tokens, int) else 0 for tokens in told)
    usage.tokens_in += read
    usage.tokens_out += sampled
    usage.tokens_cached += cached
    of_cached = server.price_in if server.price_cached is None else server.price_cached
    costs = (read - cached) * server.price_in + cached * of_cached + sampled * server.price_out
    usage.cost += costs / 1e6


def listed_by(answer: Any) -> tuple[list[Listed], str]:  # noqa: ANN401
    """Return the places of an answer, and its text; see `places_of`."""
    return places_of(answer), answer_of(answer).text


def places_of(answer: Any) -> list[Listed]:  # noqa: ANN401
    """Return the places of an answer with the tokens that are listed there.

    Raises:
        NoLogprobsError: The server lists none.
        Unanswered: The answer was refused, or failed.
        Unscored: The answer is empty, or its tokens cannot be read.
    """
    said = answer_of(answer)
    try:
        places = _places(answer.choices[0].logprobs)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise Unscored(f"the tokens that the server lists cannot be read: {error}") from error
    if not places and said.text.strip():
        raise NoLogprobsError
    if not places:
        raise Unscored(nothing_said("stop" if said.end == "ended" else "length"))
    return places


def _places(logprobs: Any) -> list[Listed]:  # noqa: ANN401
    """Read a list as the chat endpoint writes it, or the completions endpoint; some mix them up."""
    content = _field(logprobs, "content")
    if content is not None:
        return [
            Listed(
                _token(_field(place, "token")),
                _tops(_field(place, "top_logprobs") or ()),
                _field(place, "logprob"),
            )
            for place in content
        ]
    tokens = _field(logprobs, "tokens") or []
    own = _field(logprobs, "token_logprobs") or [None] * len(tokens)
    tops = _field(logprobs, "top_logprobs") or [None] * len(tokens)
    return [
        Listed(_token(token), dict(top or {}), logprob)
        for token, top, logprob in zip(tokens, tops, own, strict=True)
    ]


def _field(thing: Any, name: str) -> Any:  # noqa: ANN401
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)  # pyright: ignore


def _token(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a token is {text!r}")
    return text


def _tops(listed: Any) -> dict[str, float]:  # noqa: ANN401
    """Return the tokens of a place; of several with one text, the likeliest."""
    tops: dict[str, float] = {}
    for top in listed:
        token, logprob = _token(_field(top, "token")), _field(top, "logprob")
        known: Any = tops.get(token, -math.inf)
        numbers = isinstance(known, int | float) and isinstance(logprob, int | float)
        if not numbers or not logprob <= known:
            # What is no number stays, so that it is refused.
            tops[token] = logprob if isinstance(known, int | float) else known
    return tops


def echo_of(answer: Any, before: int, tokens: int | None) -> float:  # noqa: ANN401
    """Return log P of what was said again after the prompt.

    Args:
        answer: The echoed prompt and option, and one token more.
        before: Tokens or characters of the prompt, as it was sent.
        tokens: Of the option; None if it was sent as text, which must then begin a token.

    Raises:
        NoLogprobsError: The server gives none.
        Unanswered: The answer was refused, or failed.
        Unscored: It does not, the prompt is not said again, or a log-probability cannot be one.
    """
    answer_of(answer)
    logprobs = answer.choices[0].logprobs
    if logprobs is None:
        raise NoLogprobsError
    values = list(logprobs.token_logprobs)[:-1]
    if tokens is not None:
        first = len(values) - tokens
        if first < before:
            raise Unscored("the server does not say the prompt again (`echo`)")
    else:
        offsets = list(logprobs.text_offset)[:-1]
        if before not in offsets:
            raise Unscored("the server's tokens do not part where the option begins")
        first = offsets.index(before)
    for value in values[first:]:
        probabilities({"a token of the option": value})
    return sum(values[first:])


def told_by(answer: Any, tokens: Sequence[int]) -> dict[int, float]:  # noqa: ANN401
    """Return log P of the tokens that were asked for by their ids.

    Raises:
        Unscored: One is missing, or a log-probability cannot be one.
    """
    places = places_of(answer)
    top = places[0].top if len(places) == 1 else {}
    if missing := [token for token in tokens if f"token_id:{token}" not in top]:
        raise Unscored(f"the server does not list the tokens {missing}, which it was asked for")
    told = {token: top[f"token_id:{token}"] for token in tokens}
    probabilities({str(token): logprob for token, logprob in told.items()})
    return told
