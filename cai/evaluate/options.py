"""Where a row of a multiple-choice file has its question, its options and what is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import cast

from cai.data.prompts.record import Record
from cai.data.prompts.turns import checked_text, structure
from cai.errors import CaiError

LETTERS = ascii_uppercase
"""The names of options, at most."""
QUESTION_COLUMNS = (
    "question",
    "question_stem",
    "prompt",
    "input",
    "query",
    "ctx",
    "goal",
    "sentence",
)
CONTEXT_COLUMNS = ("task_prefix", "instruction", "context", "passage", "article", "premise")
"""What stands before the question."""
ANSWER_COLUMNS = (
    "gold",
    "answer",
    "answers",
    "answerkey",
    "answer_key",
    "answer_index",
    "answer_idx",
    "correct",
    "correct_answer",
    "correct_answers",
    "correct_option",
)
OTHER_ANSWER_COLUMNS = ("label", "target", "targets")
"""What is right, if no column of `ANSWER_COLUMNS` says it."""
OPTION_COLUMNS = ("choices", "options", "endings")
NUMBERED_COLUMNS = ("", "option", "choice", "answer", "ending", "sol", "op")
"""How names of columns begin that hold one option each: `A`, `option_b`, `choice1`, `ending0`."""

STYLES = {"({})": r"\(([A-Z])\)", "{}.": r"([A-Z])\.", "{})": r"([A-Z])\)", "{}:": r"([A-Z]):"}
"""How letters are written before options, and the pattern of each."""


@dataclass(frozen=True)
class Written:
    """A question as its row has it.

    Attributes:
        record: The row.
        text: The question with what stands before it; it may show the options.
        options: The options in columns of their own; empty if only the text shows them.
        labels: The names that the row gives to these options; empty if it gives none.
        keys: What the row says is right, by column, not understood yet.
        right: The numbers of the right options, if the layout says them.
    """

    record: Record
    text: str
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    keys: Mapping[str, object] | None = None
    right: tuple[int, ...] | None = None


def is_question(record: Record) -> bool:
    """Say whether a row has the columns of a multiple-choice question."""
    if record.has("prompt", "corrects", "incorrects") or _scored(record):
        return True
    has_question = any(record.has(name) for name in (*QUESTION_COLUMNS, *CONTEXT_COLUMNS))
    keyed = any(record.has(name) for name in (*ANSWER_COLUMNS, *OTHER_ANSWER_COLUMNS))
    if not (has_question and keyed):
        return False
    if lists_options(record):
        return True
    question = structure(_question(record))
    if isinstance(question, Mapping):
        return "stem" in question and "choices" in question
    return isinstance(question, str) and shown(question) is not None


def lists_options(record: Record) -> bool:
    """Say whether a row has options in columns of their own."""
    listed = any(record.has(name) for name in OPTION_COLUMNS)
    return listed or bool(_numbered(record)) or _scored(record) is not None


def written(record: Record) -> Written:
    """Find the question, the options and what is right in a row.

    Raises:
        CaiError: It is no multiple-choice question.
    """
    if not is_question(record):
        raise CaiError(
            f"{record.where} is not a multiple-choice question: it has {record.columns()}. It "
            f"needs a question (such as `question`, `prompt` or `input`), its options (in the "
            "question's text after (A), (B), …; or in `choices`, `options`, `A`, `B`, …; or "
            "`target_scores`), and what is right (such as `answer`, `gold`, `answerKey` or "
            "`corrects`)."
        )
    if record.has("corrects", "incorrects"):
        return _lettered(record)
    scores = _scored(record)
    if scores:
        return _with_scores(record, scores)
    question = structure(_question(record))
    options: object = None
    if isinstance(question, Mapping):
        parts = cast("Mapping[str, object]", question)
        text, options = parts.get("stem"), parts.get("choices")
    else:
        text = question
    name = next((n for n in OPTION_COLUMNS if record.has(n)), None)
    if options is None and name:
        options = record.get(name)
    numbered = _numbered(record)
    if options is None and numbered:
        options = _filled([record.get(n) for n in numbered], numbered, record)
    texts, labels = (
        _options(options, name or "choices", record) if options is not None else ((), ())
    )
    return Written(record, _in_context(record, text), texts, labels, _keys(record))


def shown(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Find the options in a text: the last run of lines that begin with A, B, … in one style.

    Returns:
        The style, and the texts of the options; None if there are not two of them.
    """
    for style, pattern in STYLES.items():
        run: list[re.Match[str]] = []
        for mark in re.finditer(rf"^[ \t]*{pattern}(?=\s|$)", text, re.MULTILINE):
            if mark[1] == "A":
                run = [mark]
            elif run and len(run) < len(LETTERS) and mark[1] == LETTERS[len(run)]:
                run.append(mark)
        if len(run) > 1:
            ends = [*(mark.start() for mark in run[1:]), len(text)]
            return style, tuple(
                _unwrapped(text[mark.end() : end]) for mark, end in zip(run, ends, strict=True)
            )
    return None


