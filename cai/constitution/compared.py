"""Worked examples of comparisons in the forms that other projects write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError

from cai.constitution.schema import ComparisonExample
from cai.data.conversation import Message, Role
from cai.data.records import content_hash
from cai.errors import CaiError
from cai.settings.wording import first_in_words

SLOT = "{}"
"""Where a prompt has the principle."""

_INTRODUCTION = re.compile(
    r"\A\s*(?:Human:)?\s*[^\n]*\bconversation\b[^\n]*:[ \t]*\n(?=\s*H(?:uman)?:)"
)
_SPEAKER = r"(?:\A|\n\s*\n)\s*({}):"
_STYLES: tuple[dict[str, Role], ...] = (
    {"Human": "user", "Assistant": "assistant"},
    {"H": "user", "A": "assistant"},
)
_THOUGHT = re.compile(r"\s*(?:Assistant:)?\s*Let[’']?s think step by step[:.]?", re.IGNORECASE)
_VERDICT = re.compile(
    r"\s*(?:\n\s*(?:Human|Assistant):)?\s*\b(?:So,? )?the (?:best |better |correct )?answer is:?"
    r"\s*\(?([AB])\)?\.?(?:\s*\n\s*Human:)?\s*\Z",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\s*(?:\n\s*Assistant:)?\s*(?:\n[^\n]*\banswer is:?)?\s*\Z", re.IGNORECASE)
_OPTION = re.compile(r"^[ \t]*\(([A-Z])\)\s", re.MULTILINE)
_WRAPPED = re.compile(r"\[\[\[(.*?)\]\]\](?!\])", re.DOTALL)
_LETTER = re.compile(r" ?\(?([A-Z])\)?")
_OPTIONS_LINE = re.compile(r"\s*\bOptions:\s*\Z")


@dataclass(frozen=True)
class _Row:
    """A row as it is read: `answer` is None if it does not tell which response was shown first.

    The better response is then the first one. `principle` is the text that stood in the slot.
    """

    turns: tuple[Message, ...]
    responses: tuple[str, str]
    answer: Literal["A", "B"] | None
    principle: str | None = None
    reasoning: str | None = None


def looks_compared(row: Any) -> bool:  # noqa: ANN401
    """Say whether a row is meant as a worked comparison: a mapping, or a text with options."""
    if isinstance(row, Mapping):
        return "prompt" in row
    letters = {found[1] for found in _OPTION.finditer(row)} if isinstance(row, str) else set()
    return {"A", "B"} <= letters


def comparison_examples(
    rows: Sequence[Any], path: str
) -> tuple[list[ComparisonExample], list[str]]:
    """Read worked comparisons; all rows are read, or one is refused.

    Args:
        rows: Each is a text, or `{prompt}` with `corrects` and `incorrects` or without them. Known:

            - `prompt` is a transcript, and the lists hold one response each;
            - `prompt` is a question: a conversation, the principle or `{}`, the options (A) and
              (B). The right letter is in `corrects`, or at the end after "The answer is:", and
              "Let's think step by step:" opens a reasoning before it.
        path: The file, for messages.

    Returns:
        The examples in order, and notes for the user. Where rows do not say which response comes
        first, half of the better ones do, chosen by their hashes.

    Raises:
        CaiError: A row cannot be read; with its number, from 0.
    """
    read = [_row(row, f"{path}: item {number}") for number, row in enumerate(rows)]
    open_rows = [n for n, row in enumerate(read) if row.answer is None]
    by_hash = sorted(open_rows, key=lambda n: content_hash("position", read[n].responses))
    second = set(by_hash[::2])
    examples = [_example(row, n in second, f"{path}: item {n}") for n, row in enumerate(read)]
    thoughtful = sum(example.reasoning is not None for example in examples)
    told = f", {thoughtful} with reasoning" if thoughtful else ""
    notes = [f"{len(examples)} worked examples of comparisons{told}"]
    if open_rows:
        notes.append(
            f"{len(open_rows)} of them do not say which response is (A): half of the better ones "
            "are now, chosen by a hash"
        )
    notes += [
        f"examples are shown under the principle of the question, in place of: {text}"
        for text in dict.fromkeys(row.principle for row in read)
        if text
    ]
    return examples, notes


def _row(row: Any, where: str) -> _Row:  # noqa: ANN401
    fields = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(fields, Mapping) or not isinstance(fields.get("prompt"), str):
        raise CaiError(f"{where}: it must be a text, or hold a text `prompt`")
    fields = cast("Mapping[str, Any]", fields)
    prompt = str(fields["prompt"]).replace("\r\n", "\n")
    sides = [
        _one(fields[name], name, where) for name in ("corrects", "incorrects") if name in fields
    ]
    if len(sides) == 1:
        raise CaiError(f"{where}: it has one of `corrects` and `incorrects`: give both, or neither")
    letters = [_LETTER.fullmatch(side.rstrip()) for side in sides]
    if sides and not any(letters):
        turns = _turns(re.sub(r"\s*\n\s*Assistant:\s*\Z", "", prompt), where)
        return _Row(turns, (sides[0], sides[1]), None)
    given = [letter[1] for letter in letters if letter]
    if given and sorted(given) != ["A", "B"]:
        raise CaiError(
            f"{where}: `corrects` and `incorrects` are {sides[0]!r:.40} and {sides[1]!r:.40}: they "
            "must be the two letters (A) and (B), or the two responses"
        )
    return _question(prompt, given[0] if given else None, where)


def _one(value: Any, name: str, where: str) -> str:  # noqa: ANN401
    values: list[Any] = value if isinstance(value, list) else [value]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].strip():
        raise CaiError(
            f"{where}: `{name}` must hold one text: a worked comparison has one better and one "
            "worse response"
        )
    return values[0]


def _question(text: str, letter: str | None, where: str) -> _Row:
    """Read a conversation, a principle and two options, and what follows them."""
    found = [(m[1], m.start(), m.end()) for m in _OPTION.finditer(text)]
    wrapped = [m for m in found if _WRAPPED.match(text, m[2])]
    first = next((m for m in wrapped or found if m[0] == "A"), None)
    second = next((m for m in wrapped or found if first and m[0] == "B" and m > first), None)
    if first is None or second is None:
        raise CaiError(f"{where}: it has no options in lines that begin with (A) and (B)")
    one = _option(text[first[2] : second[1]], where, last=False)[0]
    two, rest = _option(text[second[2] :], where, last=True)
    reasoning, verdict = _after_options(rest, where)
    if letter is not None and verdict is not None and letter != verdict:
        raise CaiError(f"{where}: `corrects` is ({letter}), but the prompt ends with ({verdict})")
    answer = letter or verdict
    if answer is None:
        raise CaiError(
            f"{where}: nothing says which option is right: give `corrects` and `incorrects`, or "
            'end the text with "The answer is: (A)" or "(B)"'
        )
    head = _OPTIONS_LINE.sub("", text[: first[1]].rstrip())
    conversation, principle = _without_principle(head, where)
    answered: Literal["A", "B"] = "A" if answer == "A" else "B"
    turns = _turns(_INTRODUCTION.sub("", conversation), where)
    return _Row(turns, (one, two), answered, principle, reasoning)


def _option(text: str, where: str, *, last: bool) -> tuple[str, str]:
    """Return the response of an option, and what follows it; only the last may be followed."""
    found = _WRAPPED.match(text)
    if found is None:
        ends = [
            m.start()
            for m in (_THOUGHT.search(text), _ASKED.search(text), _VERDICT.search(text))
            if m
        ]
        end = min(ends) if last and ends else len(text)
        response, rest = text[:end], text[end:]
    else:
        response, rest = found[1], text[found.end() :]
    extra = re.search(r"^[ \t]*(?:\([A-Z]\)\s|\{\}\s*$)", rest if found else response, re.MULTILINE)
    if (rest.strip() and not last) or (extra and not _THOUGHT.match(rest)):
        raise CaiError(
            f"{where}: after the conversation and the principle there must be two options, (A) and "
            "(B), and no more, but there is also "
            f"{(extra[0] if extra else rest).strip()[:40]!r}"
        )
    return response.strip(), rest


def _after_options(rest: str, where: str) -> tuple[str | None, str | None]:
    """Return the reasoning and the letter that follow the options, where they are there."""
    verdict = _VERDICT.search(rest)
    before = rest[: verdict.start()] if verdict else rest
    opening = _THOUGHT.match(before)
    if opening:
        reasoning = before[opening.end() :].strip()
        if not reasoning or verdict is None:
            raise CaiError(
                f'{where}: a reasoning must be followed by "The answer is: (A)" or "(B)", and not '
                "be empty"
            )
        return reasoning, verdict[1].upper()
    if not _ASKED.fullmatch(before):
        raise CaiError(f"{where}: what follows the options is not understood: {before.strip():.60}")
    return None, verdict[1].upper() if verdict else None


def _without_principle(head: str, where: str) -> tuple[str, str | None]:
    """Cut off the last paragraph: the slot, or a principle, which is returned."""
    paragraphs = re.split(r"\n\s*\n", head.rstrip())
    *before, last = paragraphs
    speakers = "|".join(name for style in _STYLES for name in style)
    if SLOT not in last and re.match(rf"\s*(?:{speakers}):", last):
        raise CaiError(
            f"{where}: between the conversation and the options there must be a paragraph with "
            f"the principle, or {SLOT} for it"
        )
    lines = last.split("\n")
    if lines[-1].strip() == SLOT and len(lines) > 1:
        return "\n\n".join([*before, "\n".join(lines[:-1])]), None
    return "\n\n".join(before), None if last.strip() == SLOT else last.strip()


def _turns(text: str, where: str) -> tuple[Message, ...]:
    for style in _STYLES:
        pieces = re.split(_SPEAKER.format("|".join(style)), text)
        if not pieces[0].strip() and len(pieces) > 1:
            names, said = pieces[1::2], pieces[2::2]
            return tuple(
                Message(role=style[name], content=_unwrapped(content))
                for name, content in zip(names, said, strict=True)
            )
    raise CaiError(
        f"{where}: a conversation has turns Human: and Assistant:, or H: and A:, after a blank "
        f"line each, but this one begins with {text.strip()[:40]!r}"
    )


def _unwrapped(text: str) -> str:
    found = _WRAPPED.fullmatch(text.strip())
    return (found[1] if found else text).strip()


def _example(row: _Row, better_second: bool, where: str) -> ComparisonExample:
    responses, answer = row.responses, row.answer
    if answer is None:
        better, worse = responses
        responses, answer = ((worse, better), "B") if better_second else ((better, worse), "A")
    try:
        return ComparisonExample(
            messages=row.turns,
            responses=responses,
            answer=answer,
            reasoning=row.reasoning,
        )
    except ValidationError as problem:
        raise CaiError(
            f"{where}: it is not a valid worked example, {first_in_words(problem)}. Fix or remove "
            "it"
        ) from problem
