"""What a tokenizer's chat template does with conversations, and what cai makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cai.data.conversation import Conversation, Message, Prompt
from cai.doctor.findings import Finding, State
from cai.errors import CaiError
from cai.models.chat import TEMPLATE_DATE, TRANSCRIPT_TEMPLATE, ChatFormat

_OTHER_DATE = datetime(2001, 9, 10, tzinfo=UTC)
_SYSTEM, _ASKED, _SAID, _MORE, _ANSWER = (
    "Be brief.",
    "Why 7?",
    "It is odd.",
    "And 8?",
    "It is even.",
)


def examine_template(chat: ChatFormat) -> list[Finding]:
    """Return the findings on a chat format, from short conversations that are written with it."""
    return [Finding(area="chat template", name=n, state=s, detail=d) for n, s, d in _facts(chat)]


def _facts(chat: ChatFormat) -> Iterator[tuple[str, State, str]]:
    if chat.tokenizer.chat_template == TRANSCRIPT_TEMPLATE:
        yield "form", "ok", "Human/Assistant transcripts (`format: transcript`)"
    else:
        yield "form", "ok", "the tokenizer's own chat template"
    for name, check in {
        "round trip": _round_trip,
        "turn end": _turn_end,
        "system role": _system,
        "alternation": _alternation,
        "thinking": _thinking,
        "date": _date,
    }.items():
        yield name, *check(chat)


def _conversation(*turns: tuple[str, str]) -> Conversation:
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)


_CONVERSATIONS = {
    "one turn": _conversation(("user", _ASKED)),
    "several turns": _conversation(("user", _ASKED), ("assistant", _SAID), ("user", _MORE)),
}


def _rendered(chat: ChatFormat, messages: Conversation, **options: Any) -> str | None:  # noqa: ANN401
    """Return a conversation as the template alone writes it; None if it refuses or drops a text."""
    given = {"enable_thinking": False, "strftime_now": TEMPLATE_DATE.strftime, **options}
    try:
        text = chat.tokenizer.apply_chat_template(
            [message.model_dump() for message in messages], tokenize=False, **given
        )
    except Exception:  # noqa: BLE001 (templates raise whatever they like; that is the finding)
        return None
    return str(text) if all(m.content in text for m in messages) else None


def _decoded(chat: ChatFormat, ids: list[int]) -> str:
    text = chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return _without_bos(chat, text)


def _without_bos(chat: ChatFormat, text: str) -> str:
    return text.removeprefix(chat.tokenizer.bos_token or "").lstrip(" ")


def _round_trip(chat: ChatFormat) -> tuple[State, str]:
    """Compare prompt and completion, as training writes them, with the template's conversation."""
    differing: list[str] = []
    for name, messages in _CONVERSATIONS.items():
        try:
            ids = [*chat.prompt_ids(Prompt(messages)), *chat.completion_ids(_ANSWER)]
        except CaiError as error:
            return "no", str(error)
        end = str(chat.tokenizer.decode([chat.turn_end]))
        ours = _decoded(chat, ids).removesuffix(end)
        whole = _rendered(chat, (*messages, Message(role="assistant", content=_ANSWER)))
        if whole is None or not _without_bos(chat, whole).startswith(ours):
            differing.append(name)
    if not differing:
        return "ok", "prompt and answer, as trained and sampled, are what the template writes"
    return (
        "limited",
        f"the template writes {' and '.join(differing)} in another way than prompt and answer "
        "together; training and sampling use the same tokens all the same",
    )


def _turn_end(chat: ChatFormat) -> tuple[State, str]:
    names = {i: repr(chat.tokenizer.decode([i])) for i in (chat.turn_end, *chat.stop_ids)}
    others = ", ".join(names[i] for i in sorted(chat.stop_ids - {chat.turn_end}))
    eos = chat.turn_end == chat.tokenizer.eos_token_id
    also = f"; {others} end answers, too" if others else ""
    return "ok", f"{names[chat.turn_end]} is trained{', the EOS' if eos else ', not the EOS'}{also}"


def _system(chat: ChatFormat) -> tuple[State, str]:
    messages = _conversation(("system", _SYSTEM), ("user", _ASKED))
    if problem := _unwritable(chat, messages):
        return "no", problem
    alone = _rendered(chat, messages)
    folded = _rendered(chat, _conversation(("user", f"{_SYSTEM}\n\n{_ASKED}")))
    if alone is None:
        return "limited", "the template has none: it becomes part of the user's turn"
    if alone == folded:
        return "ok", "the template itself makes it part of the user's turn"
    return "ok", "the template has one"


def _alternation(chat: ChatFormat) -> tuple[State, str]:
    messages = _conversation(("user", _ASKED), ("user", _MORE))
    if problem := _unwritable(chat, messages):
        return "no", problem
    if _rendered(chat, messages) is None:
        return "limited", "turns must alternate: neighbouring turns of one role are joined"
    return "ok", "turns need not alternate"


def _unwritable(chat: ChatFormat, messages: Conversation) -> str:
    try:
        chat.prompt_ids(Prompt(messages))
    except CaiError as error:
        return str(error)
    return ""


def _thinking(chat: ChatFormat) -> tuple[State, str]:
    messages, opening = _CONVERSATIONS["one turn"], chat.opening

    def prompt(**options: bool) -> str:
        return _rendered(chat, messages, add_generation_prompt=True, **options) or ""

    switch = prompt(enable_thinking=True) != prompt(enable_thinking=False)
    said = "the template has a switch, which is off" if switch else "the template has no switch"
    if opening.instead_of:
        return (
            "limited",
            f"{said}; the generation prompt ends in {opening.instead_of!r}, which does not stand "
            f"before answers: {opening.written!r} replaces it",
        )
    if opening.written:
        return (
            "limited",
            f"{said}; the generation prompt opens a block that answers close: {opening.written!r} "
            "is added to it",
        )
    lead = opening.lead.strip()
    if lead:
        return "ok", f"{said}; {opening.lead!r} is written before answers, and trained"
    if "</think" in prompt(enable_thinking=False)[-30:]:
        return "ok", f"{said}; the generation prompt closes the thinking block"
    return "ok", f"{said}; the generation prompt opens no thinking block"


def _date(chat: ChatFormat) -> tuple[State, str]:
    def write(day: datetime) -> str | None:
        return _rendered(chat, _CONVERSATIONS["one turn"], strftime_now=day.strftime)

    if write(TEMPLATE_DATE) != write(_OTHER_DATE):
        return "limited", f"the template writes today's, which is always {TEMPLATE_DATE:%Y-%m-%d}"
    return "ok", "the template writes none"
