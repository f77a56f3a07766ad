"""Messages to token ids, in one way for generation, fine-tuning, preference model and PPO.

A control token in the text of a message ("<|eot_id|>") does not end its turn: templates are
rendered with marks in place of the contents, and control tokens are read only where the template
wrote them. In a transcript no line of a message, a prefill or a completion begins another turn
(`cai.data.conversation.one_turn`).

An answer stands where the template writes answers. Thinking is switched off: where a generation
prompt opens a thinking block, it is replaced by what the template writes before an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError

from cai.data.conversation import (
    SPEAKERS,
    TRANSCRIPT_LABELS,
    Conversation,
    Message,
    Prompt,
    one_turn,
    turns_kept,
    user,
)
from cai.errors import CaiError
from cai.models.tokens import control_tokens

TRANSCRIPT_TEMPLATE = (
    "{% set speakers = {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'} %}"
    "{% for message in messages %}{{ '' if loop.first else '\n\n' }}"
    "{{ message['label'] | default(speakers[message['role']]) }}: {{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n' }}{{ speaker | default('Assistant') }}:{% endif %}"
)
"""The chat template of base models: "Human: … Assistant: …", with other speakers by label."""

TEMPLATE_DATE = datetime(2026, 1, 1, tzinfo=UTC)
"""The date for templates that write today's: rows must not depend on the day they are made."""

CHAT_FORMAT = f"2 {TEMPLATE_DATE:%Y-%m-%d}"
"""Names how conversations become ids, for fingerprints: a new number for any change of the ids."""

_THINKING_TAG = r"<(/?)(?:think|thinking|thought|reasoning)>\s*\Z"
_MARK = re.compile(r"@@content-(\d+)@@")


class UnwritableError(CaiError):
    """A chat template cannot write a conversation."""


@dataclass(frozen=True)
class _Written:
    """A text, and which spans of it the template did not write."""

    text: str = ""
    foreign: tuple[tuple[int, int], ...] = ()

    def template(self, text: str) -> _Written:
        return _Written(self.text + text, self.foreign)

    def content(self, text: str) -> _Written:
        span = (len(self.text), len(self.text) + len(text))
        return _Written(self.text + text, (*self.foreign, span))


@dataclass(frozen=True)
class Opening:
    """How answers are opened."""

    instead_of: str = ""
    """The end of the generation prompt that does not stand before answers."""
    written: str = ""
    """What the template writes in its place."""
    lead: str = ""
    """What stands between the generation prompt and the answer (a blank in transcripts)."""


def use_transcripts(tokenizer: Any) -> None:  # noqa: ANN401 (any transformers tokenizer)
    """Give a base model's tokenizer the transcript template; it is saved with the tokenizer."""
    tokenizer.chat_template = TRANSCRIPT_TEMPLATE


