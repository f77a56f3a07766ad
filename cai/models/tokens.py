"""What is used of a transformers tokenizer, and which of its tokens are control tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|div|em|footer|h[1-6]|head|header|hr|html|i|iframe"
    r"|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)
_PLAIN = re.compile(r"[\w\s\u2581]*")


class _AddedToken(Protocol):
    content: str
    special: bool


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    chat_template: str | None
    eos_token_id: int | None
    bos_token_id: int | None
    pad_token_id: int | None
    added_tokens_decoder: Mapping[int, _AddedToken]

    def __len__(self) -> int:
        """Count the tokens, added ones included."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> Any:  # noqa: ANN401
        """Tokenise."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Render."""
        ...

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Turn ids into text."""
        ...


def control_tokens(tokenizer: Tokenizer, stop_ids: Collection[int]) -> re.Pattern[str] | None:
    """Return what finds, in a text, all that the tokenizer would read as a control token.

    Those are special tokens, stop tokens, and the added tokens that a model is taught a meaning of,
    which tokenizers often do not call special ("<think>", "<tool_call>"): what the chat template
    mentions, and all that looks like markup. Ordinary text that has tokens of its own (runs of
    blanks, words, HTML) stays whole, as the model has always read it.
    """
    texts = {
        token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1
        and (token.special or index in stop_ids or _has_meaning(token.content, tokenizer))
    }
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def _has_meaning(token: str, tokenizer: Tokenizer) -> bool:
    if _MARKUP.fullmatch(token) and not _HTML.fullmatch(token):
        return True
    return token in str(tokenizer.chat_template) and not _PLAIN.fullmatch(token)
