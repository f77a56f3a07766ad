"""The records of PPO: episodes, and rollouts with their log-probabilities and scores.

Shapes: `B` episodes, `P` longest prompt, `T` longest response, `L = P + T`, `S` the columns a
forward pass needs. Masks come from lengths, never from pad ids: pad may be missing or equal EOS.
Lengths and row numbers are on the host, so that it need not wait for the device.
"""

# ruff: noqa: N802, N815 (names end in the shapes of what they hold)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from cai.training.processes import ALONE, Processes

CPU = torch.device("cpu")
MICRO_BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens of a forward pass, unless `ppo.micro_batch_size` sets its rows.

On a CPU so few that a layer's activations stay in the cache; on a GPU enough to fill it.
"""


@dataclass(frozen=True)
class Episodes:
    """Prompts and the ids that were sampled after them; never decoded and tokenised again."""

    prompt_ids_BP: Tensor
    """Left-padded, `(B, P)` int64."""
    prompt_lengths_B: Tensor
    """On the host, as `response_lengths_B`."""
    response_ids_BT: Tensor
    """Right-padded, the stop token included, `(B, T)` int64."""
    response_lengths_B: Tensor

    @classmethod
    def from_lists(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        pad_id: int,
        device: torch.device,
    ) -> Self:
        """Pad prompts on the left and responses (at least one token each) on the right."""
        prompt_lengths = [len(ids) for ids in prompts]
        response_lengths = [len(ids) for ids in responses]
        P, T = max(prompt_lengths), max(response_lengths)
        left = [[pad_id] * (P - len(ids)) + list(ids) for ids in prompts]
        right = [list(ids) + [pad_id] * (T - len(ids)) for ids in responses]
        return cls(
            torch.tensor(left, device=device),
            torch.tensor(prompt_lengths),
            torch.tensor(right, device=device),
            torch.tensor(response_lengths),
        )

    def __len__(self) -> int:
        return len(self.prompt_lengths_B)

    @property
    def mask_BT(self) -> Tensor:
        """True on the real tokens of the responses, `(B, T)`."""
        return self._moved(self._real_BT())

    @property
    def lengths_B(self) -> Tensor:
        """Prompt and response tokens of each episode, on the host."""
        return self.prompt_lengths_B + self.response_lengths_B

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.prompt_ids_BP.device

    def select(self, rows: Tensor) -> Episodes:
        """Return the given rows, which are named on the host."""
        moved = self._moved(rows)
        return Episodes(
            self.prompt_ids_BP[moved],
            self.prompt_lengths_B[rows],
            self.response_ids_BT[moved],
            self.response_lengths_B[rows],
        )

    def input_ids_BS(self) -> Tensor:
        """Return the forward pass's input: each row from its first prompt token, then its response.

        Without left padding and last token, rows start at position 0, causal attention needs no
        mask, and `S = max(lengths) - 1`. What follows a row's end is arbitrary.
        """
        ids_BL = torch.cat([self.prompt_ids_BP, self.response_ids_BT], dim=1)
        left_B1 = self.prompt_ids_BP.shape[1] - self.prompt_lengths_B[:, None]
        columns_S = torch.arange(int(self.lengths_B.max()) - 1)
        places_BS = (left_B1 + columns_S).clamp(max=ids_BL.shape[1] - 1)
        return ids_BL.gather(1, self._moved(places_BS))

    def response_positions(self) -> tuple[Tensor, Tensor]:
        """Return rows and columns of `response_ids_BT` that hold real tokens, `(N,)` each."""
        rows_N, tokens_N = self._real_BT().nonzero(as_tuple=True)
        return self._moved(rows_N), self._moved(tokens_N)

    def predicting_positions(self) -> tuple[Tensor, Tensor]:
        """Return rows and columns of `input_ids_BS` that predict the response tokens, `(N,)` each.

        Token `t` is predicted at column `prompt_length - 1 + t`. Ordered as `response_positions`.
        """
        rows_N, tokens_N = self._real_BT().nonzero(as_tuple=True)
        return self._moved(rows_N), self._moved(self.prompt_lengths_B[rows_N] - 1 + tokens_N)

    def sequences(self) -> list[list[int]]:
        """Return the ids of each episode, prompt then response, without padding."""
        P = self.prompt_ids_BP.shape[1]
        return [
            prompt[P - p :] + response[:t]
            for prompt, p, response, t in zip(
                self.prompt_ids_BP.tolist(),
                self.prompt_lengths_B.tolist(),
                self.response_ids_BT.tolist(),
                self.response_lengths_B.tolist(),
                strict=True,
            )
        ]

    def _real_BT(self) -> Tensor:
        columns_T = torch.arange(self.response_ids_BT.shape[1])
        return columns_T < self.response_lengths_B[:, None]

    def _moved(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Rollout:
    """Episodes with all data from the time of sampling that the update needs."""

    episodes: Episodes

    logprobs_BT: Tensor
    """log π of each sampled token under the policy that sampled it, nats; 0 on padding."""
    ref_logprobs_BT: Tensor
    """The same under the reference policy."""
    values_BT: Tensor | None
    """The critic's value of the state before each token; None without a critic."""

    scores_B: Tensor
    """What is maximised: the weighted sum of the scorers, or `no_eos_reward` where a response did
    not end. NaN where a scorer has no score for it."""
    ended_B: Tensor
    """True where the last token of the response is a stop token, in the very last slot too."""
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What each scorer said of the responses that were scored, not weighted, `(n,)`; NaN where it
    has no score."""
    states: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many responses have no score, by state."""
    samples_compared: int = 1
    """K where the samples of a prompt, K neighbours, are compared with each other; else 1."""

    @cached_property
    def used_B(self) -> Tensor:
        """Which episodes the update uses, `(B,)` bool on the host.

        An episode without a score is left out. So is one without another sample of its prompt left,
        if samples are compared.
        """
        used_GK = ~self.scores_B.cpu().isnan().reshape(-1, self.samples_compared)
        if self.samples_compared > 1:
            used_GK = used_GK & (used_GK.sum(dim=1, keepdim=True) > 1)
        return used_GK.flatten()

    @property
    def mask_BT(self) -> Tensor:
        """True on the real tokens of the episodes that the update uses, `(B, T)`."""
        return self.episodes.mask_BT & self.used_B.to(self.episodes.device)[:, None]


