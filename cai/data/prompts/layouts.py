"""The layouts in which human comparisons are published, each read into a judged pair."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cai.data.conversation import Conversation, Message
from cai.data.prompts.extraction import checked_text, instruction_of, turns_of, until_user
from cai.data.prompts.record import Record
from cai.data.prompts.transcripts import is_transcript, join_turns
from cai.data.records import State
from cai.errors import CaiError

_ANNOTATOR = re.compile(r"annotator_?\d+", re.IGNORECASE)
_VERDICTS = {0: 0.5, 1: 1.0, 2: 0.0}
"""An annotator's number (tie, first, second) to the probability that the first is better."""


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


def judged_pair(record: Record) -> Judged:
    """Read a comparison; what cannot be read becomes a state, not an exception.

    Raises:
        CaiError: The record's columns are no known layout at all.
    """
    read = _layout_of(record)
    try:
        return read(record)
    except CaiError as error:
        return Judged((), ("", ""), None, "unparsed", str(error))


def _layout_of(record: Record) -> Callable[[Record], Judged]:
    for columns, read in LAYOUTS.items():
        if record.has(*columns):
            return read
    known = "; ".join(" and ".join(f"`{column}`" for column in columns) for columns in LAYOUTS)
    raise CaiError(
        f"{record.where} is no comparison: it has {record.columns()}. The known layouts have "
        f"{known}. Rename the columns."
    )


def _transcripts(record: Record) -> Judged:
    return _preferred(record, "chosen", "rejected")


def _responses(record: Record) -> Judged:
    return _preferred(record, "chosen_response", "rejected_response")


def _correct(record: Record) -> Judged:
    """Read the HHH comparisons; their `prompt`, a multiple-choice question, is not needed."""
    return _preferred(record, "text_correct", "text_incorrect")


def _preferred(record: Record, chosen: str, rejected: str) -> Judged:
    """Read a better and a worse answer, each alone or at the end of its whole conversation."""
    sides = [_whole_side(record, chosen), _whole_side(record, rejected)]
    joined = [join_turns(turns) for turns in sides]
    messages = joined[0][:-1]
    responses = (joined[0][-1].content, joined[1][-1].content)
    if sides[0][:-1] != sides[1][:-1]:
        lengths = " and ".join(str(len(turns)) for turns in sides)
        error = f"{record.where}: the prompts differ before the last turn ({lengths} turns)"
        return Judged(messages, responses, None, "failed", error)
    for name, turns in zip((chosen, rejected), sides, strict=True):
        if not turns[-1].content:
            error = f"{record.where}: the last turn of `{name}` is empty"
            return Judged(messages, responses, None, "unparsed", error)
    return _checked(record, messages, responses, 1.0)


def _whole_side(record: Record, name: str) -> list[Message]:
    """Return the conversation that ends with this answer, turns not joined."""
    value = record.get(name)
    if isinstance(value, str) and not is_transcript(value):
        answer = [Message(role="assistant", content=checked_text(value, name, record.where))]
    else:
        answer = turns_of(value, name, record.where)
    if not any(turn.role == "user" for turn in answer):
        prompt = until_user(turns_of(record.get("prompt"), "prompt", record.where), record.where)
        answer = [*(prompt or ()), *answer]
    roles = [turn.role for turn in answer]
    if "user" not in roles or roles[-1] != "assistant":
        raise CaiError(
            f"{record.where}: `{name}` is not an answer to a prompt (turns: "
            f"{', '.join(roles) or 'none'}). It needs a user's turn, and the assistant's last."
        )
    return answer


def _annotated(record: Record) -> Judged:
    """Read two responses and the verdicts of several annotators; the label is their mean."""
    names = [name for name in record.fields if _ANNOTATOR.fullmatch(name)]
    verdicts = [_verdict(record, name) for name in names]
    responses = _two_texts(record, "response1", "response2")
    return _checked(record, _prompt(record), responses, sum(verdicts) / len(verdicts))


def _labelled(record: Record) -> Judged:
    """Read two responses and the number of the better one."""
    responses = _two_texts(record, "output_1", "output_2")
    return _checked(record, _prompt(record), responses, _verdict(record, "label"))


def _verdict(record: Record, name: str) -> float:
    value = record.get(name)
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or number not in _VERDICTS:
        raise CaiError(
            f"{record.where}: `{name}` is {value!r}; it must be 1 or 2 (the better response) or 0 "
            "(a tie)."
        )
    return _VERDICTS[number]


def _two_texts(record: Record, one: str, two: str) -> tuple[str, str]:
    return (
        checked_text(record.get(one), one, record.where),
        checked_text(record.get(two), two, record.where),
    )


def _prompt(record: Record) -> Conversation:
    if record.has("instruction"):
        turns = [Message(role="user", content=instruction_of(record))]
    else:
        turns = turns_of(record.get("input"), "input", record.where)
    messages = until_user(turns, record.where)
    if messages is None:
        raise CaiError(f"{record.where}: the prompt is blank. Fill it or delete the row.")
    return messages


def _checked(
    record: Record, messages: Conversation, responses: tuple[str, str], label: float
) -> Judged:
    """Refuse what teaches nothing: an empty response, two equal ones, a tie."""
    if not all(responses):
        number = responses.index("") + 1
        error = f"{record.where}: response {number} is empty"
        return Judged(messages, responses, None, "unparsed", error)
    if responses[0] == responses[1]:
        error = f"{record.where}: the two responses are identical"
        return Judged(messages, responses, None, "tie", error)
    if label == 0.5:
        return Judged(messages, responses, None, "tie", f"{record.where}: judged equally good")
    return Judged(messages, responses, label)


LAYOUTS: dict[tuple[str, ...], Callable[[Record], Judged]] = {
    ("chosen", "rejected"): _transcripts,
    ("chosen_response", "rejected_response"): _responses,
    ("text_correct", "text_incorrect"): _correct,
    ("response1", "response2", "annotator1"): _annotated,
    ("output_1", "output_2", "label"): _labelled,
}
"""Columns that tell a layout to its reader; the first that fits is used."""
