"""Seeded draws without generators: one uniform per (seed, position), through the inverse CDF.

A token depends on its own row's seed and position and on nothing else, so a text stays the same
whatever else is in the batch, in whatever order, however often the run is interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cai.errors import CaiError

_STEP = np.uint64(0x9E3779B97F4A7C15)


def as_seeds(seeds: list[int]) -> npt.NDArray[np.uint64]:
    """Return Python integers as unsigned 64-bit seeds (modulo 2**64)."""
    return np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)


def uniforms(
    seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return one uniform in [0, 1) for each (seed, position), a multiple of 2**-24.

    Position t (from 0, in the completion) gets output t of the SplitMix64 generator (Steele et al.,
    2014) whose state starts at a hash of the seed, so that neighbouring seeds share no outputs.
    Seeds, positions and result are `(B,)`.
    """
    state = _mix(seeds + _STEP) + _STEP * (positions.astype(np.uint64) + np.uint64(1))
    return ((_mix(state) >> np.uint64(40)) * 2.0**-24).astype(np.float32)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64's finaliser of each element."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def inverse_cdf(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the token at which the cumulative probability first exceeds the uniform, `(B,)`.

    A token of zero probability is never returned, despite rounding. Where there are NaNs, some
    valid id is.

    Args:
        probabilities: `(B, V)` float32, rows sum to about 1.
        uniform: `(B,)` float32 in [0, 1).
    """
    cdf = probabilities.cumsum(-1)
    total = cdf[:, -1:].contiguous()
    token = torch.searchsorted(cdf, uniform[:, None] * total, right=True)
    token = torch.minimum(token, torch.searchsorted(cdf, total))  # the product may round to total
    token.clamp_(max=cdf.shape[1] - 1)  # NaN sorts behind everything
    if cdf.device.type != "cpu":  # sums in parallel may step at a token of probability zero
        chosen = probabilities.gather(1, token)
        token = torch.where(chosen > 0, token, probabilities.argmax(-1, keepdim=True))
    return token.squeeze(1)


class TokenSampler:
    """Draws the next token of each of B rows, by its seed; temperature 0 is greedy."""

    def __init__(
        self, seeds: Sequence[int], temperatures: Sequence[float], device: torch.device
    ) -> None:
        self._seeds = as_seeds(list(seeds))
        divisors = torch.tensor(temperatures, device=device)
        self._greedy = divisors == 0 if 0 in temperatures else None
        self._divisors = torch.where(divisors > 0, divisors, 1.0)[:, None]

    def sample(
        self, logits: torch.Tensor, positions: Sequence[int]
    ) -> tuple[torch.Tensor, list[int], list[float]]:
        """Return the tokens `(B,)` on the device, and again with their log-probs on the host.

        Logits are `(B, V)`; positions are those of the new tokens in their completions.
        """
        uniform = torch.from_numpy(uniforms(self._seeds, np.array(positions))).to(logits.device)
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