class ChatFormat:
    """How one tokenizer writes conversations.

    `stop_ids` are the tokens that end the assistant's turn (turn end and end of text), `turn_end`
    is the one that training appends to a completion, and `pad_id` one to pad with (it may be EOS).
    """

    def __init__(self, tokenizer: Any, extra_stop_ids: Sequence[int] = ()) -> None:  # noqa: ANN401
        """Read the format from a transformers tokenizer with a chat template.

        `extra_stop_ids` are the EOS ids of the model's generation config.

        Raises:
            CaiError: The tokenizer has no chat template, or no token that could end a turn.
        """
        self.tokenizer = tokenizer
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        if not tokenizer.chat_template:
            raise CaiError(
                f"{name} has no chat template, so conversations cannot be written for it. If it is "
                "a base model, set `format: transcript` under its entry in `models:` to write "
                "Human/Assistant transcripts."
            )
        tail = self._turn_end()
        if tail is None and tokenizer.eos_token_id is None:
            raise CaiError(
                f"{name} has no EOS token and its chat template ends no turn, so a response could "
                "never end. Set `eos_token` in its tokenizer_config.json."
            )
        self.turn_end: int = tokenizer.eos_token_id if tail is None else tail
        eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.stop_ids: frozenset[int] = frozenset({self.turn_end, *eos, *extra_stop_ids})
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.turn_end if pad is None else int(pad)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a turn of a base model, which may go on to play the human."""
        if not self._transcript:
            return ()
        return tuple(f"\n\n{label}:" for label in TRANSCRIPT_LABELS)

    @property
    def _transcript(self) -> bool:
        return self.tokenizer.chat_template == TRANSCRIPT_TEMPLATE

    def _foreign(self, text: str) -> str:
        """Return a prefill or a completion as it may stand in its turn."""
        return one_turn(text) if self._transcript else text

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of the conversation, the answer's opening and its prefill, with one BOS.

        Raises:
            CaiError: The chat template cannot write the conversation.
        """
        written = self._write(prompt.messages, prompt.speaker)
        if prompt.prefill:
            written = written.template(self.opening.lead)
            written = written.content(self._foreign(prompt.prefill))
        return self._one_bos(self._read(written))

    def completion_ids(self, text: str, *, end: bool = True) -> list[int]:
        """Return the ids of an answer as it follows `prompt_ids`, ended by the turn end."""
        ids = self._read_on(_Written(self.opening.lead).content(self._foreign(text)))
        return [*ids, self.turn_end] if end else ids

    def option_ids(self, option: str) -> list[int]:
        """Return the ids of `option` exactly as written, to follow a prefilled prompt."""
        return self._read_on(_Written().content(option))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn ids into text, to the letter but for special tokens, which are left out."""
        return self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def text(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """Decode a completion, without special tokens and outer blanks, up to the first `stop`."""
        text = self.decode(token_ids)
        ends = [text.find(end) for end in stop if end in text]
        return text[: min(ends, default=len(text))].strip()

    @cached_property
    def opening(self) -> Opening:
        """Compare the generation prompt with what the template writes before an answer."""
        opening, _ = self._render(user(""))
        answered, _ = self._render(_ANSWERED, answer=False)
        before = answered[: _last_mark(answered).start()]
        tag = re.search(_THINKING_TAG, opening, re.IGNORECASE)
        if before.startswith(opening) and (tag is None or tag[1]):
            return Opening(lead=before[len(opening) :])
        if tag is not None and tag[1]:
            # Thinking is closed in the prompt, and answers are written without a block.
            return Opening()
        same = (one == other for one, other in zip(opening, before, strict=False))
        shared = len(list(takewhile(bool, same)))
        return Opening(instead_of=opening[shared:], written=before[shared:])

    def _turn_end(self) -> int | None:
        """Return the control token that the template writes after an assistant's turn, if any."""
        answered, _ = self._render(_ANSWERED, answer=False)
        ids = self._ids(answered[_last_mark(answered).end() :].strip())
        return ids[0] if ids and ids[0] in self.tokenizer.added_tokens_decoder else None

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        return control_tokens(self.tokenizer, self.stop_ids)

    def _write(self, messages: Conversation, speaker: str) -> _Written:
        """Write a conversation up to the opening of the answer."""
        shown = turns_kept(messages) if self._transcript else messages
        skeleton, form = self._render(shown, speaker=speaker)
        written, position = _Written(), 0
        for mark in _MARK.finditer(skeleton):
            written = written.template(skeleton[position : mark.start()])
            written = written.content(form[int(mark[1])].content.strip())
            position = mark.end()
        end, opening = skeleton[position:], self.opening
        if not end.endswith(opening.instead_of):
            raise CaiError(
                "The model's chat template opens the answer to this conversation in a way of its "
                f"own ({end[-80:]!r}), so that where answers stand is unknown. Use another model, "
                "or `format: transcript` for a base model."
            )
        return written.template(end.removesuffix(opening.instead_of) + opening.written)

    def _render(
        self, messages: Conversation, *, speaker: str = SPEAKERS["assistant"], answer: bool = True
    ) -> tuple[str, Conversation]:
        """Render the conversation, in the first form of which the template writes every message.

        Some templates know no system role (Gemma) or need strict alternation: they raise, or drop
        text silently.

        Returns:
            The text with a mark for each message's content, and the messages in the form used.
        """
        problem: Exception | None = None
        for form in (messages, _alternating(messages), _alternating(_fold_system(messages))):
            try:
                text = self.tokenizer.apply_chat_template(
                    [_marked(message, index) for index, message in enumerate(form)],
                    tokenize=False,
                    add_generation_prompt=answer,
                    enable_thinking=False,
                    strftime_now=TEMPLATE_DATE.strftime,
                    speaker=speaker,
                )
            except (TemplateError, ValueError, TypeError) as error:
                problem = error
                continue
            if [int(mark) for mark in _MARK.findall(text)] == list(range(len(form))):
                return str(text), form
        raise UnwritableError(
            "The model's chat template cannot write this conversation without losing text "
            f"({problem or 'it drops a message'}); roles: "
            f"{', '.join(message.role for message in messages)}. Use a model whose template keeps "
            "all roles, or `format: transcript` for a base model."
        )

    def _read(self, written: _Written) -> list[int]:
        """Tokenise; control tokens that the template did not write are cut in two."""
        first, *rest = self._pieces(written)
        return [*self._ids(first), *(i for piece in rest for i in self._ids_within(piece))]

    def _read_on(self, written: _Written) -> list[int]:
        """Tokenise what follows other text."""
        return [i for piece in self._pieces(written) for i in self._ids_within(piece)]

    def _pieces(self, written: _Written) -> list[str]:
        text, position, cuts = written.text, 0, [0]
        while self._control and (found := self._control.search(text, position)):
            forged = any(
                found.start() < end and start < found.end() for start, end in written.foreign
            )
            # After a cut, another control token may begin within this one.
            position = found.start() + 1 if forged else found.end()
            cuts += [position] if forged else []
        return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def _ids(self, text: str) -> list[int]:
        # Too long a prompt is a state of its row, so the library need not warn of it.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids_within(self, text: str) -> list[int]:
        """Tokenise text that follows other text.

        SentencePiece tokenizers put a blank before the first word of a text, but not after a line
        break.
        """
        if not self._blank_first:
            return self._ids(text)
        line, ids = self._ids("\n"), self._ids(f"\n{text}")
        return ids[len(line) :] if ids[: len(line)] == line else self._ids(text)

    @cached_property
    def _blank_first(self) -> bool:
        return self._ids("\nx")[len(self._ids("\n")) :] != self._ids("x")

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        while ids[:2] == [bos, bos]:
            ids = ids[1:]
        wants_bos = list(self.tokenizer("x")["input_ids"])[:1] == [bos]
        return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids


_ANSWERED = (*user(""), Message(role="assistant", content=""))


def _marked(message: Message, index: int) -> dict[str, Any]:
    """Return a message with a mark as its content, in blanks of its own that templates may trim."""
    content = message.content
    before = content[: len(content) - len(content.lstrip())]
    after = content[len(content.rstrip()) :] if content.strip() else ""
    return {**message.model_dump(), "content": f"{before}@@content-{index}@@{after}"}


def _last_mark(text: str) -> re.Match[str]:
    return list(_MARK.finditer(text))[-1]


def _alternating(messages: Conversation) -> Conversation:
    """Join neighbouring turns of one role."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            content = f"{joined[-1].content}\n\n{message.content}"
            joined[-1] = joined[-1].model_copy(update={"content": content})
        else:
            joined.append(message)
    return tuple(joined)


def _fold_system(messages: Conversation) -> Conversation:
    """Make system turns part of the user's."""
    return tuple(
        message.model_copy(update={"role": "user"}) if message.role == "system" else message
        for message in messages
    )
