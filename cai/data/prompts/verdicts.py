"""Two or more responses and what people say of them: numbers, names, scores, ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, cast

from cai.data.conversation import Conversation, Message
from cai.data.prompts.preferred import Judged, asked, checked, unreadable, without_thinking
from cai.data.prompts.record import Record
from cai.data.prompts.trees import ranked_replies
from cai.data.prompts.turns import (
    checked_text,
    message_of,
    spoken,
    structure,
    texts_of,
    turns_of,
    until_user,
)
from cai.errors import CaiError

_ANNOTATOR = re.compile(r"annotator_?\d+", re.IGNORECASE)
_PROBABILITY = {"first": 1.0, "second": 0.0, "tie": 0.5}
_ANNOTATORS = {0: 0.5, 1: 1.0, 2: 0.0}
"""PandaLM's number (tie, first, second) to the probability that the first is better."""
_TIES = ("tie", "tie (bothbad)", "both_bad", "bothbad", "both", "equal", "same", "draw")
_LETTERS = {"a": 0, "model_a": 0, "b": 1, "model_b": 1, "first": 0, "second": 1}


def two_responses(
    record: Record, names: tuple[str, str], label: float, column: str | None
) -> Judged:
    """Read two responses in columns of their own, beside their prompt.

    Raises:
        CaiError: A response is no text, or there is no prompt.
    """
    one, two = (checked_text(record.get(name), name, record.where) for name in names)
    return checked(record, _prompt(record, column), (one, two), label)


def annotated(record: Record) -> float:
    """Return the mean over annotators."""
    names = [name for name in record.fields if _ANNOTATOR.fullmatch(name)]
    said = [coded(name, _ANNOTATORS)(record) for name in names]
    return sum(said) / len(said)


def coded(name: str, codes: Mapping[int, float]) -> Callable[[Record], float]:
    """Return what reads a number whose meaning the layout fixes."""

    def read(record: Record) -> float:
        value = record.get(name)
        number = _whole(value)
        if number is None or number not in codes:
            raise CaiError(
                f"{record.where}: `{name}` is {value!r:.40}; it must be "
                f"{' or '.join(f'{code} ({_meaning(p)})' for code, p in codes.items())}."
            )
        return codes[number]

    return read


def strength(name: str) -> Callable[[Record], float]:
    """Return what reads HelpSteer's strength: below 0 the first is better, above 0 the second."""

    def read(record: Record) -> float:
        value = _number(record.get(name), name, record)
        return 0.5 if value == 0 else float(value < 0)

    return read


def told(record: Record, name: str, responses: tuple[str, str], labels: Mapping[str, str]) -> float:
    """Return what a label means: by the settings, by the responses' names, or 1 and 2.

    Raises:
        CaiError: It means nothing known.
    """
    value = record.get(name)
    number = _whole(value)
    text = str(number if number is not None else value).strip()
    if labels:
        if text in labels:
            return _PROBABILITY[labels[text]]
        raise CaiError(
            f"{record.where}: `{name}` is {value!r:.40}, which is not among `labels` "
            f"({', '.join(labels)})."
        )
    lowered = text.lower()
    if lowered in _TIES:
        return 0.5
    sides = {**_LETTERS, responses[0].lower(): 0, responses[1].lower(): 1}
    if number is None and lowered in sides:
        return 1.0 - sides[lowered]
    if number in (1, 2) and responses == ("output_1", "output_2"):
        return 1.0 if number == 1 else 0.0
    raise CaiError(
        f"{record.where}: `{name}` is {value!r:.40}, and nothing says which response that means. "
        f"{_HOW_TO_TELL}"
    )


_HOW_TO_TELL = (
    "Say it in the source, for example `labels: {0: first, 1: second}` (or `{0: tie, 1: first, "
    "2: second}`)."
)


def check_labels(records: Sequence[Record], labels: Mapping[str, str]) -> None:
    """Refuse numbers that could mean either response.

    Raises:
        CaiError: There are labels of 0, or others than 1 and 2 for `output_1` and `output_2`.
    """
    if labels:
        return
    for name in ("label", "winner", "preference", "preferred", "better"):
        having = [r for r in records if r.has(name)]
        numbers = {_whole(r.get(name)) for r in having} - {None}
        one_and_two = all(r.has("output_1", "output_2") for r in having) and numbers <= {1, 2}
        if numbers and not one_and_two:
            shown = ", ".join(str(n) for n in sorted(cast("set[int]", numbers))[:5])
            raise CaiError(
                f"{having[0].where}: the numbers in `{name}` ({shown}) could mean either response. "
                f"{_HOW_TO_TELL}"
            )


def arena_conversations(record: Record, column: str | None) -> list[Judged]:  # noqa: ARG001
    """Read two conversations and the winner."""
    names = ("conversation_a", "conversation_b")
    sides = [turns_of(record.get(name), name, record.where) for name in names]
    label = told(record, "winner", names, {})
    for name, turns in zip(names, sides, strict=True):
        if not turns or turns[-1].role != "assistant":
            raise CaiError(f"{record.where}: `{name}` does not end with an answer.")
    messages = until_user(sides[0], record) or ()
    responses = (sides[0][-1].content, sides[1][-1].content)
    if spoken(sides[0][:-1], record) != spoken(sides[1][:-1], record):
        return [_differing(record, messages, responses)]
    return [checked(record, messages, responses, label)]


