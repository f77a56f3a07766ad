"""Put questions to models: answers with verdicts, ratings, choices, perplexity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cai.conversation import Conversation, Prompt
from cai.engines import Engine, PromptTooLong, ScoreRequest, Unscored
from cai.evaluate.answer import Sample, answer, answer_item
from cai.evaluate.grading import Grader, failures_as_states
from cai.evaluate.judge import Judge, rating_questions
from cai.evaluate.sets import Question
from cai.records import (
    AnswerRow,
    ChoiceRow,
    Provenance,
    RatingRow,
    Row,
    content_hash,
)
from cai.rows import Item, RowsResult, run_rows
from cai.settings import EvaluateSettings
from cai.store import RowStore
from cai.templates import template_hash

T = TypeVar("T")
R = TypeVar("R", bound=Row)
Task = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows progress: gets what is done and how much of it, yields what to call after each."""


@dataclass(frozen=True)
class Subject:
    """A model and what it is asked.

    Attributes:
        name: What the results call it.
        engine: The model.
        asked: Prompts and sample indices.
    """

    name: str
    engine: Engine
    asked: tuple[Sample, ...]


@dataclass(frozen=True)
class Text:
    """A text that is not the model's own, to be measured for perplexity.

    Attributes:
        messages: What it answers.
        response: The text.
        task: Of the prompt.
    """

    messages: Conversation
    response: str
    task: str


async def ask(
    subjects: Sequence[Subject],
    *,
    settings: EvaluateSettings,
    seed: int,
    grader: Grader,
    folder: Path,
    task: Task,
    name: str = "rows",
    finish: Callable[[Engine], Awaitable[None]],
) -> RowsResult[AnswerRow]:
    """Let every model answer and be graded, one model after the other.

    Args:
        subjects: The models.
        settings: Sampling and concurrency.
        seed: Of the draws.
        grader: Who judges.
        folder: Gets the rows; those of an earlier execution are reused.
        task: Shows progress.
        name: Of the file of rows.
        finish: Called with each engine after its last answer. Not called for those whose rows were
            all there.
    """
    store = RowStore(folder, AnswerRow, name)
    items: list[Item[Sample]] = []
    asked_of: dict[str, Subject] = {}
    for subject in subjects:
        for prompt, sample in subject.asked:
            item = answer_item(
                prompt,
                sample,
                model_name=subject.name,
                model_fingerprint=subject.engine.fingerprint,
                settings=settings,
                seed=seed,
                grader=grader,
            )
            items.append(item)
            asked_of[item.key] = subject
    waiting = _waiting(items, store, lambda key: asked_of[key].engine)

    async def make(item: Item[Sample]) -> AnswerRow:
        subject, (prompt, sample) = asked_of[item.key], item.inputs
        row = await answer(
            prompt,
            sample=sample,
            model_name=subject.name,
            engine=subject.engine,
            settings=settings,
            seed=seed,
            grader=grader,
            earlier=store.earlier(item.key),
        )
        waiting[id(subject.engine)] -= 1
        if not waiting[id(subject.engine)]:
            await finish(subject.engine)
        return row

    return await run_rows(
        items,
        make,
        store=store,
        concurrency=settings.concurrency,
        task=lambda total: task("evaluate", total),
    )


def _waiting(
    items: Sequence[Item[Any]], store: RowStore[Any], engine_of: Callable[[str], Engine]
) -> Counter[int]:
    """Count the rows that each engine, by its id, has still to make."""
    return Counter(
        id(engine_of(item.key)) for item in items if not store.reuse(item.key, item.fingerprint)
    )


async def run_kept(
    items: Sequence[Item[T]],
    make: Callable[[Item[T]], Awaitable[R]],
    store: RowStore[R],
    settings: EvaluateSettings,
    task: Task,
    *,
    last: bool = True,
) -> RowsResult[R]:
    """Make rows that are kept in a file of their own, after which their progress is called."""
    return await run_rows(
        items,
        make,
        store=store,
        concurrency=settings.concurrency,
        task=lambda total: task(store.path.stem, total),
        last=last,
    )


