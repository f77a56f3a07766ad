"""Flaws of critiques and revisions that their texts show, without asking a model.

Small models, and models that were not taught to follow the format, copy sentences from the worked
examples, speak about the response in place of writing one, or repeat what they were told. Training
on such revisions teaches a model to do the same.

A run of words counts against a text only if the conversation does not have it. All thresholds are
at the top; `python -m benchmarks.revision_flaws` measures them on chains that are known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cai.constitution.schema import CritiqueExample
from cai.data.conversation import Conversation
from cai.data.words import words
from cai.evaluate.refusals import declines, stance
from cai.revise.languages import foreign_script, language
from cai.settings.revise import Flaw

FLAWS: dict[Flaw, str] = {
    "copied": "copy the worked examples",
    "echo": "repeat the prompt, the request or the critique",
    "describes": "describe a response and are none",
    "dialogue": "go on with turns of a dialogue",
    "off_topic": "have next to no word in common with the conversation",
    "language": "are in another language than the conversation",
    "repetitive": "repeat themselves",
    "refusal": "shrink to a refusal without a reason",
}
"""What is said of the revisions that have a flaw."""

Where = Literal["critique", "revision"]

RUN = 5
"""Words; a shorter run that two texts share says nothing."""
COPIED_RUN = 8
"""Words in a row from the worked examples, from which on a text is copied."""
COPIED_SHARE = 0.5
"""Of a text's words in such runs, from which on it is copied."""
ECHO_SHARE = 0.5
"""Of a revision's words that the prompt, the request or the critique have in runs."""
REPEATED_SHARE = 0.4
"""Of a text's runs of four words, those that came before in it."""
TOPIC_WORDS = 10
"""A revision with fewer content words can do without any of the conversation."""
TOPIC_SHARE = 0.08
"""Of a revision's content words that the conversation or the first response has."""
CONTENT_LETTERS = 5
"""Shorter words are mostly grammar; longer ones are compared by so many letters."""

_OF = (
    r"(?:(?:assistant|model|ai|bot|user)(?:['’]s)?|last|previous|original|initial|first|second|"
    r"revised|rewritten|improved|updated|new|final|above|given|following|harmless|better)"
)
_DESCRIBES = re.compile(
    r"\A\W*(?:(?:yes|no)\b\W+)?(?:the|this|that|my|your|its) "
    rf"(?:(?:{_OF}\W+){{0,3}}(?:response|reply|answer|revision|critique)|"
    r"(?:ai )?(?:assistant|model))\b['’*_s]*"
    r"(?: \w+){0,2}? (?:is|are|was|were|does|did|do|has|had|should|could|would|will|can|may|might|"
    r"must|keeps?|contains?|includes?|provides?|gives?|explains?|describes?|recommends?|suggests?|"
    r"says?|said|shows?|uses?|avoids?|needs?|seems?|appears?|makes?|removes?|leaves?|takes?|goes|"
    r"went|\w+ed)\b",
    re.I,
)
_OF_A_RESPONSE = re.compile(
    rf"\bthe (?:assistant|model)(?:['’]s (?:{_OF}\W+)?(?:response|reply|answer)|"
    r" (?:will|should|could|would|does|must|can|has|is|was))\b",
    re.I,
)
_TURN = re.compile(
    r"^\W{0,3}(?:human|user|assistant|critique(?: ?request)?|revision(?: ?request)?)\W{0,3}:",
    re.I | re.M,
)


@dataclass(frozen=True)
class Found:
    """A flaw, and where it is.

    Attributes:
        flaw: Which.
        where: In the critique or in the revision.
        quote: Words of the text that show it; empty where that takes the whole text.
    """

    flaw: Flaw
    where: Where
    quote: str = ""


class Examples:
    """The texts of a constitution's worked examples, in which copied words are looked up."""

    def __init__(self, examples: Sequence[CritiqueExample]) -> None:
        texts = (
            text
            for example in examples
            for text in (
                *(message.content for message in example.messages),
                example.response,
                example.critique,
                example.revision,
            )
        )
        self.runs = _runs_of(texts)


@dataclass(frozen=True)
class Round:
    """One round of a chain, as its flaws are looked for.

    Attributes:
        messages: The conversation that is answered.
        first: The first response.
        before: The response that was criticised and revised.
        requests: What was asked for: the texts of the principle.
        critique: None when the response was revised directly.
        revision: As it is trained on, without words around it (`unwrap`).
    """

    messages: Conversation
    first: str
    before: str
    requests: tuple[str, ...]
    critique: str | None
    revision: str


