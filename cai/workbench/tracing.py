"""How a revision or a label was made: all prompts, answers and votes.

The row functions run again with an engine that returns the stored answers, so the prompts are those
that the model got. No model is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cai.compare import (
    Responder,
    comparison_key,
    expected_grade,
    instead_of,
    label_pair,
    preference,
    twos_of,
)
from cai.compare.forms import Question, Verdict
from cai.constitution import Constitution
from cai.data.conversation import Prompt
from cai.data.records import (
    ComparisonRow,
    Evidence,
    JudgementRow,
    PairRow,
    Provenance,
    RevisionRow,
    Row,
)
from cai.data.rows import Item
from cai.engines import GenerateRequest, ScoreRequest
from cai.errors import CaiError
from cai.workbench.effects import StoredRun
from cai.workbench.witness import EndOfReplayError, Exchange, Replay, Witness

T = TypeVar("T")

SHORTEST = 4
"""Characters of a key that are enough, if no other key begins with them."""


@dataclass(frozen=True)
class Asked:
    """One request to a model.

    Attributes:
        what: Its purpose: `critique 1 under theft`.
        model: The name of the model in the rows.
        request: The request.
        answer: The text; for a score, the log-probabilities of the options in nats; None if it is
            not in the row.
    """

    what: str
    model: str
    request: GenerateRequest | ScoreRequest
    answer: str | tuple[float, ...] | None


@dataclass(frozen=True)
class Vote:
    """The vote of one judgement for a label.

    Attributes:
        principle: Its id.
        weight: Its weight in the average.
        probability: P(response 0 is better) from its orders; None without a verdict.
        grades: The mean grade of each response, counted from 1; None without a grade.
        counted: Whether it has a vote under the label policy.
    """

    principle: str
    weight: float
    probability: float | None
    grades: list[float | None]
    counted: bool


@dataclass
class Origin:
    """How one row was made.

    Attributes:
        title: The kind of row.
        row: The row.
        provenance: Model, templates, sampling and seed; None for a label.
        asked: All requests, in order.
        current: Whether constitution, settings and templates still give the row's fingerprint, so
            that the prompts are those that were sent; None if this is not known.
        votes: For a label: its votes.
        sources: The rows that it was made from.
    """

    title: str
    row: Row
    provenance: Provenance | None = None
    asked: list[Asked] = field(default_factory=list[Asked])
    current: bool | None = None
    votes: list[Vote] = field(default_factory=list[Vote])
    sources: list[Origin] = field(default_factory=list["Origin"])


def trace(run: StoredRun, constitution: Constitution, key: str) -> Origin:
    """Find a chain, pair, judgement or label by its key (or the start of it).

    Raises:
        CaiError: No row, or several rows, have such a key.
    """
    row = _find(run, key)
    if isinstance(row, RevisionRow):
        return _chain(run, constitution, row)
    if isinstance(row, PairRow):
        return _pair(run, row)
    if isinstance(row, JudgementRow):
        return _judgement(run, constitution, row)
    return _label(run, constitution, row)


def _find(run: StoredRun, key: str) -> RevisionRow | PairRow | JudgementRow | ComparisonRow:
    rows = [*run.chains, *run.pairs, *run.judgements, *run.fallback, *run.comparisons]
    found = [row for row in rows if row.key == key]
    if not found and len(key) >= SHORTEST:
        found = [row for row in rows if row.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(row.key for row in found[:5])
        raise CaiError(f"{len(found)} rows of {run.folder} begin with {key!r} ({some}): give more.")
    raise CaiError(
        f"{run.folder} has no row with the key {key!r}. Keys are shown in the report and in"
        " revise/rows.jsonl, compare/pairs.jsonl, compare/judgements.jsonl and compare/rows.jsonl"
        f" as `key`; the first {SHORTEST} characters or more are enough."
    )


def _chain(run: StoredRun, constitution: Constitution, row: RevisionRow) -> Origin:
    origin = Origin("revision chain", row, row.provenance)
    reviser = run.reviser(constitution)
    item = _item_of(row, run.chain_items(constitution, Replay(row.provenance), row.messages))
    if item is None:
        raise CaiError(
            f"The prompt of row {row.key} is no longer in {run.folder / 'prompts'}: run the"
            " pipeline again."
        )
    origin.current = item.fingerprint == row.fingerprint
    names, texts = ["response"], [row.response] if row.response else []
    if first := item.inputs[2]:
        names, texts = [], []
        origin.sources = [_first_response(run, constitution, first)]
    for number, principle in enumerate(item.inputs[1], start=1):
        under = f"{number} under {principle.id}"
        names += [f"critique {under}", f"revision {under}"]
        if not run.revise.critique:
            names.pop(-2)
    for step in row.steps:
        texts += [text for text in (step.critique, step.revision) if text is not None]
    witness = _witness(origin, Replay(row.provenance, texts), names)
    _run(origin, reviser.row(item, witness), names)
    return origin


def _first_response(run: StoredRun, constitution: Constitution, row: RevisionRow) -> Origin:
    """Trace a response that another model has revised."""
    origin = Origin("first response", row, row.provenance)
    responder = run.reviser(constitution).responder
    prompts = [p for p in run.prompts if p.messages == row.messages]
    item = _item_of(row, responder.items(prompts, Replay(row.provenance)))
    if item is not None:
        origin.current = item.fingerprint == row.fingerprint
        replay = Replay(row.provenance, [row.response] if row.response else [])
        names = ["response"]
        _run(origin, responder.row(item, _witness(origin, replay, names)), names)
    return origin


def _pair(run: StoredRun, row: PairRow) -> Origin:
    origin = Origin("pair of responses", row, row.provenance)
    names = [f"response {number}" for number in range(len(row.responses))]
    prompts = [p for p in run.prompts if p.messages == row.messages]
    first, *_, last = (
        row.provenance.model_copy(update={"model": sample.model}) for sample in row.responses
    )
    responder = Responder(run.compare, run.settings.seed, names=(first.model, last.model))
    item = _item_of(row, responder.items(prompts, Replay(first), Replay(last)))
    if item is None:
        return origin
    answered = row.state != "too_long"
    texts = iter([sample.text for sample in row.responses] if answered else [])
    policy = _witness(origin, Replay(first, texts), names)
    helpful = _witness(origin, Replay(last, texts), names)
    _run(origin, responder.row(item, policy, helpful), names)
    return origin


def _judgement(run: StoredRun, constitution: Constitution, row: JudgementRow) -> Origin:
    origin = Origin(f"judgement under {row.principle.id}", row, row.provenance)
    (pair,) = (pair for pair in run.pairs if pair.key == row.pair)
    judge = run.judge(constitution)
    items = judge.items([pair], Replay(row.provenance))
    if row.instead_of is not None:
        origin.title += ", of the fallback judge"
        items = instead_of(items, [j for j in run.judgements if j.key == row.instead_of])
    item = _item_of(row, items)
    if item is None:
        origin.current = False
        return origin
    origin.current = item.fingerprint == row.fingerprint
    names = [_step_name(*step) for step in judge.steps(item.inputs)]
    scores = [evidence.logprobs for evidence in row.evidence]
    replay = Replay(row.provenance, _reasonings(row.evidence), scores)
    _run(origin, judge.row(item, _witness(origin, replay, names)), names)
    return origin


def _step_name(question: Question, sample: int, step: Prompt | Verdict) -> str:
    """Name the purpose of one request of a judgement."""
    shown = " and ".join(map(str, question.shown))
    what = "verdict" if isinstance(step, Verdict) else "reasoning"
    turned = ", the other way round" if isinstance(step, Verdict) and step.turned else ""
    again = f", sample {sample}" if sample else ""
    return f"{what} on response{'s' if len(question.shown) > 1 else ''} {shown}{turned}{again}"


def _reasonings(evidence: Iterable[Evidence]) -> list[str]:
    """Return each reasoning once, in the order of the requests."""
    by_question = {(e.shown, e.sample): e.reasoning for e in evidence}
    return [text for text in by_question.values() if text is not None]


def _label(run: StoredRun, constitution: Constitution, row: ComparisonRow) -> Origin:
    origin = Origin("label", row)
    if row.source != "ai":
        return origin
    weights = {p.id: p.weight for p in constitution.principles}
    judgements = {j.key: j for j in (*run.judgements, *run.fallback)}
    used = [judgements[key] for key in row.judgements if key in judgements]
    policy = run.compare.labels
    found = ((p, two) for p in run.pairs for two in twos_of(p) if comparison_key(p, two) == row.key)
    for pair, two in found:
        known = [j for j in used if j.principle.id in weights]
        again = label_pair(pair, known, weights=weights, policy=policy, two=two)
        origin.current = (again.label, again.state) == (row.label, row.state)
        for judgement in used:
            weight = weights.get(judgement.principle.id, 0.0)
            alone = {judgement.principle.id: weight or 1.0}
            lone = label_pair(pair, [judgement], weights=alone, policy=policy, two=two)
            origin.votes.append(
                Vote(
                    judgement.principle.id,
                    weight,
                    preference(judgement, policy, two),
                    [expected_grade(judgement, number, policy) for number in two],
                    counted=lone.state == "ok",
                )
            )
        origin.sources.append(_pair(run, pair))
    origin.sources += [_judgement(run, constitution, judgement) for judgement in used]
    return origin


def _item_of(row: Row, items: Iterable[Item[T]]) -> Item[T] | None:
    return next((item for item in items if item.key == row.key), None)


def _witness(origin: Origin, replay: Replay, names: Sequence[str]) -> Witness:
    def tell(exchange: Exchange) -> None:
        answer = exchange.answer
        said = answer.logprobs if isinstance(exchange.request, ScoreRequest) else None
        text = getattr(answer, "text", None)
        what, shown = names[len(origin.asked)], said if text is None else text
        origin.asked.append(Asked(what, replay.name, exchange.request, shown))

    return Witness(replay, tell)


def _run(origin: Origin, work: Coroutine[Any, Any, Row], names: Sequence[str]) -> None:
    """Run a row function; if the row ends before it, keep the last request."""
    try:
        asyncio.run(work)
    except EndOfReplayError as end:
        model = origin.provenance.model if origin.provenance else ""
        origin.asked.append(Asked(names[len(origin.asked)], model, end.request, None))
