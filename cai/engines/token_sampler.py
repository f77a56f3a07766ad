"""The draw of the next token of each row, by the row's own seed and the token's position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from cai.engines.draws import as_seeds, inverse_cdf, uniforms
from cai.errors import CaiError


class Sampling(Protocol):
    """How a row is sampled."""

    @property
    def seed(self) -> int:
        """With the position, it decides every draw."""
        ...

    @property
    def temperature(self) -> float:
        """Logits are divided by it; 0 is greedy."""
        ...


class SampledRow(Protocol):
    """A row that is sampled."""

    @property
    def request(self) -> Sampling:
        """How."""
        ...

    @property
    def token_ids(self) -> Sequence[int]:
        """What it has so far."""
        ...


class TokenSampler:
    """Draws the next token of each of B rows."""

    def __init__(self, rows: Sequence[SampledRow], device: torch.device) -> None:
        """Draw for these rows, which grow by a token after each draw."""
        self._rows = rows
        self._seeds = as_seeds([row.request.seed for row in rows])
        temperatures = torch.tensor([row.request.temperature for row in rows], device=device)
        self._greedy = temperatures == 0 if any(r.request.temperature == 0 for r in rows) else None
        self._divisors = torch.where(temperatures > 0, temperatures, 1.0)[:, None]

    def sample(self, logits: torch.Tensor) -> tuple[torch.Tensor, list[int], list[float]]:
        """Return the tokens `(B,)` on the device, and again with their log-probs on the host.

        Args:
            logits: `(B, V)`.
        """
        positions = np.array([len(row.token_ids) for row in self._rows])
        uniform = torch.from_numpy(uniforms(self._seeds, positions)).to(logits.device)
        probabilities = torch.softmax(logits.float() / self._divisors, dim=-1)
        tokens = inverse_cdf(probabilities, uniform)
        if self._greedy is not None:
            tokens = torch.where(self._greedy, logits.argmax(-1), tokens)
        logprobs = probabilities.gather(1, tokens[:, None]).log().squeeze(1)
        # One transfer for both: ids are exact in float64.
        ids, values = torch.stack([tokens.double(), logprobs.double()]).cpu().numpy()
        return tokens, ids.astype(np.int64).tolist(), values.tolist()


def nan_error() -> CaiError:
    """Return what to raise when log-probabilities are NaN."""
    return CaiError(
        "The model computes probabilities that are not numbers (NaN). Its weights may be damaged, "
        "or its training diverged; or it needs `dtype: float32` in its settings."
    )
