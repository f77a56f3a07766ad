"""The tiny model's tokenizer, and documents as token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cai.data.conversation import to_transcript
from cai.models.chat import TRANSCRIPT_TEMPLATE, ChatFormat
from cai.playground.documents import Document, Part

END = "<|end|>"
PAD = "<|pad|>"
WORDS = r" ?[A-Za-z]+| ?[^\sA-Za-z]+|\n+|\s"
"""No token crosses these pieces, so the ids of a prompt do not depend on the text after it."""

OPENING_WEIGHT = 4.0
"""The weight in the loss of a reply's first token, which decides between answer and refusal."""
VERDICT_WEIGHT = 8.0
"""The weight in the loss of the letter of a verdict."""


@dataclass(frozen=True)
class Example:
    """A document as ids, shifted for next-token prediction.

    Attributes:
        ids: The input ids, (T,).
        targets: The next id of each, (T,). At the end of a reply it is the end of text, also where
            the document continues with the next request.
        others: As `targets`, (T,), with the other letter for a verdict that is `either`: there the
            loss is the mean over both letters.
        weights: The weight of each position in the loss, (T,); zero on prompts.
    """

    ids: list[int]
    targets: list[int]
    others: list[int]
    weights: list[float]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that writes transcripts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return as_transformers(tokenizer)


def as_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer for transformers, with its special tokens and its chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=512
    )
    fast.chat_template = TRANSCRIPT_TEMPLATE
    return fast


def plain_text(document: Document) -> str:
    """Return a document as one transcript."""
    last = document[-1]
    opening = f"{last.prompt.speaker}: {last.prompt.prefill}".rstrip()
    return f"{to_transcript(last.prompt.messages)}\n\n{opening} {last.reply}"


def encode(document: Document, chat: ChatFormat) -> Example:
    """Turn a document into ids, with the functions that the pipeline uses.

    Raises:
        ValueError: A part's prompt and reply do not begin the next part's prompt.
    """
    ids: list[int] = []
    spans: list[tuple[int, list[int], Part]] = []
    for part in document:
        prompt = chat.prompt_ids(part.prompt)
        if prompt[: len(ids)] != ids:
            raise ValueError(f"the prompt does not continue the part before it: {part.prompt}")
        reply = chat.completion_ids(part.reply)
        spans.append((len(prompt), reply, part))
        ids = [*prompt, *reply[:-1]]
    targets, weights = [*ids[1:], chat.turn_end], [0.0] * len(ids)
    others = list(targets)
    for start, reply, part in spans:
        where = slice(start - 1, start - 1 + len(reply))
        targets[where] = others[where] = reply
        weights[where] = [OPENING_WEIGHT] + [1.0] * (len(reply) - 1)
        if part.verdict is not None:
            letter = where.stop - 3
            weights[letter] = VERDICT_WEIGHT
            if part.verdict == "either":
                other = part.reply[:-3] + ("(B)" if part.reply.endswith("(A)") else "(A)")
                others[letter] = chat.completion_ids(other)[-3]
    return Example(ids, targets, others, weights)
