"""What a verdict in words says: which option it is for, if it is for one at all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_BRACKETED = re.compile(r"\(([^()\s]+)\)")
_DECORATION = " \t\r\n\u00a0*_`#>\"'“”‘’"
_LEADS = (
    *(
        f"{whose}{which}{what}{verb}"
        for whose in ("the ", "my ", "")
        for which in ("", "correct ", "best ", "better ", "final ")
        for what in ("answer", "choice", "option", "response", "verdict", "rating")
        for verb in (" is", ":", " would be", "")
    ),
    *(
        f"i{would} {verb}"
        for would in ("", "'d", " would")
        for verb in ("choose", "pick", "prefer")
    ),
)
"""How a verdict may be led in; a lead may stand alone before a letter ("Option A")."""
_BEGINNINGS = frozenset(lead[:end] for lead in _LEADS for end in range(3, len(lead) + 1))
_LEAD = re.compile(
    "(?:" + "|".join(map(re.escape, sorted(_LEADS, key=len, reverse=True))) + r")(?![^\W_])", re.I
)
OPENERS = 12
"""About so many tokens open a verdict without telling which: bold, quotes, blanks, leads."""

_TURN = re.compile(r"\n\s*(Human|Assistant|User|System)\s*:", re.I)
_REASON = re.compile(r"[\s,;:–—-]*(because|since|due to|as it|as this)\b", re.I)
_NEW_SENTENCE = re.compile(
    r"\s*[.,;:!\n–—-]+\s*(it|this|that|its|the reason|reason|reasoning|explanation|the first|"
    r"the second|the response|response|option)\b",
    re.I,
)
_NO_MORE = r"(?![^\W_]|[.,]\d|[/+?'’-]\w|[+?=<>%])"
_IS_BEST = re.compile(
    r"\s+is\s+(clearly\s+)?(the\s+)?(better|best|correct|right|preferable)"
    r"(\s+(answer|response|choice|option|one))?\s*[.!]*$",
    re.I,
)
_TURNS_BACK = re.compile(
    r"\b(but|however|although|though|actually|wait|instead|rather|unless|if|maybe|perhaps|"
    r"depends?|equally|both|either|neither|nor|none|unsure|sorry|except|wrong|incorrect|worse|"
    r"worst)\b",
    re.I,
)
_NEGATES = re.compile(
    r"\b(not|no|never|cannot|wrong|incorrect|worse|worst|bad|false|hardly)\b|n['’]t\b", re.I
)
_NEGATED = re.compile(
    r"\W*(((is|was|would|does|can|could|should)\b.{0,12}?)?"
    r"(\b(not|wrong|incorrect|worse|false|neither|no)\b)|(is|was|would|does)n['’]t\b)",
    re.I,
)


@dataclass(frozen=True)
class Opening:
    """What the beginning of an answer may become.

    Attributes:
        options: The options that it can still be, or that it is.
        form: `literal` where part of the option stands there as it was asked for, `bare` where
            its letter does without the brackets; `none` before that.
        said: The part of the option's own text that is there.
    """

    options: tuple[int, ...]
    form: Literal["none", "literal", "bare"] = "none"
    said: str = ""


def core_of(option: str) -> str:
    """Return the letter, number or word of an option without its brackets."""
    found = _BRACKETED.fullmatch(option.strip())
    return found[1] if found else option.strip()


def opening_of(text: str, options: Sequence[str]) -> Opening:
    """Tell which options an unfinished answer may be for.

    Blanks, bold, quotes and a repeated lead ("The answer is:") before the option say nothing.
    """
    every = tuple(range(len(options)))
    said = _undecorated(text)
    if not said or said.lower() in _BEGINNINGS:
        return Opening(every)
    for part in (said, _without_lead(said)):
        if not part:
            return Opening(every)
        literal = tuple(o for o in every if _agrees(part, options[o].strip()))
        if literal:
            return Opening(literal, "literal", part)
        opened = part.lstrip("[({")
        if not opened:
            return Opening(every)
        bare = tuple(o for o in every if _agrees(opened, core_of(options[o])))
        if bare:
            return Opening(bare, "bare", opened)
    return Opening(())


def read_verdict(text: str, options: Sequence[str]) -> int | None:
    """Return the option that an answer is clearly for, read to its end.

    A verdict may stand after blanks or a repeated lead, in bold, in other brackets or none, and be
    said again or be given a reason. What names another option, negates one, takes its verdict back
    or goes on to say something else is none.

    Args:
        text: The whole answer; the next turn of a conversation, should it begin one, is not read.
        options: As they were asked for; blanks around them are not compared.

    Returns:
        Its number, or None.
    """
    text = _TURN.split(_plain(text))[0]
    found = _at_start(text, options)
    if found is None:
        return None
    option, tail, _ = found
    if not _left_over(tail):
        return option
    if _names_another(tail, options, option) or _TURNS_BACK.search(tail):
        return None
    if _REASON.match(tail) or _IS_BEST.match(tail):
        return option
    if read_verdict(tail.lstrip(" .,;:!\n-–—"), options) == option:
        return option
    return option if _NEW_SENTENCE.match(tail) and not _NEGATES.search(tail) else None


def contradicts(text: str, options: Sequence[str], option: int) -> bool:
    """Say whether an answer that began as an option's takes that back, or was not that option."""
    text = _TURN.split(_plain(text))[0]
    found = _at_start(text, options)
    if found is None:
        unfinished = _without_lead(_undecorated(text)).rstrip()
        return not options[option].strip().startswith(unfinished)
    first, tail, bare = found
    if first != option or _names_another(tail, options, option):
        return True
    if bare and _left_over(tail):
        return read_verdict(text, options) != option
    return bool(_NEGATED.match(tail))


