"""Prompt sets by name: `NAME:FILE`, read from a file on this machine.

Known sets have a fixed kind of prompt and format. `red_team:FILE` and `helpful:FILE` read a user's
file, in any format of a pipeline's prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cai.data.conversation import Conversation
from cai.data.prompts.extraction import layout_name, prompt_of, tags_of
from cai.data.prompts.near_duplicates import near_duplicate_groups
from cai.data.prompts.readers import read_records
from cai.data.prompts.record import Record, read_each, say_what_was_read
from cai.data.prompts.splitting import compared_text
from cai.data.records import Kind, PromptRow, content_hash
from cai.errors import CaiError
from cai.evaluate.questions import ChoiceQuestion, questions_of

NEAR_DUPLICATE = 0.5
"""As in a pipeline: prompts with this word 3-gram overlap or more count as one task."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts with the tag `set` and, if the file has one, `category` or `type`; or questions."""

    name: str
    prompts: tuple[PromptRow, ...] = ()
    questions: tuple[ChoiceQuestion, ...] = ()


T = TypeVar("T")
KindOf = Callable[[Record], Kind]


def _always(kind: Kind) -> KindOf:
    return lambda _record: kind


def xstest_kind(record: Record) -> Kind:
    """Return `helpful` for safe prompts and `red_team` for unsafe ones, by `label` or `type`."""
    label, sort = record.get("label"), record.get("type")
    if label in ("safe", "unsafe"):
        return "helpful" if label == "safe" else "red_team"
    if isinstance(sort, str):
        return "red_team" if sort.startswith("contrast_") else "helpful"
    raise CaiError(
        f"{record.where} is not a row of XSTest: it has neither `label` (safe, unsafe) nor `type`, "
        f"but {record.columns()}. Give xstest_prompts.csv or a file of its completions."
    )


PROMPT_SETS: dict[str, KindOf] = {
    "red_team": _always("red_team"),
    "helpful": _always("helpful"),
    "xstest": xstest_kind,
    "advbench": _always("red_team"),
    "harmbench": _always("red_team"),
    "do_not_answer": _always("red_team"),
    "mt_bench": _always("helpful"),
    "vicuna": _always("helpful"),
}
"""Sets of prompts to answer, and the kind of each of their rows."""

MULTIPLE_CHOICE = "multiple_choice"
QUESTION_SETS = ("hhh", "harmful_vs_ethical", MULTIPLE_CHOICE)
"""Multiple-choice sets: HHH comparisons, conversations that are harmful or ethical, and any others.

All are read alike; the names are for the results."""


def read_set(name: str, path: str, *, limit: int | None = None) -> PromptSet:
    """Read a set of `PROMPT_SETS` or `QUESTION_SETS`.

    Args:
        name: Of the set.
        path: A file; for sets of prompts also `hub:owner/name`.
        limit: The number of rows, spread over the file.

    Raises:
        CaiError: The name is unknown, or the file cannot be read as this set.
    """
    records = read_records(path)
    if name in QUESTION_SETS:
        # Several files can be of the general kind, and each has its own results.
        source = f"{name}:{path}" if name == MULTIPLE_CHOICE else name
        return PromptSet(name, questions=tuple(read_questions(records, source, path, limit=limit)))
    prompts = prompt_rows(conversations(records, path), PROMPT_SETS[name], name, path)
    say_what_was_read(path, records, [layout_name(record) for record in records])
    return PromptSet(name, prompts=tuple(_thinned(prompts, limit)))


def read_questions(
    records: Sequence[Record], source: str, path: str, *, limit: int | None = None
) -> list[ChoiceQuestion]:
    """Read the multiple-choice questions of a file, and say how they were read.

    Args:
        records: The file's rows.
        source: The set's name in results.
        path: The file, for messages.
        limit: The number of questions, spread over the file.

    Raises:
        CaiError: As `questions_of`.
    """
    questions = questions_of(records, source)
    say_what_was_read(path, records, ["multiple-choice questions"])
    return _thinned(questions, limit)


def conversations(
    records: Sequence[Record], path: str, column: str | None = None
) -> list[tuple[Conversation, Record]]:
    """Return the prompt of each record that has one; what is left out is said.

    Raises:
        CaiError: None of them holds a prompt.
    """
    read = read_each(path, records, lambda record: prompt_of(record, column))
    found = [(m, record) for m, record in zip(read, records, strict=True) if isinstance(m, tuple)]
    if not found:
        what = "left out" if any(read) else "blank"
        raise CaiError(f"{path} has no prompt: all of its {len(records)} rows are {what}.")
    return found


def prompt_rows(
    read: Sequence[tuple[Conversation, Record]], kind_of: KindOf, name: str, path: str
) -> list[PromptRow]:
    """Return the prompts of a set, each once, near-duplicates under one task."""
    found: dict[Conversation, Record] = {}
    for messages, record in read:
        found.setdefault(messages, record)
    groups = near_duplicate_groups([compared_text(m) for m in found], NEAR_DUPLICATE)
    keys = [content_hash(messages) for messages in found]
    return [
        PromptRow(
            key=key,
            kind=kind_of(record),
            split="held_out",
            messages=messages,
            source=path,
            task=keys[group],
            tags={**_category(record), "set": name},
        )
        for (messages, record), key, group in zip(found.items(), keys, groups, strict=True)
    ]


def _category(record: Record) -> dict[str, str]:
    """Return the record's tags; what XSTest calls a type is its category."""
    tags = tags_of(record)
    return {"category": tags["type"], **tags} if "type" in tags else tags


def _thinned(rows: Sequence[T], limit: int | None) -> list[T]:
    """Return so many rows at even distances; all of them without a limit."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[place * len(rows) // limit] for place in range(limit)]
