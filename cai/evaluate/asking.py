"""Run models one after the other, each with all its requests, so that each is loaded once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cai.data.records import AnswerRow, ChoiceRow, Row
from cai.data.rows import Item, RowsResult, Task, run_rows
from cai.data.store import RowStore
from cai.engines import Engine
from cai.evaluate.answer import Answerer, Sample
from cai.evaluate.choices import choice_item, choice_row
from cai.evaluate.grading import Grader, limit_of
from cai.evaluate.questions import ChoiceQuestion
from cai.evaluate.texts import BenignText, text_logprobs
from cai.settings import EvaluateSettings

T = TypeVar("T")
R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Subject:
    """A model under one of its names, with its prompts, questions, and texts for perplexity.

    `file` is the name of the file of its answers.
    """

    name: str
    engine: Engine
    samples: Sequence[Sample]
    questions: Sequence[ChoiceQuestion] = ()
    texts: Sequence[BenignText] = ()
    file: str = "rows"


@dataclass
class Asked:
    """The results of models.

    Attributes:
        answers: By file.
        choices: Of all models.
        logprobs: By name, log P of each text, nats; None if it is not known.
    """

    answers: dict[str, RowsResult[AnswerRow]]
    choices: list[ChoiceRow]
    logprobs: dict[str, list[float | None]]


@dataclass(frozen=True)
class Asker:
    """Runs models; rows of an earlier execution in the folder are reused."""

    folder: Path
    settings: EvaluateSettings
    seed: int
    grader: Grader
    task: Callable[[str], Task]

    async def ask(self, subjects: Iterable[Subject], *, keep: Engine | None = None) -> Asked:
        """Run each model, and close it before the next one starts, except the engine `keep`.

        Names with the same engine run one after the other.
        """
        by_engine: defaultdict[Engine, list[Subject]] = defaultdict(list)
        for subject in subjects:
            by_engine[subject.engine].append(subject)
        files = {subject.file for of_engine in by_engine.values() for subject in of_engine}
        stores = {file: RowStore(self.folder, AnswerRow, file) for file in files}
        choices = RowStore(self.folder, ChoiceRow, "choices")
        made: defaultdict[str, list[RowsResult[AnswerRow]]] = defaultdict(list)
        logprobs: dict[str, list[float | None]] = {}
        for engine, of_engine in by_engine.items():
            for subject in of_engine:
                made[subject.file].append(await self._answers(subject, stores[subject.file]))
                logprobs[subject.name] = await text_logprobs(
                    engine, subject.texts, self.settings.concurrency
                )
                if subject.questions:
                    await self._choices(subject, choices)
            if engine is not keep:
                await engine.close()
        return Asked(
            {file: _together(made[file], store) for file, store in stores.items()},
            choices.finish() if choices.rows else [],
            logprobs,
        )

    async def _answers(self, subject: Subject, store: RowStore[AnswerRow]) -> RowsResult[AnswerRow]:
        """Let one model answer; the rows of other models in the file stay as they are."""
        engine, grader = subject.engine, self.grader
        answerer = Answerer(subject.name, self.settings, self.seed)
        return await self._rows(
            [answerer.item(sample, engine, grader) for sample in subject.samples],
            lambda item: answerer.row(item, engine, grader, store.earlier(item.key)),
            store,
            f"evaluate: {subject.name}",
        )

    async def _choices(self, subject: Subject, store: RowStore[ChoiceRow]) -> None:
        """Put the multiple-choice questions to one model."""
        name, engine = subject.name, subject.engine
        items = [choice_item(question, name, engine) for question in subject.questions]
        row = partial(choice_row, name=name, engine=engine)
        await self._rows(items, row, store, f"choices: {name}")

    async def _rows(
        self,
        items: Sequence[Item[T]],
        make: Callable[[Item[T]], Awaitable[R]],
        store: RowStore[R],
        what: str,
    ) -> RowsResult[R]:
        """Make one model's rows of a file; `finish` writes it when it has those of all models."""
        return await run_rows(
            # Prompts come sorted by kind, and the first rows are to be like all the others.
            sorted(items, key=lambda item: item.key),
            make,
            store=store,
            concurrency=self.settings.concurrency,
            task=self.task(what),
            last=False,
            limit=limit_of(self.settings, what, normal=("refused",)),
        )


def _together(made: Sequence[RowsResult[R]], store: RowStore[R]) -> RowsResult[R]:
    """Write a file whose rows were made model by model; return the result of all of them."""
    rows = store.finish()
    reused = frozenset[str]().union(*(result.reused for result in made))
    states = dict(Counter(row.state for row in rows))
    return RowsResult(rows, reused, states, waited=sum(result.waited for result in made))