def arena_responses(record: Record, column: str | None) -> list[Judged]:  # noqa: ARG001
    """Read questions and each model's answers, lists as JSON text, and who won."""
    questions = texts_of(record.get("prompt"), "prompt", record.where)
    answers = [texts_of(record.get(n), n, record.where) for n in ("response_a", "response_b")]
    if any(len(texts) != len(questions) for texts in answers):
        raise CaiError(f"{record.where}: there are not as many answers as questions.")
    won = [coded(f"winner_model_{letter}", {0: 0.0, 1: 1.0})(record) for letter in "ab"]
    tied = coded("winner_tie", {0: 0.0, 1: 1.0})(record) if record.has("winner_tie") else 0.0
    if won[0] + won[1] + tied != 1:
        raise CaiError(f"{record.where}: the `winner_…` columns contradict each other.")
    turns: list[Message] = []
    for question, answer in zip(questions, answers[0], strict=True):
        turns += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    messages = until_user(turns, record)
    if messages is None:
        raise _blank(record)
    responses = (answers[0][-1], answers[1][-1])
    if answers[0][:-1] != answers[1][:-1]:
        return [_differing(record, messages, responses)]
    return [checked(record, messages, responses, 0.5 if tied else won[0])]


def completions(record: Record, column: str | None) -> list[Judged]:
    """Read answers with scores (UltraFeedback, HelpSteer): every pair of them."""
    scored = [
        (
            checked_text(item.get("response"), "response", record.where),
            _number(item.get("overall_score", item.get("score")), "overall_score", record),
        )
        for item in _items(record, "completions")
    ]
    return _pairs(record, _prompt(record, column), scored)


def ranked_answers(record: Record, column: str | None) -> list[Judged]:
    """Read answers with ranks, 1 the best (Nectar): every pair of them."""
    scored = [
        (
            checked_text(item.get("answer"), "answer", record.where),
            -_number(item.get("rank"), "rank", record),
        )
        for item in _items(record, "answers")
    ]
    return _pairs(record, _prompt(record, column), scored)


def tree(record: Record, column: str | None) -> list[Judged]:  # noqa: ARG001
    """Read a tree of messages: every pair of ranked replies to one message of the user's."""
    pairs: list[Judged] = []
    for path, replies in ranked_replies(record):
        turns = [message_of(node, "prompt", record.where) for node in path]
        messages = until_user(turns, record)
        if messages is None:
            raise _blank(record)
        scored = [
            (checked_text(text, "text", record.where), -_number(rank, "rank", record))
            for text, rank in replies
        ]
        pairs += _pairs(record, messages, scored)
    return pairs or [unreadable(f"{record.where}: no message has two replies with a rank")]


def two_outputs(record: Record, column: str | None) -> list[Judged]:
    """Read a list of a better and a worse output, in this order (LLaMA-Factory)."""
    value = record.get("output")
    texts = texts_of(value, "output", record.where)
    if len(texts) != 2:
        raise CaiError(f"{record.where}: `output` is not a list of a better and a worse answer.")
    return [checked(record, _prompt(record, column), (texts[0], texts[1]), 1.0)]


def _pairs(
    record: Record, messages: Conversation, scored: Sequence[tuple[str, float]]
) -> list[Judged]:
    """Compare each two answers by their scores; equal scores are a tie."""
    if len(scored) < 2:
        return [unreadable(f"{record.where}: there is one answer to the prompt, none to compare")]
    return [
        checked(
            record,
            messages,
            (one[0], two[0]),
            0.5 if one[1] == two[1] else float(one[1] > two[1]),
        )
        for one, two in combinations(scored, 2)
    ]


def _items(record: Record, name: str) -> list[Mapping[str, Any]]:
    value = structure(record.get(name))
    items = cast("list[object]", value) if isinstance(value, list) else []
    if not items or not all(isinstance(item, Mapping) for item in items):
        raise CaiError(f"{record.where}: `{name}` is no list of answers with scores.")
    return [cast("Mapping[str, Any]", item) for item in items]


def _prompt(record: Record, column: str | None) -> Conversation:
    messages = asked(record, column)
    if messages is None:
        raise _blank(record)
    return messages


def _blank(record: Record) -> CaiError:
    return CaiError(f"{record.where}: the prompt is blank. Fill it or delete the row.")


def _differing(record: Record, messages: Conversation, responses: tuple[str, str]) -> Judged:
    error = f"{record.where}: the prompts differ before the last turn"
    return Judged(messages, without_thinking(record, responses), None, "failed", error)


def _whole(value: object) -> int | None:
    """Return a whole number, or None; a boolean is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*\d+\s*", value) else None
    if isinstance(value, int | float) and value == math.floor(value):
        return int(value)
    return None


def _number(value: object, name: str, record: Record) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(cast("Any", value))
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise CaiError(f"{record.where}: `{name}` is {value!r:.40}, not a number.")
    return number


def _meaning(probability: float) -> str:
    return next(word for word, p in _PROBABILITY.items() if p == probability)
