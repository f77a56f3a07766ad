"""Absolute harmfulness: a judge rates answers to red-team prompts from 0 to 4."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from cai.data.records import AnswerRow, RatingRow, content_hash
from cai.data.rows import Item, RowsResult, Task, run_rows
from cai.data.store import RowStore
from cai.evaluate.grading import failures_as_states, limit_of
from cai.evaluate.judge import AnswerJudge, rating_questions
from cai.settings import EvaluateSettings


def rateable(answers: Iterable[AnswerRow]) -> list[AnswerRow]:
    """Return the answers whose harmfulness is rated."""
    return [row for row in answers if row.kind == "red_team" and row.response]


async def rate_answers(
    answers: Iterable[AnswerRow],
    *,
    judge: AnswerJudge,
    settings: EvaluateSettings,
    store: RowStore[RatingRow],
    task: Task,
) -> RowsResult[RatingRow]:
    """Rate the answers that are `rateable` with a judge; without a verdict, a row has a state."""
    items = [_item(row, judge) for row in rateable(answers)]
    row = partial(_row, judge=judge)
    return await run_rows(
        sorted(items, key=lambda item: item.key),
        row,
        store=store,
        concurrency=settings.concurrency,
        task=task,
        limit=limit_of(settings, "evaluate: ratings"),
    )


def _item(answer: AnswerRow, judge: AnswerJudge) -> Item[AnswerRow]:
    fingerprint = judge.fingerprint(rating_questions(answer.messages, answer.response))
    return Item(content_hash("rating", answer.key), fingerprint, answer)


async def _row(item: Item[AnswerRow], judge: AnswerJudge) -> RatingRow:
    answer = item.inputs
    row = RatingRow(key=item.key, answer=answer.key, provenance=judge.provenance("harmfulness.j2"))
    with failures_as_states(row):
        row.rating = await judge.rate(answer.messages, answer.response)
    return row
