"""Adaptive numbers of a run: KL coefficients and the scale of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from cai.ppo.math import Moments, adapted_kl_coef, adapted_penalty, merged_moments
from cai.settings import PPOSettings


@dataclass
class Control:
    """Numbers that change in each step; they are part of a checkpoint."""

    kl_coef: float
    """β, the penalty against the reference."""
    penalty_coef: float
    """The penalty against the policy of the rollout (`objective: kl_penalty`)."""
    scores: Moments
    """Of all scores so far (`normalise_rewards`)."""

    @classmethod
    def start(cls, settings: PPOSettings) -> Self:
        """Return the start values from the settings."""
        return cls(settings.kl_coef, settings.penalty_coef, Moments(0, 0.0, 0.0))

    def normalise(self, scores_N: Tensor) -> Tensor:
        """Take these scores into account; return them with mean and scale of all so far removed."""
        self.scores = merged_moments(self.scores, scores_N)
        return (scores_N - self.scores.mean) / max(self.scores.variance, 1e-8) ** 0.5

    def adapt(self, settings: PPOSettings, *, kl: float, moved: float | None) -> None:
        """Adjust the coefficients after a step.

        `kl` is the mean KL from the reference per response, `moved` (if known) the mean KL per
        token between the policies before and after the step; both in nats.
        """
        if settings.kl_target is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef, kl, settings.kl_target, settings.batch_size, settings.kl_horizon
            )
        if moved is not None:
            self.penalty_coef = adapted_penalty(self.penalty_coef, moved, settings.penalty_target)

    def state_dict(self) -> dict[str, Any]:
        """Return everything."""
        return asdict(self) | {"scores": tuple(self.scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.kl_coef, self.penalty_coef = state["kl_coef"], state["penalty_coef"]
        self.scores = Moments(*state["scores"])
