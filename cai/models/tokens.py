"""Which tokens of a transformers tokenizer are control tokens."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|div|em|footer|h[1-6]|head|header|hr|html|i|iframe"
    r"|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)
_PLAIN = re.compile(r"[\w\s\u2581]*")


def control_tokens(tokenizer: Any, stop_ids: Collection[int]) -> re.Pattern[str] | None:  # noqa: ANN401
    """Return a pattern of all control tokens; None if there are none.

    These are special tokens, stop tokens, and added tokens with a meaning that tokenizers often do
    not mark as special ("<think>", "<tool_call>"): those in the chat template, and all that look
    like markup. Added tokens of ordinary text (runs of blanks, words, HTML) are not among them.
    """
    template = str(tokenizer.chat_template)
    texts = {
        token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1
        and (token.special or index in stop_ids or _has_meaning(token.content, template))
    }
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def _has_meaning(token: str, template: str) -> bool:
    if _MARKUP.fullmatch(token) and not _HTML.fullmatch(token):
        return True
    return token in template and not _PLAIN.fullmatch(token)