def shows(text: str, options: Sequence[str]) -> str | None:
    """Return the style in which a text shows these options in this order; None if it does not."""
    for style in STYLES:
        parts = [
            rf"(?<!\w){re.escape(style.format(letter))}\s*{re.escape(option)}"
            for letter, option in zip(LETTERS, options, strict=False)
        ]
        place = 0
        for part in parts:
            found = re.compile(part).search(text, place)
            if found is None:
                break
            place = found.end()
        else:
            return style
    return None


def letter_of(text: str) -> int | None:
    """Return the number of a letter, written as `B`, `(B)`, `B.` or `B)`; None for another text."""
    found = re.fullmatch(r"\s*\(?([A-Za-z])[).:]?\s*", text)
    return LETTERS.index(found[1].upper()) if found else None


def _lettered(record: Record) -> Written:
    """Read `prompt`, `corrects` and `incorrects`, as the paper's repository has them."""
    text = checked_text(record.get("prompt"), "prompt", record.where)
    right, wrong = (_numbers(record, name) for name in ("corrects", "incorrects"))
    both, every = sorted({*right} & {*wrong}), sorted({*right, *wrong})
    if both or every != list(range(len(every))) or len(every) < 2 or not right:
        raise CaiError(
            f"{record.where}: `corrects` and `incorrects` name {len(right)} right of {len(every)} "
            "options. They must name the options from (A) on, each in one of the two lists, with "
            "at least one right and one wrong. Fix or remove the row."
        )
    found = shown(text)
    texts = found[1] if found and len(found[1]) == len(every) else ()
    return Written(record, text, texts or ("",) * len(every), right=tuple(sorted({*right})))


def _numbers(record: Record, name: str) -> list[int]:
    value = structure(record.get(name))
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    found = [letter_of(item) if isinstance(item, str) else None for item in items]
    if None in found:
        raise CaiError(
            f"{record.where}: `{name}` is {value!r:.60}, not a list of letters such as ' (A)'."
        )
    return [number for number in found if number is not None]


def _scored(record: Record) -> str | None:
    """Return the column that gives each option a score."""
    names = ("target_scores", "mc1_targets", "mc2_targets")
    return next((name for name in names if record.has(name)), None)


def _with_scores(record: Record, name: str) -> Written:
    """Read options with a score of 1 (right) or 0 (BIG-bench, TruthfulQA)."""
    value = structure(record.get(name))
    scores = cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
    if {*scores} == {"choices", "labels"}:
        texts, marks = scores["choices"], scores["labels"]
    else:  # parquet has a null for the options of all other rows
        kept = {text: mark for text, mark in scores.items() if mark is not None}
        texts, marks = list(kept), list(kept.values())
    options = cast("list[object]", texts) if isinstance(texts, list) else []
    given = cast("list[object]", marks) if isinstance(marks, list) else []
    if not options or len(options) != len(given) or any(mark not in (0, 1) for mark in given):
        raise CaiError(
            f"{record.where}: `{name}` is {value!r:.80}; it must give each option 1 (right) or 0 "
            "(wrong). Fix or remove the row."
        )
    return Written(
        record,
        _in_context(record, _question(record)),
        tuple(checked_text(option, name, record.where) for option in options),
        right=tuple(number for number, mark in enumerate(given) if mark == 1),
    )


