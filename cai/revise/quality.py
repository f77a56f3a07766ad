"""How good the revisions of a run are, as far as their texts show (`cai.revise.flaws`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cai.constitution import Constitution
from cai.data.records import RevisionRow, Row
from cai.revise.flaws import Examples, Found, Round, Where, find_flaws
from cai.revise.wrappers import Wrapping, unwrap
from cai.settings.revise import Flaw

K = TypeVar("K", int, str)

SHOWN_EACH = 3
"""Examples that are kept of each flaw."""
SHOWN_CHARACTERS = 400
"""Of the text of an example."""


@dataclass(frozen=True)
class Assessed:
    """One round of a chain.

    Attributes:
        key: Of the chain.
        number: Of the round, from 1.
        principle: Its id.
        before: The response that was revised, without words around it.
        critique: None if there was none.
        revision: Without words around it.
        said: The revision with them.
        wrapping: What the words around it are.
        ended: Whether the token limit left it whole.
        new: Whether it differs from the response before it.
        on_first: Whether the response before it is the chain's first one, which is no target.
        found: The flaws of both texts.
        flawed: Whether the revision has a flaw that counts.
    """

    key: str
    number: int
    principle: str
    before: str
    critique: str | None
    revision: str
    said: str
    wrapping: Wrapping
    ended: bool
    new: bool
    on_first: bool
    found: Sequence[Found]
    flawed: bool

    def flaws(self, where: Where = "revision") -> list[Flaw]:
        """Return the flaws of one of the texts."""
        return [one.flaw for one in self.found if one.where == where]

    def text(self, where: Where) -> str:
        """Return one of the texts."""
        return self.revision if where == "revision" else self.critique or ""


class FlawsRow(Row):
    """The flaws of a chain, by round: a line of `flaws.jsonl` of a `revise` stage."""

    rounds: Sequence[Sequence[Found]]


@dataclass(frozen=True)
class FlawExample:
    """A text with a flaw; `text` is shortened, `quote` are the words that show the flaw."""

    key: str
    round: int
    principle: str
    where: Where
    flaw: Flaw
    quote: str
    text: str


@dataclass(frozen=True)
class FlawShare:
    """How many revisions there are, and how many of them have a flaw that counts."""

    revisions: int
    flawed: int


@dataclass(frozen=True)
class RevisionQuality:
    """The file `quality.json` of a `revise` stage.

    Attributes:
        chains: Those with at least one round.
        revisions: Their rounds.
        flawed: The revisions with a flaw that counts.
        unchanged: The revisions that are the response before them, or say that it may stay.
        wrapped: The revisions with words about themselves around them.
        cut_off: The revisions that the token limit cut off.
        flaws: Revisions by flaw; a revision can have several.
        critique_flaws: Critiques by flaw.
        by_round: By number of the round.
        by_principle: By id.
        examples: A few of each flaw.
    """

    chains: int
    revisions: int
    flawed: int
    unchanged: int
    wrapped: int
    cut_off: int
    flaws: Mapping[Flaw, int] = field(default_factory=dict[Flaw, int])
    critique_flaws: Mapping[Flaw, int] = field(default_factory=dict[Flaw, int])
    by_round: Mapping[int, FlawShare] = field(default_factory=dict[int, FlawShare])
    by_principle: Mapping[str, FlawShare] = field(default_factory=dict[str, FlawShare])
    examples: Sequence[FlawExample] = ()


class Assessor:
    """Finds the flaws of chains."""

    def __init__(self, constitution: Constitution | None, counted: Collection[Flaw]) -> None:
        """Take what the model was shown, if known, and the flaws that make a revision unfit."""
        self._counted = frozenset(counted)
        self._examples = Examples(constitution.few_shot.critique if constitution else ())
        self._requests = {
            p.id: tuple(text for text in (p.critique, p.revision) if text)
            for p in (constitution.principles if constitution else ())
        }

    def rounds(self, row: RevisionRow) -> list[Assessed]:
        """Assess the rounds of a chain, in order."""
        found: list[Assessed] = []
        before = row.response
        for number, step in enumerate(row.steps, start=1):
            plain = unwrap(step.revision, before)
            one = Round(
                messages=row.messages,
                first=row.response,
                before=before,
                requests=self._requests.get(step.principle.id, ()),
                critique=step.critique,
                revision=plain.text,
            )
            flaws = find_flaws(one, self._examples)
            found.append(
                Assessed(
                    key=row.key,
                    number=number,
                    principle=step.principle.id,
                    before=before,
                    critique=step.critique,
                    revision=plain.text,
                    said=step.revision,
                    wrapping=plain.kind,
                    ended=step.ended,
                    new=plain.text.strip() != before.strip(),
                    on_first=before == row.response,
                    found=flaws,
                    flawed=any(f.where == "revision" and f.flaw in self._counted for f in flaws),
                )
            )
            before = plain.text
        return found


def measure_revisions(chains: Iterable[Sequence[Assessed]]) -> RevisionQuality:
    """Count flaws over the assessed rounds of chains; chains without a round are left out."""
    made = [chain for chain in chains if chain]
    rounds = [one for chain in made for one in chain]
    by: dict[Where, Counter[Flaw]] = {"critique": Counter(), "revision": Counter()}
    shown: list[FlawExample] = []
    for one in rounds:
        for found in one.found:
            by[found.where][found.flaw] += 1
            if by[found.where][found.flaw] <= SHOWN_EACH:
                shown.append(
                    FlawExample(
                        key=one.key,
                        round=one.number,
                        principle=one.principle,
                        where=found.where,
                        flaw=found.flaw,
                        quote=found.quote,
                        text=one.text(found.where)[:SHOWN_CHARACTERS],
                    )
                )
    flawed = [one.flawed for one in rounds]
    return RevisionQuality(
        chains=len(made),
        revisions=len(rounds),
        flawed=sum(flawed),
        unchanged=sum(not one.new for one in rounds),
        wrapped=sum(one.wrapping == "wrapped" for one in rounds),
        cut_off=sum(not one.ended for one in rounds),
        flaws=dict(by["revision"].most_common()),
        critique_flaws=dict(by["critique"].most_common()),
        by_round=_shares([one.number for one in rounds], flawed),
        by_principle=_shares([one.principle for one in rounds], flawed),
        examples=shown,
    )


def _shares(groups: Sequence[K], flawed: Sequence[bool]) -> dict[K, FlawShare]:
    total = Counter(groups)
    bad = Counter(group for group, is_bad in zip(groups, flawed, strict=True) if is_bad)
    return {group: FlawShare(total[group], bad[group]) for group in sorted(total)}
