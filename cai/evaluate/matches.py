"""Matches: a judge compares two models' answers to one question, in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations

from cai.compare.labels import chosen
from cai.data.records import AnswerRow, Evidence, Kind, MatchRow, content_hash
from cai.data.rows import Item, RowsResult, Task, run_rows, silent
from cai.data.store import RowStore
from cai.evaluate.elo import Match
from cai.evaluate.grading import failures_as_states, limit_of
from cai.evaluate.judge import AnswerJudge, match_questions
from cai.evaluate.rates import Rate, rate
from cai.evaluate.swiss import Pairing, next_round, swiss_rounds
from cai.settings import EvaluateSettings

SIDES: dict[str, Kind] = {"harmless": "red_team", "helpful": "helpful"}
"""The two kinds of Elo, and the prompts of each; the two are never mixed."""

Answers = Mapping[str, Mapping[int, AnswerRow]]
"""By model and question; a question is a prompt with a sample index, and its number is a hash."""
TwoAnswers = tuple[AnswerRow, AnswerRow]


async def play(
    rows: Sequence[AnswerRow],
    *,
    models: Sequence[str],
    judge: AnswerJudge,
    settings: EvaluateSettings,
    seed: int,
    store: RowStore[MatchRow],
    task: Task = silent,
) -> RowsResult[MatchRow]:
    """Compare the models' answers to the same questions with a judge.

    `forward` shows the answer of the earlier one of `models` first. The settings used are
    `elo_pairing`, `elo_prompts` and concurrency; the seed draws the pairs of the first round.
    """
    sides: dict[Kind, Answers] = {kind: _answers(rows, models, kind) for kind in SIDES.values()}
    decide = partial(
        run_rows,
        make=partial(_match, judge=judge),
        store=store,
        concurrency=settings.concurrency,
        task=task,
        limit=limit_of(settings, "evaluate: matches", together=len(models)),
    )
    if settings.elo_pairing == "all":
        return await decide(_items(_all_meet(sides, settings.elo_prompts), judge))
    pairs_of: dict[Kind, list[list[Pairing]]] = {kind: [] for kind in sides}
    rounds = {kind: swiss_rounds(len(answers)) for kind, answers in sides.items()}
    told: list[MatchRow] = []
    for number in range(max(rounds.values())):
        matches: list[TwoAnswers] = []
        for kind, answers in sides.items():
            if number < rounds[kind]:
                pairs = next_round([*answers], pairs_of[kind], outcomes(told, kind), seed)
                pairs_of[kind].append(pairs)
                asked = _most_answered(answers)[: settings.elo_prompts]
                # Rounds do not share questions: no two models meet twice on one.
                matches += _met(answers, pairs, asked[number :: rounds[kind]])
        told = (await decide(_items(matches, judge), last=False)).rows
    return await decide([])


def _all_meet(sides: Mapping[Kind, Answers], most: int) -> list[TwoAnswers]:
    """Return the matches of each two models: at most `most` questions per side."""
    return [
        two
        for answers in sides.values()
        for pair in combinations(answers, 2)
        for two in _met(answers, [pair], sorted(answers[pair[0]]))[:most]
    ]


def _answers(rows: Sequence[AnswerRow], models: Sequence[str], kind: Kind) -> Answers:
    """Return the answers of each model that has any, in the models' order."""
    found: dict[str, dict[int, AnswerRow]] = {model: {} for model in models}
    for row in rows:
        if row.kind == kind and row.response:
            found[row.model][row.provenance.seed] = row
    return {model: answered for model, answered in found.items() if answered}


def _most_answered(answers: Answers) -> list[int]:
    """Return all questions; those with answers of more models come first."""
    counts = Counter(question for answered in answers.values() for question in answered)
    return sorted(counts, key=lambda question: (-counts[question], question))


def _met(answers: Answers, pairs: Iterable[Pairing], questions: Sequence[int]) -> list[TwoAnswers]:
    """Return the answers of each pair to those questions that both have answered."""
    return [
        (answers[first][question], answers[second][question])
        for first, second in pairs
        for question in questions
        if question in answers[first] and question in answers[second]
    ]


def _items(matches: Iterable[TwoAnswers], judge: AnswerJudge) -> list[Item[TwoAnswers]]:
    """Return the items of matches, in an order in which the first are like all the others."""
    return sorted((_item(two, judge) for two in matches), key=lambda item: item.key)


def _item(two: TwoAnswers, judge: AnswerJudge) -> Item[TwoAnswers]:
    one, other = two
    asked = match_questions(one.kind, one.messages, one.response, other.response)
    fingerprint = judge.fingerprint(asked)
    return Item(content_hash("match", one.key, other.key), fingerprint, two)


async def _match(item: Item[TwoAnswers], judge: AnswerJudge) -> MatchRow:
    one, other = item.inputs
    row = MatchRow(
        key=item.key,
        models=(one.model, other.model),
        kind=one.kind,
        task=one.task,
        answers=(one.key, other.key),
        provenance=judge.provenance("comparison.j2"),
    )
    if one.response == other.response:
        row.state, row.error = "tie", "the two answers are the same"
        return row
    with failures_as_states(row):
        row.forward, row.backward = await judge.compare(
            one.kind, one.messages, one.response, other.response
        )
    return row


def outcomes(rows: Iterable[MatchRow], kind: Kind) -> list[Match]:
    """Return the matches of one side that have a result."""
    return [
        Match(*row.models, score=score, cluster=row.task)
        for row in rows
        if row.kind == kind and (score := match_score(row)) is not None
    ]


def match_score(row: MatchRow) -> float | None:
    """Return P(the first model wins), the mean of both orders; None without a verdict."""
    if row.state == "tie":
        return 0.5
    if row.forward is None or row.backward is None:
        return None
    return (_first_shown(row.forward) + 1 - _first_shown(row.backward)) / 2


def order_agreement(matches: Sequence[MatchRow]) -> Rate:
    """Return how often a judge prefers the same answer in both orders."""
    told = [(r.forward, r.backward, r.task) for r in matches if r.forward and r.backward]
    same = [
        (_first_shown(forward) > 0.5) == (_first_shown(backward) < 0.5)
        for forward, backward, _ in told
    ]
    return rate(same, [task for _, _, task in told])


def _first_shown(evidence: Evidence) -> float:
    """Return the probability that the answer shown first is the better of the two."""
    first, second = evidence.shown
    return chosen(evidence, (first, second))
