"""The chat formats of all families of tiny models, and conversations for them."""

from tiny_models import FAMILIES, THINKING_FAMILIES, make_tiny_tokenizer

from cai.data.conversation import Message
from cai.models.chat import ChatFormat, use_transcripts


def chat_format(family):
    tokenizer = make_tiny_tokenizer(family)
    if family == "gpt2":
        use_transcripts(tokenizer)
    return ChatFormat(tokenizer)


EVERY = (*FAMILIES, *THINKING_FAMILIES)
FORMATS = {family: chat_format(family) for family in EVERY}


def turns(*contents):
    """Return alternating turns, the user's first."""
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(contents))