def find_flaws(one: Round, examples: Examples) -> list[Found]:
    """Return the flaws of a round's critique and revision, each at most once per text."""
    said = [message.content for message in one.messages]
    given = _runs_of([*said, one.first, one.before])
    found: list[Found] = []
    if one.critique is not None:
        asked = given | _runs_of(one.requests)
        found += _flaws(one.critique, "critique", examples.runs - asked, [one.before, *said])
        if declines(one.critique):
            found.append(Found("refusal", "critique"))
        if _echo(one.critique, [_runs_of(said), _runs_of(one.requests), _runs_of([one.before])]):
            found.append(Found("echo", "critique"))
    found += _flaws(one.revision, "revision", examples.runs - given, [one.before, *said])
    spoken_of = any(_OF_A_RESPONSE.search(text) for text in said)
    mention = None if spoken_of else _OF_A_RESPONSE.search(one.revision)
    if described := _DESCRIBES.match(one.revision) or mention:
        found.append(Found("describes", "revision", described.group().strip()))
    repeated = [_runs_of(said[-1:]), _runs_of(one.requests), _runs_of([one.critique or ""]) - given]
    if _echo(one.revision, repeated) and one.revision.strip() != one.before.strip():
        found.append(Found("echo", "revision"))
    now = stance(one.revision)
    if now == "evasive" and stance(one.before) != "evasive":
        found.append(Found("refusal", "revision"))
    if now != "evasive" and _is_off_topic(one.revision, [*said, one.first]):
        found.append(Found("off_topic", "revision"))
    return found


def _flaws(text: str, where: Where, foreign: frozenset[str], spoken: Sequence[str]) -> list[Found]:
    """Return the flaws that critiques and revisions can both have."""
    found: list[Found] = []
    if quote := _copied(text, foreign):
        found.append(Found("copied", where, quote))
    if turn := _TURN.search(text):
        found.append(Found("dialogue", where, turn.group()))
    own, others = language(text), {language(other) for other in spoken}
    foreign_letters = foreign_script(text, spoken)
    if own and others - {None} and own not in others:
        found.append(Found("language", where, own))
    elif foreign_letters:
        found.append(Found("language", where, foreign_letters))
    grams = _grams(words(text), RUN - 1)
    if len(grams) >= 2 * RUN and 1 - len(set(grams)) / len(grams) >= REPEATED_SHARE:
        ((commonest, _),) = Counter(grams).most_common(1)
        found.append(Found("repetitive", where, commonest))
    return found


def _copied(text: str, foreign: frozenset[str]) -> str:
    """Return the longest run of words of a text that stands in the examples, if it is copied."""
    own = words(text)
    spans = _spans(own, foreign)
    longest = max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
    covered = sum(stop - start for start, stop in spans)
    if longest[1] - longest[0] < COPIED_RUN and covered < COPIED_SHARE * max(len(own), 1):
        return ""
    return " ".join(own[slice(*longest)])


def _echo(text: str, sources: Iterable[frozenset[str]]) -> bool:
    """Return whether most words of a text stand in runs of one of the sources."""
    own = words(text)
    return len(own) >= 2 * RUN and any(
        sum(stop - start for start, stop in _spans(own, source)) >= ECHO_SHARE * len(own)
        for source in sources
    )


def _is_off_topic(text: str, conversation: Sequence[str]) -> bool:
    own = _content(text)
    known = {stem for other in conversation for stem in _content(other)}
    return len(own) >= TOPIC_WORDS and bool(known) and len(own & known) < TOPIC_SHARE * len(own)


@lru_cache(maxsize=64)
def _content(text: str) -> frozenset[str]:
    return frozenset(w[:CONTENT_LETTERS] for w in words(text) if len(w) >= CONTENT_LETTERS)


def _spans(own: Sequence[str], source: frozenset[str]) -> list[tuple[int, int]]:
    """Return where runs of a text's words stand in a source, as (start, stop), merged."""
    spans: list[tuple[int, int]] = []
    for start, run in enumerate(_runs(own)):
        if run not in source:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], start + RUN)
        else:
            spans.append((start, start + RUN))
    return spans


def _runs_of(texts: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*map(_runs_in, texts))


@lru_cache(maxsize=64)
def _runs_in(text: str) -> frozenset[str]:
    """Return the runs of a text; the rounds of a chain ask again for its prompt and response."""
    return frozenset(_runs(words(text)))


def _runs(own: Sequence[str]) -> list[str]:
    return _grams(own, RUN)


def _grams(own: Sequence[str], n: int) -> list[str]:
    return [" ".join(own[i : i + n]) for i in range(len(own) - n + 1)]
