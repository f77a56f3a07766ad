"""A better and a worse answer, each alone or at the end of its whole conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cai.data.conversation import Conversation, Message
from cai.data.prompts.extraction import prompt_of, with_earlier_turns
from cai.data.prompts.record import PROMPT_COLUMNS, Record
from cai.data.prompts.transcripts import is_transcript, join_turns, split_turns
from cai.data.prompts.turns import checked_text, said, spoken, turns_of, until_user
from cai.data.records import State
from cai.errors import CaiError

_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
)


@dataclass(frozen=True)
class Judged:
    """Two responses and what people say of them.

    Attributes:
        messages: The prompt, up to the user's turn; empty if there is none that both share.
        responses: The two responses, as the file orders them.
        label: The probability that the first is better, in [0, 1]; None unless `state` is `ok`.
        state: `ok`, `tie`, `unparsed` or `failed`.
        error: Why it is not `ok`.
    """

    messages: Conversation
    responses: tuple[str, str]
    label: float | None
    state: State = "ok"
    error: str | None = None


def unreadable(error: str) -> Judged:
    """Return the state of a row that cannot be read."""
    return Judged((), ("", ""), None, "unparsed", error)


def checked(
    record: Record, messages: Conversation, responses: tuple[str, str], label: float
) -> Judged:
    """Remove thinking, and refuse what teaches nothing: an empty response, equal ones, a tie."""
    plain = without_thinking(record, responses)
    if not all(plain):
        number = plain.index("")
        what = "has thinking and no answer" if responses[number] else "is empty"
        error = f"{record.where}: response {number + 1} {what}"
        return Judged(messages, plain, None, "unparsed", error)
    if plain[0] == plain[1]:
        alike = "" if responses[0] == responses[1] else " but for their thinking"
        error = f"{record.where}: the two responses are identical{alike}"
        return Judged(messages, plain, None, "tie", error)
    if label == 0.5:
        return Judged(messages, plain, None, "tie", f"{record.where}: judged equally good")
    return Judged(messages, plain, label)


def without_thinking(record: Record, responses: tuple[str, str]) -> tuple[str, str]:
    """Remove the thinking of models from two responses."""
    return said(responses[0], record), said(responses[1], record)


def asked(record: Record, column: str | None) -> Conversation | None:
    """Return the prompt that two answers share; None if the row has no column for it.

    Raises:
        CaiError: It cannot be read.
    """
    if _has_prompt(record, column) or record.has("context") or record.has("history"):
        return prompt_of(record, column)
    return None


def preferred(
    record: Record, better: str, worse: str, column: str | None = None, *, whole: bool = False
) -> Judged:
    """Read a better and a worse answer.

    A text that looks like a transcript is the whole conversation if no column has the prompt, or
    if it holds that prompt; otherwise it is an answer.

    Args:
        record: The row.
        better: The column of the better answer.
        worse: The column of the worse answer.
        column: The column of the prompt, if the settings name it.
        whole: Both are whole conversations, whatever else the row has.

    Raises:
        CaiError: A side is no answer to a prompt.
    """
    prompt = None if whole else asked(record, column)
    stated = not whole and _has_prompt(record, column)
    sides = [_side(record, name, prompt, stated=stated) for name in (better, worse)]
    joined = [join_turns(turns) for turns in sides]
    messages = tuple(spoken(joined[0][:-1], record))
    responses = (joined[0][-1].content, joined[1][-1].content)
    plain = without_thinking(record, responses)
    if spoken(sides[0][:-1], record) != spoken(sides[1][:-1], record):
        lengths = " and ".join(str(len(turns)) for turns in sides)
        error = f"{record.where}: the prompts differ before the last turn ({lengths} turns)"
        return Judged(messages, plain, None, "failed", error)
    for name, turns in zip((better, worse), sides, strict=True):
        if not turns[-1].content:
            error = f"{record.where}: the last turn of `{name}` is empty"
            return Judged(messages, plain, None, "unparsed", error)
    scores = _scores(record)
    if scores is not None and scores[0] < scores[1]:
        error = f"{record.where}: `{better}` has the lower score ({scores[0]:g} < {scores[1]:g})"
        return Judged(messages, plain, None, "failed", error)
    tie = scores is not None and scores[0] == scores[1]
    return checked(record, messages, responses, 0.5 if tie else 1.0)


def _has_prompt(record: Record, column: str | None) -> bool:
    names = [n for n in PROMPT_COLUMNS if n not in ("chosen", "text")]
    return column is not None or any(record.has(name) for name in names)


def _side(record: Record, name: str, prompt: Conversation | None, *, stated: bool) -> list[Message]:
    """Return the conversation that ends with this answer, turns not joined."""
    value = record.get(name)
    if isinstance(value, str) and not (
        is_transcript(value) and _holds(record, value, prompt, stated=stated)
    ):
        answer = _answer(value, name, record.where)
    else:
        answer = turns_of(value, name, record.where)
    spoken = [turn.role for turn in answer if turn.role != "system"]
    if spoken[:1] == ["user"]:
        answer = with_earlier_turns(record, answer)
    else:
        answer = [*(prompt or ()), *answer]
    roles = [turn.role for turn in answer]
    if "user" not in roles or roles[-1] != "assistant":
        raise CaiError(
            f"{record.where}: `{name}` is not an answer to a prompt (turns: "
            f"{', '.join(roles) or 'none'}). It needs a user's turn, and the assistant's last."
        )
    return answer


def _answer(value: str, name: str, where: str) -> list[Message]:
    """Read a text, or messages as JSON text."""
    if value.lstrip()[:1] in ("[", "{"):
        turns = turns_of(value, name, where)
        if len(turns) > 1 or turns[0].role != "user":
            return turns
    return [Message(role="assistant", content=checked_text(value, name, where))]


def _holds(record: Record, text: str, prompt: Conversation | None, *, stated: bool) -> bool:
    """Say whether a transcript holds the prompt that stands beside it."""
    if prompt is None:
        return not stated
    turns = split_turns(checked_text(text, "", ""))
    asked_in = until_user(turns, record)
    users = [turn.content for turn in turns if turn.role == "user"]
    return asked_in == prompt or prompt[-1].content in users


def _scores(record: Record) -> tuple[float, float] | None:
    for one, two in _SCORES:
        if record.has(one, two):
            values = (_number(record.get(one)), _number(record.get(two)))
            return None if values[0] is None or values[1] is None else (values[0], values[1])
    return None


def _number(value: object) -> float | None:
    try:
        return None if isinstance(value, bool | Mapping) else float(str(value))
    except ValueError:
        return None
