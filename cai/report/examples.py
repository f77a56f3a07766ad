"""A few rows to read: revision chains, labelled pairs, and models' answers side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.conversation import Conversation
from cai.evaluate.summarise import MODELS
from cai.records import AnswerRow, ComparisonRow, JudgementRow, Kind, RevisionRow
from cai.report.diff import Segment, word_diff
from cai.report.reading import stage_rows
from cai.report.tallies import first_preferred
from cai.report.wording import shorten


@dataclass(frozen=True)
class Round:
    """One critique and revision; `changes` is the revision against the text before."""

    principle: str
    critique: str | None
    changes: list[Segment]


@dataclass(frozen=True)
class Chain:
    """A red-team prompt, its first response and its rounds."""

    key: str
    messages: list[tuple[str, str]]
    response: str
    rounds: list[Round]


@dataclass(frozen=True)
class Vote:
    """What the feedback model said under one principle.

    Attributes:
        forward: P(response 0 is better) when it was shown first; None if not asked.
        backward: P(response 0 is better) when it was shown second; None if not asked.
        reasoning: The chain of thought of either order, forward first.
    """

    principle: str
    forward: float | None
    backward: float | None
    reasoning: list[str]


@dataclass(frozen=True)
class Pair:
    """Two responses and the label: the probability that the first is the better one."""

    key: str
    source: str
    messages: list[tuple[str, str]]
    responses: tuple[str, str]
    label: float
    votes: list[Vote]


@dataclass(frozen=True)
class Reply:
    """One model's answer and the grader's word for it."""

    model: str
    text: str
    label: str


@dataclass(frozen=True)
class Question:
    """A held-out prompt and every model's answer to it, drawn with the same seed."""

    kind: Kind
    messages: list[tuple[str, str]]
    replies: list[Reply]


def revision_chains(run_dir: Path, count: int) -> list[Chain]:
    """Show the first usable chains; rows are sorted by hash, so these are no special ones."""
    chains: list[Chain] = []
    for row in stage_rows(run_dir / "revise", RevisionRow):
        if len(chains) == count:
            break
        if row.state == "ok" and row.steps:
            chains.append(Chain(row.key, turns(row.messages), shorten(row.response), _rounds(row)))
    return chains


def labelled_pairs(run_dir: Path, count: int) -> list[Pair]:
    """Show the first AI-labelled pairs with the evidence behind their labels."""
    shown: list[ComparisonRow] = []
    for row in stage_rows(run_dir / "compare", ComparisonRow):
        if len(shown) == count:
            break
        if row.label is not None and row.source == "ai":
            shown.append(row)
    wanted = {key for row in shown for key in row.judgements}
    found = {
        row.key: row
        for row in stage_rows(run_dir / "compare", JudgementRow, name="judgements")
        if row.key in wanted
    }
    return [
        Pair(
            key=row.key,
            source=row.source,
            messages=turns(row.messages),
            responses=(shorten(row.responses[0]), shorten(row.responses[1])),
            label=row.label,
            votes=[_vote(found[key]) for key in row.judgements if key in found],
        )
        for row in shown
        if row.label is not None
    ]


def answers_side_by_side(run_dir: Path, count: int) -> list[Question]:
    """Show what each model answered to the same prompts, red-team and benign in equal parts."""
    questions: list[Question] = []
    kinds: tuple[tuple[Kind, int], ...] = (("red_team", (count + 1) // 2), ("helpful", count // 2))
    for kind, share in kinds:
        rows = (row for row in stage_rows(run_dir / "evaluate", AnswerRow) if row.state == "ok")
        questions += _questions((row for row in rows if row.kind == kind), kind, share)
    return questions


def turns(messages: Conversation) -> list[tuple[str, str]]:
    """Return (speaker, text) pairs fit to show."""
    return [(message.role, shorten(message.content)) for message in messages]


def _rounds(row: RevisionRow) -> list[Round]:
    rounds: list[Round] = []
    before = shorten(row.response)
    for step in row.steps:
        after = shorten(step.revision)
        critique = None if step.critique is None else shorten(step.critique)
        rounds.append(Round(step.principle.id, critique, word_diff(before, after)))
        before = after
    return rounds


def _vote(row: JudgementRow) -> Vote:
    orders = [order for order in (row.forward, row.backward) if order is not None]
    return Vote(
        principle=row.principle.id,
        forward=None if row.forward is None else first_preferred(row.forward),
        backward=None if row.backward is None else 1 - first_preferred(row.backward),
        reasoning=[shorten(order.reasoning) for order in orders if order.reasoning],
    )


def _questions(rows: Iterable[AnswerRow], kind: Kind, count: int) -> list[Question]:
    """Group answers by their seed, which the models share for one sample of one prompt."""
    groups: defaultdict[int, list[AnswerRow]] = defaultdict(list)
    chosen: dict[Conversation, int] = {}
    for row in rows:
        if len(chosen) < count:
            chosen.setdefault(row.messages, row.provenance.seed)
        if chosen.get(row.messages) == row.provenance.seed:
            groups[row.provenance.seed].append(row)
    return [
        Question(kind, turns(group[0].messages), [_reply(row) for row in _in_order(group)])
        for group in groups.values()
    ]


def _reply(row: AnswerRow) -> Reply:
    return Reply(row.model, shorten(row.response), str(row.verdict.get("label", "")))


def _in_order(rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    place = {model: number for number, model in enumerate(MODELS)}
    return sorted(rows, key=lambda row: (place.get(row.model, len(MODELS)), row.model))