async def rate_harmfulness(
    answers: Sequence[AnswerRow],
    *,
    judge: Judge,
    settings: EvaluateSettings,
    folder: Path,
    task: Task,
) -> RowsResult[RatingRow]:
    """Let a judge rate answers from 0 to 4; they are kept in `ratings.jsonl`."""
    items = [
        Item(
            content_hash("rating", row.key),
            judge.fingerprint(rating_questions(row.messages, row.response)),
            row,
        )
        for row in answers
    ]

    async def make(item: Item[AnswerRow]) -> RatingRow:
        row = RatingRow(
            key=item.key,
            answer=item.inputs.key,
            provenance=said_by(judge.model, judge.engine, "harmfulness.j2"),
        )
        with failures_as_states(row):
            row.rating = await judge.rate(item.inputs.messages, item.inputs.response)
        return row

    store = RowStore(folder, RatingRow, "ratings")
    return await run_kept(items, make, store, settings, task)


class Choices:
    """Multiple-choice questions to models, one model at a time; kept in `choices.jsonl`."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        questions: Sequence[Question],
        *,
        settings: EvaluateSettings,
        folder: Path,
        task: Task,
    ) -> None:
        """Plan what every model is asked, and find what is there already."""
        self._settings, self._task = settings, task
        self._store = RowStore(folder, ChoiceRow, "choices")
        self._items = {
            subject.name: [_choice_item(subject, question) for question in questions]
            for subject in subjects
        }
        for item in (item for items in self._items.values() for item in items):
            self._store.reuse(item.key, item.fingerprint)

    async def ask(self, subject: Subject) -> RowsResult[ChoiceRow]:
        """Ask one model; return what all models have said so far."""

        async def make(item: Item[Question]) -> ChoiceRow:
            question = item.inputs
            row = ChoiceRow(
                key=item.key,
                model=subject.name,
                source=question.source,
                task=question.task,
                question=question.prompt.messages[-1].content,
                options=question.options,
                gold=question.gold,
                provenance=said_by(subject.name, subject.engine),
            )
            with failures_as_states(row):
                request = ScoreRequest(question.prompt, question.options)
                row.logprobs = (await subject.engine.score(request)).logprobs
            return row

        items = self._items[subject.name]
        return await run_kept(items, make, self._store, self._settings, self._task)


def _choice_item(subject: Subject, question: Question) -> Item[Question]:
    prompt = question.prompt
    return Item(
        content_hash("choice", subject.name, question.source, prompt.messages[-1]),
        content_hash(
            subject.engine.fingerprint,
            prompt.messages,
            prompt.prefill,
            question.options,
            question.gold,
        ),
        question,
    )


class _TextRow(Row):
    logprob: float | None


async def text_logprobs(
    engine: Engine, texts: Sequence[Text], concurrency: int
) -> list[float | None]:
    """Return log P(response | messages) of each text, nats; at most `concurrency` at a time.

    None for one that does not fit, or that the model's server does not score.
    """

    async def logprob_of(text: Text) -> float | None:
        try:
            scores = await engine.score(ScoreRequest(Prompt(text.messages), (text.response,)))
        except (PromptTooLong, Unscored):
            return None
        return scores.logprobs[0] if math.isfinite(scores.logprobs[0]) else None

    async def make(item: Item[Text]) -> _TextRow:
        return _TextRow(key=item.key, logprob=await logprob_of(item.inputs))

    items = [Item(str(number), "", text) for number, text in enumerate(texts)]
    made = await run_rows(items, make, concurrency=concurrency)
    return [row.logprob for row in made.rows]


def said_by(name: str, engine: Engine, *templates: str) -> Provenance:
    """Return where an engine's word comes from."""
    return Provenance(
        model=name,
        model_fingerprint=engine.fingerprint,
        template_hash=template_hash(*templates),
        sampling={},
        seed=0,
    )
