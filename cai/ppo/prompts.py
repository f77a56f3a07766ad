"""The prompts of each step, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from pydantic import ValidationError

from cai.data.conversation import Conversation, Message, Prompt, user
from cai.data.records import Kind, PromptRow, derive_seed
from cai.errors import CaiError
from cai.models.chat import ChatFormat

PromptLike = str | Sequence[Message | Mapping[str, Any]] | PromptRow
"""A text, messages, or a row of the pipeline."""


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as the policy reads it."""

    ids: tuple[int, ...]
    kind: Kind | None = None
    """Prompts of the pipeline are red-team or helpful ones."""
    given: str | Conversation = ""
    """What scorers see of it: a text if it was given as one, else messages."""


class TextFormat:
    """The format of a tokenizer without a chat template: prompts are texts to continue.

    See `ChatFormat` for its attributes.
    """

    def __init__(self, tokenizer: Any, extra_stop_ids: Sequence[int] = ()) -> None:  # noqa: ANN401
        """Read the ids from a tokenizer; raise a CaiError if no token ends a text."""
        self.tokenizer = tokenizer
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.stop_ids: frozenset[int] = frozenset(
            [*extra_stop_ids, *([] if eos is None else [int(eos)])]
        )
        if not self.stop_ids:
            raise CaiError(
                "The tokenizer has no EOS token, so a response could never end. Set "
                "`tokenizer.eos_token`."
            )
        self.pad_id = min(self.stop_ids) if pad is None else int(pad)

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text, with the tokenizer's own BOS if it has one."""
        return list(self.tokenizer(text)["input_ids"])

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode a response, special tokens and surrounding blanks removed."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()


PromptFormat = ChatFormat | TextFormat


def prompt_format(tokenizer: Any, extra_stop_ids: Sequence[int] = ()) -> PromptFormat:  # noqa: ANN401
    """Return how to write prompts: as conversations if there is a chat template, else as texts."""
    make = ChatFormat if tokenizer.chat_template else TextFormat
    return make(tokenizer, extra_stop_ids)


def tokenize_prompt(prompt: PromptLike, chat: PromptFormat) -> TokenPrompt:
    """Return a prompt as tokens; a text is a user's turn wherever there is a chat template.

    Raises:
        CaiError: The value is not a prompt, is empty, or has messages but no chat template.
    """
    kind = prompt.kind if isinstance(prompt, PromptRow) else None
    if isinstance(prompt, str):
        given, messages = prompt, user(prompt)
    else:
        given = messages = _messages(prompt)
    if isinstance(chat, ChatFormat):
        ids = chat.prompt_ids(Prompt(messages))
    elif isinstance(given, str):
        ids = chat.prompt_ids(given)
    else:
        raise CaiError(
            "A prompt is a list of messages, but the tokenizer has no chat template to write them. "
            "Give prompts as texts to continue, set `tokenizer.chat_template`, or use "
            "transcripts (`format: transcript`, `cai.models.chat.use_transcripts`)."
        )
    if not ids:
        raise CaiError("A prompt for PPO is empty (it has no token). Remove it.")
    return TokenPrompt(tuple(ids), kind, given)


def _messages(prompt: Any) -> Conversation:  # noqa: ANN401 (whatever a caller gives)
    messages = prompt.messages if isinstance(prompt, PromptRow) else prompt
    try:
        return tuple(Message.model_validate(message) for message in messages)
    except (TypeError, ValidationError) as error:
        raise CaiError(
            f"{str(prompt)[:80]!r} is not a prompt: give a text, or messages with `role` and "
            "`content`."
        ) from error


def tokenize_prompts(
    rows: Sequence[PromptLike],
    chat: PromptFormat,
    *,
    context: int,
    max_new_tokens: int,
    named: str = "prompt",
) -> list[TokenPrompt]:
    """Return the prompts that leave room for a response; longer ones are left out, never cut.

    `context` are the tokens that policy and preference models can read, `max_new_tokens` those of a
    response; `named` is the word for a prompt in messages.

    Raises:
        CaiError: There are no prompts, or all are too long.
    """
    if not rows:
        raise CaiError(
            "PPO has no prompts to sample from. Give `train` some; in a pipeline add sources under "
            "`prompts:`, or lower `prompts.held_out`, which keeps prompts for evaluation."
        )
    if isinstance(rows, str):
        raise CaiError(
            "The prompts of PPO must be a list, and are a single text. Give a list of "
            "texts or of conversations."
        )
    prompts = [tokenize_prompt(row, chat) for row in rows]
    fitting = [p for p in prompts if len(p.ids) + max_new_tokens <= context]
    if not fitting:
        shortest = min(len(p.ids) for p in prompts)
        raise CaiError(
            f"No {named} of the {len(prompts)} leaves room for a response: the models read "
            f"{context} tokens, the shortest of them has {shortest} and `ppo.max_new_tokens` is "
            f"{max_new_tokens}. Lower `ppo.max_new_tokens` or use shorter prompts."
        )
    return fitting


class PromptPool:
    """Prompts by kind, each kind drawn without replacement until all of it has been drawn.

    Without kinds, all prompts are one pool. The draw of a step depends on seed and step only, so a
    resumed run draws the same.
    """

    def __init__(
        self,
        prompts: Sequence[TokenPrompt],
        *,
        batch_size: int,
        red_team_fraction: float,
        seed: int,
        samples_per_prompt: int = 1,
    ) -> None:
        """Split the prompts, whose order counts, by kind.

        `batch_size` are the episodes per step, a multiple of `samples_per_prompt`. The share of
        red-team prompts in every step is `red_team_fraction`, in [0, 1].

        Raises:
            CaiError: A kind that is asked for has no prompts.
        """
        count = batch_size // samples_per_prompt
        red_team = round(count * red_team_fraction)
        self._seed = seed
        self._samples = samples_per_prompt
        self._counts: dict[Kind | None, int] = {None: count}
        self._prompts: dict[Kind | None, list[TokenPrompt]] = {None: list(prompts)}
        if all(prompt.kind for prompt in prompts):
            self._counts = {"red_team": red_team, "helpful": count - red_team}
            self._prompts = {k: [p for p in prompts if p.kind == k] for k in self._counts}
        for kind, count in self._counts.items():
            if count and not self._prompts[kind]:
                raise CaiError(
                    f"`ppo.red_team_fraction: {red_team_fraction:g}` asks for {count} {kind} "
                    f"prompts in every step, but none fits. Add some under `prompts.{kind}`, or "
                    f"set `ppo.red_team_fraction: {0 if kind == 'red_team' else 1}`."
                )

    def draw(self, step: int) -> list[TokenPrompt]:
        """Return the prompt of each episode of a step (counted from 0), red-team ones first.

        The samples of a prompt are neighbours.
        """
        return [
            self._nth(kind, step * count + i)
            for kind, count in self._counts.items()
            for i in range(count)
            for _ in range(self._samples)
        ]

    def _nth(self, kind: Kind | None, n: int) -> TokenPrompt:
        """Return the n-th prompt of an endless series of shuffles."""
        prompts = self._prompts[kind]
        shuffle, position = divmod(n, len(prompts))
        return prompts[permutation(len(prompts), self._seed, kind or "all", shuffle)[position]]


@lru_cache(maxsize=8)
def permutation(n: int, *parts: int | str) -> tuple[int, ...]:
    """Return `0 … n-1` in an order that depends on `n` and `parts` and on nothing else."""
    generator = torch.Generator().manual_seed(derive_seed(*parts))
    return tuple(torch.randperm(n, generator=generator).tolist())
