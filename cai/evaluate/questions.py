"""Multiple-choice questions of any layout, asked as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from cai.data.conversation import Prompt, user
from cai.data.prompts.record import Record
from cai.data.prompts.turns import structure
from cai.data.records import content_hash
from cai.errors import CaiError
from cai.evaluate.options import LETTERS, STYLES, Written, letter_of, shown, shows, written
from cai.templates import VERDICT, choice_prompt

ZERO_BASED = ("gold", "answer_index")
"""Columns whose numbers count from 0 wherever they are published."""

_FIRST_TURN = re.compile(r"Human:(.*?)(?:\n\n|\Z)", re.DOTALL)
# A last line in which the answer begins; a question such as "What is the answer?" is none.
_LEAD = re.compile(r"\n[^\n?]{0,80}\banswer(?:(?: is)?:| is)\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A multiple-choice question.

    Attributes:
        source: The set's name.
        prompt: Ends with what the text has before the answer, or `The answer is:`.
        options: The letters as they are scored, with their leading space: (A) and so on.
        texts: The texts of the letters; empty if the question does not have them.
        gold: The numbers of the right options.
        task: The same for questions about one conversation.
    """

    source: str
    prompt: Prompt
    options: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[int, ...]
    task: str


def questions_of(records: Sequence[Record], source: str) -> list[ChoiceQuestion]:
    """Read the questions of a file, each once.

    Options that the text shows are asked with this text, unchanged. Others are listed after it,
    as (A), (B) and so on. Of a number that may count from 0 or from 1, the whole file decides.

    Raises:
        CaiError: A row is no question, its right option cannot be told, or two rows ask the same
            and contradict each other. The message has the file and the row.
    """
    rows = [written(record) for record in records]
    right = _right(rows)
    found: dict[Prompt, tuple[ChoiceQuestion, str]] = {}
    for row, gold in zip(rows, right, strict=True):
        question = _question(row, gold, source)
        earlier, where = found.setdefault(question.prompt, (question, row.record.where))
        if earlier.gold != question.gold:
            raise CaiError(
                f"{row.record.where} asks the same as {where}, with another right option. Remove "
                "one of the two rows."
            )
    return [question for question, _ in found.values()]


def _question(row: Written, gold: tuple[int, ...], source: str) -> ChoiceQuestion:
    where, texts = row.record.where, _without_letters(row)
    if len(texts) > len(LETTERS):
        raise CaiError(f"{where} has {len(texts)} options; at most {len(LETTERS)} can be asked.")
    if not 0 < len(gold) < len(texts):
        raise CaiError(
            f"{where} has {len(gold)} right of {len(texts)} options. At least one must be right, "
            "and one wrong. Fix or remove the row."
        )
    stem, lead = _led(row.text)
    style = _style(row, stem, texts)
    if style is None:
        prompt, style = choice_prompt(row.text, texts), "({})"
    else:
        prompt = Prompt(user(stem), prefill=lead)
    turn = _FIRST_TURN.search(stem)
    return ChoiceQuestion(
        source=source,
        prompt=prompt,
        options=tuple(f" {_scored(style).format(LETTERS[n])}" for n in range(len(texts))),
        texts=texts if all(texts) else (),
        gold=gold,
        task=content_hash(turn.group(1).strip() if turn else stem),
    )


def _scored(style: str) -> str:
    """Return how a model writes the letter after the lead: only brackets on both sides stay."""
    return style if style == "({})" else "{}"


def _style(row: Written, stem: str, texts: Sequence[str]) -> str | None:
    """Return the style in which the text shows all options; None if they must be listed."""
    found = shown(stem)
    if row.keys is None and row.record.has("corrects"):
        return found[0] if found else "({})"
    if not row.options and found:
        return found[0]
    return shows(stem, texts) if all(texts) else None


def _led(text: str) -> tuple[str, str]:
    """Split off the line in which the answer begins."""
    if text.endswith(VERDICT):
        return text.removesuffix(VERDICT).strip(), VERDICT
    found = _LEAD.search(text)
    return (text[: found.start()].strip(), found[0].strip()) if found else (text.strip(), VERDICT)


def _without_letters(row: Written) -> tuple[str, ...]:
    """Return the texts of the options, without letters of their own.

    Raises:
        CaiError: The letters are in another order, or there are only letters and the text does not
            show what they stand for.
    """
    stem = _led(row.text)[0]
    if row.record.has("corrects"):
        found = shown(stem)
        return found[1] if found and len(found[1]) == len(row.options) else row.options
    if not row.options:
        found = shown(stem)
        assert found, "a row without columns of options shows them"
        return found[1]
    for pattern in STYLES.values():
        marks = [re.match(rf"\s*{pattern}(?=\s|\Z|\w)", option) for option in row.options]
        letters = [mark[1] for mark in marks if mark]
        if len(letters) < len(row.options):
            continue
        texts = [o[m.end() :].strip() for o, m in zip(row.options, marks, strict=True) if m]
        found = shown(stem)
        if not any(texts) and found and len(found[1]) == len(texts):
            texts = list(found[1])
        if letters == list(LETTERS[: len(letters)]) and all(texts):
            return tuple(texts)
        if sorted(letters) == list(LETTERS[: len(letters)]):
            raise CaiError(
                f"{row.record.where}: the options begin with {', '.join(letters)}. They must begin "
                "with A, B, … in this order, with a text after each. Fix or remove the row."
            )
    return row.options


