"""Which prompts a step samples from, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from cai.chat import ChatFormat
from cai.conversation import Prompt
from cai.errors import CaiError
from cai.records import Kind, PromptRow, derive_seed


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as the policy reads it."""

    ids: tuple[int, ...]
    kind: Kind


def tokenize_prompts(
    rows: Sequence[PromptRow], chat: ChatFormat, *, context: int, max_new_tokens: int
) -> list[TokenPrompt]:
    """Return the prompts that leave room for a response; longer ones are left out, never cut.

    Args:
        rows: Prompts to train on.
        chat: How the policy reads them.
        context: Tokens that both policy and preference model can read.
        max_new_tokens: Room that a response needs.

    Raises:
        CaiError: There are no prompts, or none that leaves room.
    """
    if not rows:
        raise CaiError(
            "PPO has no prompts to sample from. Add sources under `prompts:`, or lower "
            "`prompts.held_out`, which keeps prompts for evaluation."
        )
    prompts = [
        TokenPrompt(tuple(chat.prompt_ids(Prompt(messages=row.messages))), row.kind) for row in rows
    ]
    fitting = [p for p in prompts if len(p.ids) + max_new_tokens <= context]
    if not fitting:
        shortest = min(len(p.ids) for p in prompts)
        raise CaiError(
            f"No prompt of the {len(prompts)} leaves room for a response: the models read "
            f"{context} tokens, the shortest prompt has {shortest} and `ppo.max_new_tokens` is "
            f"{max_new_tokens}. Lower `ppo.max_new_tokens` or use shorter prompts."
        )
    return fitting


class PromptPool:
    """Prompts by kind, each kind drawn without replacement until all of it has been drawn.

    What a step draws depends on the seed and the step alone, so a resumed run draws the same.
    """

    def __init__(
        self,
        prompts: Sequence[TokenPrompt],
        *,
        batch_size: int,
        red_team_fraction: float,
        seed: int,
    ) -> None:
        """Split the prompts by kind.

        Args:
            prompts: What to draw from; the order counts.
            batch_size: Prompts per step.
            red_team_fraction: Share of red-team prompts in every step, in [0, 1].
            seed: The run's seed.

        Raises:
            CaiError: A kind that is asked for has no prompts.
        """
        red_team = round(batch_size * red_team_fraction)
        self._counts: dict[Kind, int] = {"red_team": red_team, "helpful": batch_size - red_team}
        self._seed = seed
        self._prompts: dict[Kind, list[TokenPrompt]] = {
            kind: [prompt for prompt in prompts if prompt.kind == kind] for kind in self._counts
        }
        for kind, count in self._counts.items():
            if count and not self._prompts[kind]:
                raise CaiError(
                    f"`ppo.red_team_fraction: {red_team_fraction:g}` asks for {count} {kind} "
                    f"prompts in every step, but none fits. Add some under `prompts.{kind}`, or "
                    f"set `ppo.red_team_fraction: {0 if kind == 'red_team' else 1}`."
                )

    def draw(self, step: int) -> list[TokenPrompt]:
        """Return the prompts of a step (counted from 0), red-team ones first."""
        return [
            self._nth(kind, step * count + i)
            for kind, count in self._counts.items()
            for i in range(count)
        ]

    def _nth(self, kind: Kind, n: int) -> TokenPrompt:
        """Return the n-th prompt of an endless series of shuffles."""
        prompts = self._prompts[kind]
        shuffle, position = divmod(n, len(prompts))
        return prompts[permutation(len(prompts), self._seed, kind, shuffle)[position]]


@lru_cache(maxsize=8)
def permutation(n: int, *parts: int | str) -> tuple[int, ...]:
    """Return `0 … n-1` in an order that depends on `n` and `parts` and on nothing else."""
    generator = torch.Generator().manual_seed(derive_seed(*parts))
    return tuple(torch.randperm(n, generator=generator).tolist())
