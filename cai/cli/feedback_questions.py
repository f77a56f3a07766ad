"""Multiple-choice files of `cai feedback`: which files they are, and their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from cai.cli.console import plain_table, rate_cells
from cai.data.prompts.layouts import LAYOUTS
from cai.data.prompts.readers import READERS, read_records
from cai.data.prompts.record import Record
from cai.data.records import ChoiceRow
from cai.data.rows import Task, run_rows
from cai.data.states import StateLimit
from cai.engines import Engine
from cai.errors import CaiError
from cai.evaluate.choices import choice_item, choice_row, choices
from cai.evaluate.options import is_question
from cai.evaluate.questions import ChoiceQuestion
from cai.evaluate.results import Choices
from cai.evaluate.sets import QUESTION_SETS, read_questions
from cai.report.wording import visible

MODEL = "model"
"""The one model's name in results."""

_MEASURES = {
    "accuracy": "accuracy of the likeliest option",
    "right_probability": "probability of the right options",
    "answered": "questions with probabilities",
    "calibration_error": "expected calibration error",
    "position_bias": "position bias towards (A) (0 is fair)",
    "length_bias": "length bias (0 is fair)",
}
_BASELINES = {
    "always_first": "  always (A)",
    "longest": "  always the longest option",
    "most_frequent": "  always the letter that is right most often",
}


@dataclass(frozen=True)
class Sources:
    """The files of a command, each known comparisons or questions."""

    comparisons: Sequence[str]
    questions: Sequence[ChoiceQuestion]


def told_apart(given: Sequence[str], limit: int | None) -> Sources:
    """Read the multiple-choice files, and return the names of the others.

    A set's name before the file (`multiple_choice:FILE`) makes its rows questions. Without one, a
    file has questions if its first row is one and is in no layout of comparisons.

    Raises:
        CaiError: A row of a multiple-choice file is no question.
    """
    comparisons: list[str] = []
    questions: list[ChoiceQuestion] = []
    for spec in given:
        name, _, path = spec.partition(":")
        if name.replace("-", "_").lower() in QUESTION_SETS and path:
            questions += read_questions(read_records(path), spec, path, limit=limit)
            continue
        records = [] if name in READERS else read_records(spec)
        if records and is_question(records[0]) and not _compares(records[0]):
            questions += read_questions(records, spec, spec, limit=limit)
        else:
            comparisons.append(spec)
    return Sources(comparisons, questions)


def _compares(record: Record) -> bool:
    """Say whether a row is in a layout of comparisons; one column of answers says too little."""
    return any(layout.fits(record) for layout in LAYOUTS if len(layout.columns) > 1)


async def ask_questions(
    questions: Sequence[ChoiceQuestion],
    engine: Engine,
    *,
    concurrency: int,
    task: Task,
    limit: StateLimit,
) -> dict[str, Choices]:
    """Put the questions to a model, and measure its choices by file."""
    items = [choice_item(question, MODEL, engine) for question in questions]
    row = partial(choice_row, name=MODEL, engine=engine)
    items.sort(key=lambda item: item.key)  # the first rows are to be like all the others
    made = await run_rows(items, row, concurrency=concurrency, task=task, limit=limit)
    rows: Sequence[ChoiceRow] = made.rows
    return choices(rows, questions, [MODEL])


def show_questions(console: Console, found: Mapping[str, Choices]) -> None:
    """Print the measures of each file, with its baselines, confidence and letters."""
    for source, one in found.items():
        chosen = one.models[MODEL]
        states = ", ".join(f"{count:,} {state}" for state, count in chosen.states.items())
        console.print(f"{visible(source)}: {one.questions:,} questions: {states}\n")
        table = plain_table("measure", "value", "95% interval", "n")
        for name, said in _MEASURES.items():
            table.add_row(said, *rate_cells(getattr(chosen, name)))
            if name == "accuracy":
                for baseline, words in _BASELINES.items():
                    table.add_row(words, *rate_cells(one.baselines[baseline]))
        console.print(table)
        console.print("\nconfidence of choices, and how many are right:")
        table = plain_table("")
        table.show_header = False
        for at in chosen.reliability:
            table.add_row(f"{at.confidence:.3f}", *rate_cells(at.right))
        console.print(table)
        letters = plain_table("letter", "chosen", "right")
        for letter in sorted({*one.letters, *chosen.letters}):
            counts = (chosen.letters.get(letter, 0), one.letters.get(letter, 0))
            letters.add_row(letter, *(f"{count:,}" for count in counts))
        console.print()
        console.print(letters)


def check_answered(found: Mapping[str, Choices]) -> None:
    """Refuse a result that measures nothing.

    Raises:
        CaiError: No question of a file has probabilities.
    """
    for source, one in found.items():
        states = one.models[MODEL].states
        if not one.models[MODEL].answered.value:
            said = ", ".join(f"{count:,} {state}" for state, count in states.items())
            raise CaiError(
                f"No question of {source} got an answer ({said}), so nothing was measured."
            )