def _plain(text: str) -> str:
    """Return a text without bold, code and LaTeX's boxes, in plain characters."""
    text = re.sub(r"\\boxed\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    return re.sub(r"[*`$]|(?<!\w)_+|_+(?!\w)", "", text)


def _undecorated(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lstrip(_DECORATION)


def _without_lead(text: str) -> str:
    """Return what follows a lead; the text itself where there is none."""
    while found := _LEAD.match(text):
        text = text[found.end() :].lstrip(_DECORATION + ":")
    return text


def _agrees(said: str, option: str) -> bool:
    """Whether a text begins an option, or is it and then something else."""
    if option.startswith(said):
        return True
    return said.startswith(option) and not said[len(option)].isalnum()


def _at_start(text: str, options: Sequence[str]) -> tuple[int, str, bool] | None:
    """Return the option that stands first, what follows it, and whether its letter is bare."""
    said = _undecorated(text)
    for part in (said, _without_lead(said)):
        for option in sorted(range(len(options)), key=lambda o: -len(options[o])):
            core = re.escape(core_of(options[option]))
            literal = re.escape(options[option].strip())
            found = _of_top(part, options, option) or re.match(
                rf"(?:{literal}|([\[({{\"'“]*){core}([\])}}\"'”]*)){_NO_MORE}", part
            )
            if found:
                bare = found.lastindex is not None and not found[1]
                return option, part[found.end() :], bare and core != literal
    return None


def _of_top(text: str, options: Sequence[str], option: int) -> re.Match[str] | None:
    """Match a grade that names the highest one: `5/7`, `5 out of 7`."""
    cores = [core_of(o) for o in options]
    if not all(core.isdigit() for core in cores):
        return None
    return re.match(rf"{cores[option]}\s*(?:/|out of)\s*{cores[-1]}(?![\d.]*\d)", text)


def _left_over(tail: str) -> str:
    return tail.strip(_DECORATION + ".,;:!)]}")


def _names_another(tail: str, options: Sequence[str], option: int) -> bool:
    """Whether another option stands in a text; the words "A" and "I" are no options."""
    cores = [core_of(o) for o in options]
    if all(core.isdigit() for core in cores):
        return any(number != cores[option] for number in re.findall(r"\d+(?:[.,]\d+)?", tail))
    for number, core in enumerate(cores):
        if number == option:
            continue
        word = rf"(?<!\w){re.escape(core)}(?!\w)"
        if core in ("A", "I"):
            word += r"(?!['’]?\s*[a-z]|['’])|[(\[{]" + core + r"[)\]}]|" + _NAMED + core + r"(?!\w)"
        if re.search(word, tail):
            return True
    return False


_NAMED = r"(?:[Rr]esponse|[Oo]ption|[Aa]nswer|[Cc]hoice|or|and|than)\s+"