def _question(record: Record) -> object:
    """Return the question; None if only a context stands before the options.

    Raises:
        CaiError: Several columns could be the question.
    """
    named = {n: v for n in QUESTION_COLUMNS if (v := record.peek(n)) is not None}
    if len({*map(str, named.values())}) > 1:
        raise CaiError(
            f"{record.where} has {' and '.join(f'`{name}`' for name in named)}, and nothing says "
            "which one is the question. Remove or rename the others."
        )
    return next((record.get(name) for name in named), None)


def _in_context(record: Record, question: object) -> str:
    """Return the question after what it is about; texts that repeat each other are written once."""
    values = [(name, record.get(name)) for name in CONTEXT_COLUMNS if record.has(name)]
    parts = [checked_text(v, n, record.where) for n, v in values if v is not None]
    parts += [checked_text(question, "question", record.where)] if question is not None else []
    text = "\n\n".join(dict.fromkeys(part for part in parts if part))
    if not text:
        raise CaiError(f"{record.where}: the question is blank. Fill it or delete the row.")
    return text


def _numbered(record: Record) -> list[str]:
    """Return the columns that hold one option each, in their order."""
    for start in NUMBERED_COLUMNS:
        for joint in ("", "_", " "):
            for ends in (ascii_lowercase, "0123456789", "123456789"):
                names = [f"{start}{joint}{end}" for end in ends]
                have = [record.has(name) for name in names]
                count = have.index(False) if False in have else len(have)
                if count > 1 and (start or ends == ascii_lowercase):
                    return [_spelt(name, record) for name in names[:count]]
    return []


def _spelt(name: str, record: Record) -> str:
    """Return a column's name as the file spells it."""
    return next(column for column in record.fields if column.lower() == name.lower())


def _filled(values: Sequence[object], names: Sequence[str], record: Record) -> list[object]:
    """Remove blank cells at the end: some rows of a table have fewer options."""
    blank = [value is None or (isinstance(value, str) and not value.strip()) for value in values]
    count = blank.index(True) if True in blank else len(values)
    if not all(blank[count:]):
        raise CaiError(
            f"{record.where}: `{names[count]}` is blank, but an option after it is not. Fill it or "
            "delete the row."
        )
    return list(values[:count])


def _options(value: object, name: str, record: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read options: texts, texts with labels, or texts by letter."""
    value = structure(value)
    labels: list[object] = []
    items: list[object] = []
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        if isinstance(parts.get("text"), list) and isinstance(parts.get("label"), list):
            items, labels = (
                cast("list[object]", parts["text"]),
                cast("list[object]", parts["label"]),
            )
        else:
            kept = {key: text for key, text in parts.items() if text is not None}
            labels, items = list(kept), list(kept.values())
    elif isinstance(value, list):
        items = cast("list[object]", value)
        if items and all(isinstance(item, Mapping) for item in items):
            named = [cast("Mapping[str, object]", item) for item in items]
            labels = [one.get("label", one.get("key")) for one in named]
            items = [one.get("text", one.get("content")) for one in named]
    if len(items) < 2 or (labels and len({*map(str, labels)}) != len(items)):
        raise CaiError(
            f"{record.where}: `{name}` is {value!r:.80}, not a list of at least two options. Fix "
            "or remove the row."
        )
    texts = [checked_text(_plain(item), name, record.where) for item in items]
    return tuple(texts), tuple(str(label).strip() for label in labels)


def _plain(item: object) -> object:
    """Write a number as text: options of sums are often numbers."""
    return str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item


def _keys(record: Record) -> dict[str, object]:
    """Return what the row says is right, by column."""
    for names in (ANSWER_COLUMNS, OTHER_ANSWER_COLUMNS):
        found = {_spelt(name, record): record.get(name) for name in names if record.has(name)}
        given = {name: value for name, value in found.items() if value not in (None, "")}
        if given:
            return given
    raise CaiError(f"{record.where} does not say which option is right. Fill it or delete the row.")


def _unwrapped(text: str) -> str:
    return text.strip().removeprefix("[[[").removesuffix("]]]").strip()
