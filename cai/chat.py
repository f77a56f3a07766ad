"""Messages to token ids: the one way in which every stage speaks to a model.

Generation, fine-tuning, the preference model and PPO all build their token ids here, so the same
conversation is the same ids everywhere: one BOS, the turn end the template uses, no re-tokenising.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, cast

from jinja2.exceptions import TemplateError

from cai.conversation import SPEAKERS, Conversation, Message, Prompt, user
from cai.errors import CaiError

TRANSCRIPT_TEMPLATE = (
    "{% set speakers = {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'} %}"
    "{% for message in messages %}{{ '' if loop.first else '\n\n' }}"
    "{{ message['label'] | default(speakers[message['role']]) }}: {{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n' }}{{ speaker | default('Assistant') }}:{% endif %}"
)
"""The chat template of base models: "Human: … Assistant: …", with other speakers by label."""

TRANSCRIPT_LABELS = (
    *SPEAKERS.values(),
    "Critique Request",
    "Critique",
    "Revision Request",
    "Revision",
)

_PROBE = "PROBE"


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    chat_template: str | None
    eos_token_id: int | None
    bos_token_id: int | None
    pad_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """Tokenise."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Render."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Turn ids into text."""
        ...


def use_transcripts(tokenizer: Any) -> None:  # noqa: ANN401 (any transformers tokenizer)
    """Give a base model's tokenizer the transcript template; it is saved with the tokenizer."""
    tokenizer.chat_template = TRANSCRIPT_TEMPLATE


class ChatFormat:
    """How one tokenizer writes conversations.

    Attributes:
        stop_ids: Every token that ends the assistant's turn (turn end and end of text).
        turn_end: The token that training appends to a completion.
        pad_id: A token to pad with; masks never rely on it differing from EOS.
    """

    def __init__(self, tokenizer: Any, extra_stop_ids: Sequence[int] = ()) -> None:  # noqa: ANN401
        """Learn the format from the tokenizer.

        Args:
            tokenizer: A transformers tokenizer with a chat template.
            extra_stop_ids: EOS ids named by the model's generation config.

        Raises:
            CaiError: The tokenizer has no chat template, or no token that could end a turn.
        """
        self.tokenizer = cast("Tokenizer", tokenizer)
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        if not tokenizer.chat_template:
            raise CaiError(
                f"{name} has no chat template, so its conversations cannot be written. If it is a "
                "base model, set `format: transcript` under its entry in `models:` to speak "
                "Human/Assistant transcripts with it."
            )
        tail = self._probe_tail()
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
        if self.tokenizer.chat_template != TRANSCRIPT_TEMPLATE:
            return ()
        return tuple(f"\n\n{label}:" for label in TRANSCRIPT_LABELS)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of the conversation, the answer's opening and its prefill, with one BOS."""
        text = self._render(prompt.messages, speaker=prompt.speaker)
        if prompt.prefill:
            text += self._lead + prompt.prefill
        return self._one_bos(self._ids(text))

    def completion_ids(self, text: str, *, end: bool = True) -> list[int]:
        """Return the ids of an answer as it follows `prompt_ids`, ended by the turn end."""
        ids = self._ids(self._lead + text)
        return [*ids, self.turn_end] if end else ids

    def option_ids(self, option: str) -> list[int]:
        """Return the ids of `option` exactly as written, to follow a prefilled prompt."""
        return self._ids(option)

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode a completion: special tokens and surrounding blanks removed."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True).strip()

    @cached_property
    def _lead(self) -> str:
        """What stands between the generation prompt and the answer (a blank in transcripts)."""
        opening = self._render(user("x"))
        whole = self._render((*user("x"), Message(role="assistant", content=_PROBE)), answer=False)
        if not whole.startswith(opening) or _PROBE not in whole:
            return ""
        return whole[len(opening) : whole.rindex(_PROBE)]

    def _probe_tail(self) -> int | None:
        """Return the first token that the template writes after an assistant's turn, if any."""
        whole = self._render((*user("x"), Message(role="assistant", content=_PROBE)), answer=False)
        tail = whole[whole.rindex(_PROBE) + len(_PROBE) :].strip() if _PROBE in whole else ""
        ids = self._ids(tail) if tail else []
        return ids[0] if ids else None

    def _render(
        self, messages: Conversation, *, speaker: str = SPEAKERS["assistant"], answer: bool = True
    ) -> str:
        """Render through the chat template, bending the conversation only if the template must.

        Some templates know no system role (Gemma), some insist on strict alternation; they raise,
        or drop the text silently. The first form that keeps every word is used.
        """
        problem: Exception | None = None
        for form in (messages, _alternating(messages), _alternating(_fold_system(messages))):
            try:
                text = self.tokenizer.apply_chat_template(
                    [message.model_dump() for message in form],
                    tokenize=False,
                    add_generation_prompt=answer,
                    enable_thinking=False,
                    speaker=speaker,
                )
            except (TemplateError, ValueError, TypeError) as error:
                problem = error
                continue
            if all(message.content.strip() in text for message in form):
                return str(text)
        raise CaiError(
            "The model's chat template cannot write this conversation without losing text "
            f"({problem or 'it drops a message'}); roles: "
            f"{', '.join(message.role for message in messages)}. Use a model whose template keeps "
            "all roles, or `format: transcript` for a base model."
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        while ids[:2] == [bos, bos]:
            ids = ids[1:]
        wants_bos = self._ids_with_special("x")[:1] == [bos]
        return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids

    def _ids_with_special(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])


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
