"""The rewards of PPO: a preference model, your own function, or a weighted sum of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from cai.errors import CaiError
from cai.evaluate.style import ngrams, repeated_share
from cai.models.preference_model import PreferenceModel
from cai.ppo.prompts import PromptFormat, PromptLike, TokenPrompt
from cai.settings import PPOSettings

TextScorer = Callable[[Sequence[Any], Sequence[str]], Sequence[float]]
"""Gets the prompts as they were given and one response to each; returns one number for each."""


class TokenScorer(Protocol):
    """Scores token sequences, as `PreferenceModel` does."""

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return `(N,)` scores of N sequences, prompt and response, unpadded."""
        ...


Judge = PreferenceModel | Path
Scorer = TextScorer | TokenScorer
RewardLike = Scorer | str | Path | Mapping[str, Any]
"""A scorer, the folder of a preference model, or several of both by name, each alone or as a pair
with its weight: `{"preference": "run/preference/model", "brevity": (LengthPenalty(50), 0.5)}`."""


@dataclass(frozen=True)
class LengthPenalty:
    """0 up to `free` words, then minus the words above as a share of `free`."""

    free: int

    def __call__(self, _: Sequence[PromptLike], responses: Sequence[str]) -> list[float]:
        """Score each response: 0 or below."""
        return [-max(0, len(text.split()) - self.free) / self.free for text in responses]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Minus the share of a response's word n-grams that are repeated, in [-1, 0]."""

    n: int = 3

    def __call__(self, _: Sequence[PromptLike], responses: Sequence[str]) -> list[float]:
        """Score each response; one of fewer than `n` words repeats nothing."""
        return [-repeated_share(ngrams(text, self.n)) for text in responses]


def named_scorers(reward: RewardLike) -> dict[str, tuple[Any, float]]:
    """Return scorers and weights by name; raise a CaiError if there are none."""
    named = reward if isinstance(reward, Mapping) else {_name(reward): reward}
    if not named:
        raise CaiError("The reward of PPO is an empty mapping. Give at least one scorer.")
    scorers: dict[str, tuple[Any, float]] = {}
    for name, value in named.items():
        scorer, weight = cast("Any", value if isinstance(value, tuple) else (value, 1.0))
        if not (isinstance(scorer, str | Path) or _is_token_scorer(scorer) or callable(scorer)):
            raise CaiError(
                f"The reward `{name}` is a {type(scorer).__name__}. Give the folder of a "
                "preference model, a PreferenceModel, or a function of (prompts, responses)."
            )
        scorers[name] = (scorer, float(weight))
    return scorers


def with_penalties(
    scorers: Mapping[str, tuple[Any, float]], settings: PPOSettings
) -> dict[str, tuple[Any, float]]:
    """Add the penalties of the settings; raise a CaiError if a name is used twice."""
    scorers = dict(scorers)
    for name, scorer, weight in (
        ("length", LengthPenalty(settings.length_free), settings.length_penalty),
        ("repetition", RepetitionPenalty(), settings.repetition_penalty),
    ):
        if weight and name in scorers:
            raise CaiError(
                f"`ppo.{name}_penalty` and the reward named `{name}` would share a name. Rename "
                "the reward, or set the penalty to 0."
            )
        if weight:
            scorers[name] = (scorer, weight)
    return scorers


class Reward:
    """A weighted sum of named scorers over sampled responses."""

    def __init__(
        self, scorers: Mapping[str, tuple[Scorer, float]], chat: PromptFormat | None = None
    ) -> None:
        """Take scorers with weights, by the name that their mean is logged under (`reward/NAME`).

        `chat` turns ids into the text that text scorers read; token scorers need none.
        """
        self.scorers = dict(scorers)
        self._chat = chat

    def parts(
        self, prompts: Sequence[TokenPrompt], responses: Sequence[Sequence[int]]
    ) -> dict[str, Tensor]:
        """Return each scorer's scores, not weighted, `(N,)` float32 on the CPU.

        Raises:
            CaiError: A scorer returns anything but one finite number for each response.
        """
        if not responses:
            return {name: torch.zeros(0) for name in self.scorers}
        texts: list[str] = []
        parts: dict[str, Tensor] = {}
        for name, (scorer, _) in self.scorers.items():
            if _is_token_scorer(scorer):
                pairs = zip(prompts, responses, strict=True)
                whole = [[*prompt.ids, *response] for prompt, response in pairs]
                scores = cast("TokenScorer", scorer).score_ids(whole)
            else:
                if not texts and self._chat is not None:
                    texts = [self._chat.text(ids) for ids in responses]
                given = [prompt.given for prompt in prompts]
                scores = cast("TextScorer", scorer)(given, texts)
            parts[name] = _checked(name, scores, len(responses))
        return parts

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of `parts`, `(N,)`."""
        return torch.stack([self.scorers[name][1] * x for name, x in parts.items()]).sum(dim=0)


def preference_models(scorers: Mapping[str, tuple[Any, float]]) -> dict[str, Judge]:
    """Return the preference models among the scorers, loaded or as folders, heaviest first."""
    ranked = sorted(scorers.items(), key=lambda item: -abs(item[1][1]))
    return {
        name: scorer if isinstance(scorer, PreferenceModel) else Path(scorer)
        for name, (scorer, _) in ranked
        if isinstance(scorer, str | Path | PreferenceModel)
    }


def _checked(name: str, scores: Any, count: int) -> Tensor:  # noqa: ANN401 (a user's own result)
    try:
        scores_N = torch.as_tensor(scores, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CaiError(
            f"The reward `{name}` returned something other than numbers ({error}). It must return "
            "one float for each response."
        ) from error
    if scores_N.shape != (count,):
        raise CaiError(
            f"The reward `{name}` returned scores of shape {tuple(scores_N.shape)} for {count} "
            "responses. It must return one float for each response."
        )
    return scores_N


def _is_token_scorer(scorer: object) -> bool:
    return hasattr(scorer, "score_ids")


def _name(reward: object) -> str:
    if isinstance(reward, str | Path | PreferenceModel):
        return "preference"
    name = getattr(reward, "__name__", type(reward).__name__)
    return name if name.isidentifier() else "reward"