Reading = Callable[[object, Written, Sequence[str]], set[int]]
"""What one value in a column of answers means: the numbers of options; none or several: unclear."""


def _by_letter(value: object, row: Written, texts: Sequence[str]) -> set[int]:
    """Read `B`, `(B)`, or `B. text of the option`."""
    if not isinstance(value, str) or row.labels:
        return set()
    number = letter_of(value)
    if number is None:
        found = re.match(r"\s*\(?([A-Z])[).:]\s*(.+)", value, re.DOTALL)
        number = LETTERS.index(found[1]) if found else None
        if found and number is not None and texts[number : number + 1] != [found[2].strip()]:
            return set()
    return {number} if number is not None and number < len(texts) else set()


def _by_label(value: object, row: Written, texts: Sequence[str]) -> set[int]:  # noqa: ARG001
    """Read a name that the row gives to its options."""
    name = str(value).strip()
    return {row.labels.index(name)} if name in row.labels else set()


def _by_text(value: object, row: Written, texts: Sequence[str]) -> set[int]:
    """Read the text of an option."""
    text = str(value).strip()
    if text in row.labels:
        return set()
    return {number for number, option in enumerate(texts) if option == text}


def _by_number(base: int) -> Reading:
    def read(value: object, row: Written, texts: Sequence[str]) -> set[int]:
        written_so = re.fullmatch(r"\s*\d{1,9}(\.0+)?\s*", str(value), re.ASCII)
        if isinstance(value, bool) or not written_so or str(value).strip() in row.labels:
            return set()
        number = int(float(str(value))) - base
        return {number} if 0 <= number < len(texts) else set()

    return read


READINGS: dict[str, Reading] = {
    "letters": _by_letter,
    "names of options": _by_label,
    "texts of options": _by_text,
    "numbers from 0": _by_number(0),
    "numbers from 1": _by_number(1),
}
"""The ways to read a column of answers. One of them must fit all rows of a file."""


def _right(rows: Sequence[Written]) -> list[tuple[int, ...]]:
    """Return the numbers of the right options of each row.

    Raises:
        CaiError: They cannot be told, or two columns contradict each other.
    """
    texts = [list(_without_letters(row)) for row in rows]
    found: list[dict[str, tuple[int, ...]]] = [
        {} if row.right is None else {"": row.right} for row in rows
    ]
    for name in dict.fromkeys(name for row in rows for name in row.keys or ()):
        having = [n for n, row in enumerate(rows) if row.keys and name in row.keys]
        told = _column(name, [rows[n] for n in having], [texts[n] for n in having])
        for n, right in zip(having, told, strict=True):
            found[n][name] = right
    for row, by_column in zip(rows, found, strict=True):
        if len({*by_column.values()}) > 1:
            names = " and ".join(f"`{name}`" for name in by_column)
            raise CaiError(
                f"{row.record.where}: {names} contradict each other. Remove the wrong column."
            )
    return [next(iter(by_column.values())) for by_column in found]


def _column(
    name: str, rows: Sequence[Written], texts: Sequence[Sequence[str]]
) -> list[tuple[int, ...]]:
    """Read one column of answers, in the one way that fits all of its rows."""
    readings = {
        how: [
            _read(read, cast("Mapping[str, object]", row.keys)[name], row, some)
            for row, some in zip(rows, texts, strict=True)
        ]
        for how, read in READINGS.items()
        if not (name.lower() in ZERO_BASED and how == "numbers from 1")
    }
    fitting = {how: told for how, told in readings.items() if None not in told}
    for row, *meanings in zip(rows, *fitting.values(), strict=True):
        if len({*meanings}) > 1:
            said = " or ".join(fitting)
            raise CaiError(
                f"{row.record.where}: `{name}` could mean different options, since nothing in the "
                f"file tells whether it holds {said}. Write letters (A, B, …)."
            )
    if fitting:
        return [right for right in next(iter(fitting.values())) if right is not None]
    best = max(readings.values(), key=lambda told: len(told) - told.count(None))
    row = rows[best.index(None)]
    value = cast("Mapping[str, object]", row.keys)[name]
    raise CaiError(
        f"{row.record.where}: `{name}` is {value!r:.60}, which is not one of the row's "
        f"{len(texts[best.index(None)])} options, in the way that other rows of the file name "
        "theirs. Write letters (A, B, …), or remove the row."
    )


def _read(
    read: Reading, value: object, row: Written, texts: Sequence[str]
) -> tuple[int, ...] | None:
    """Read one value or a list of values; None if it does not mean options."""
    value = structure(value)
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    if isinstance(value, str) and read is _by_letter:
        parts = re.split(r"\s*[,;]\s*", value.strip())
        values = list(parts) if all(letter_of(part) is not None for part in parts) else [value]
    found = [read(one, row, texts) for one in values]
    if not found or any(len(one) != 1 for one in found):
        return None
    return tuple(sorted({number for one in found for number in one}))