def length_sorted(
    lengths_B: Tensor,
    size: int | None,
    processes: Processes = ALONE,
    device: torch.device = CPU,
) -> list[Tensor]:
    """Split `0 … B-1` into micro-batches of similar length, longest first, for little padding.

    A micro-batch has `size` rows; None: as many as make `MICRO_BATCH_TOKENS` of the device, padding
    counted. The sorted rows are shared by the processes: each gets as many micro-batches, of about
    equal lengths. Lengths are on the host.

    Returns:
        The rows of each micro-batch of this process, on the host.
    """
    order_B = processes.deal(lengths_B.argsort(descending=True, stable=True))
    if size is not None:
        return list(order_B.split(size))
    # All processes make as many micro-batches: sizes follow the longest row of each deal.
    lengths = lengths_B.sort(descending=True).values[:: processes.count].tolist()
    sizes: list[int] = []
    while sum(sizes) < len(lengths):
        left = len(lengths) - sum(sizes)
        sizes.append(min(left, rows_of_length(lengths[-left], device)))
    return list(order_B.split(sizes))


def rows_of_length(length: int, device: torch.device) -> int:
    """Return how many rows of this length make a micro-batch of `MICRO_BATCH_TOKENS`."""
    return max(1, MICRO_BATCH_TOKENS.get(device.type, MICRO_BATCH_TOKENS["cuda"]) // length)
