"""The rewards of PPO: a preference model, principles, your own function, or a weighted sum.

A scorer that cannot score a response gives None or says why in a word (`refused`). This is a state:
the episode is left out of the update and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from cai.data.states import ADVICE
from cai.errors import CaiError
from cai.evaluate.style import ngrams, repeated_share
from cai.models.preference_model import PreferenceModel
from cai.ppo.prompts import PromptFormat, PromptLike, TokenPrompt
from cai.settings import PPOSettings

Score = float | str
"""A number, or the state of a response that has none."""
UNSCORED = "unscored"
"""The state that None stands for."""
STATES = frozenset({UNSCORED, *ADVICE})

TextScorer = Callable[[Sequence[Any], Sequence[str]], Sequence[float | str | None]]
"""Gets the prompts as they were given and one response to each; returns one number for each, or
None or a state where it has none."""


class TokenScorer(Protocol):
    """Scores token sequences, as `PreferenceModel` does."""

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return `(N,)` scores of N sequences, prompt and response, unpadded."""
        ...


class Samples(NamedTuple):
    """Responses to one prompt."""

    prompt: Any
    """As it was given: a text or messages."""
    responses: tuple[str, ...]
    against: str | None = None
    """Where one response is scored alone: the one that it is compared with."""


class GroupScorer(Protocol):
    """Scores the samples of a prompt beside each other."""

    def score_groups(self, groups: Sequence[Samples]) -> Sequence[Sequence[float | str | None]]:
        """Return the scores of each group, in the order of its responses."""
        ...


Judge = PreferenceModel | Path
Scorer = TextScorer | TokenScorer | GroupScorer
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
        known = _is_token_scorer(scorer) or _is_group_scorer(scorer) or callable(scorer)
        if not (isinstance(scorer, str | Path) or known):
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

    def scores(
        self,
        prompts: Sequence[TokenPrompt],
        responses: Sequence[Sequence[int]],
        *,
        groups: Sequence[int] | None = None,
        against: Sequence[str] | None = None,
    ) -> dict[str, list[Score]]:
        """Return what each scorer says of each response, not weighted.

        Args:
            prompts: One for each response.
            responses: Their ids.
            groups: How many neighbours answer the same prompt, one number for each prompt; None:
                one each.
            against: For each response the text that group scorers compare it with; None: with the
                others of its group.

        Raises:
            CaiError: A scorer returns anything but a number, a state or None for each response.
        """
        if not responses:
            return {name: [] for name in self.scorers}
        texts: list[str] = []
        found: dict[str, list[Score]] = {}
        for name, (scorer, _) in self.scorers.items():
            if _is_token_scorer(scorer):
                pairs = zip(prompts, responses, strict=True)
                whole = [[*prompt.ids, *response] for prompt, response in pairs]
                said: Any = cast("TokenScorer", scorer).score_ids(whole)
            else:
                if not texts and self._chat is not None:
                    texts = [self._chat.text(ids) for ids in responses]
                given = [prompt.given for prompt in prompts]
                if _is_group_scorer(scorer):
                    grouped = _grouped(given, texts, groups or [1] * len(texts), against)
                    said = [*chain(*cast("GroupScorer", scorer).score_groups(grouped))]
                else:
                    said = cast("TextScorer", scorer)(given, texts)
            found[name] = _checked(name, said, len(responses))
        return found

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of each scorer's scores, `(N,)`; NaN where one has none."""
        return torch.stack([self.scorers[name][1] * x for name, x in parts.items()]).sum(dim=0)


def preference_models(scorers: Mapping[str, tuple[Any, float]]) -> dict[str, Judge]:
    """Return the preference models among the scorers, loaded or as folders, heaviest first."""
    ranked = sorted(scorers.items(), key=lambda item: -abs(item[1][1]))
    return {
        name: scorer if isinstance(scorer, PreferenceModel) else Path(scorer)
        for name, (scorer, _) in ranked
        if isinstance(scorer, str | Path | PreferenceModel)
    }


def _grouped(
    given: Sequence[Any],
    texts: Sequence[str],
    sizes: Sequence[int],
    against: Sequence[str] | None,
) -> list[Samples]:
    """Put the neighbours that answer the same prompt together."""
    if against is not None:
        trios = zip(given, texts, against, strict=True)
        return [Samples(prompt, (text,), other) for prompt, text, other in trios]
    rows = iter(zip(given, texts, strict=True))
    parts = [list(islice(rows, size)) for size in sizes]
    return [Samples(part[0][0], tuple(text for _, text in part)) for part in parts]


def _checked(name: str, scores: Any, count: int) -> list[Score]:  # noqa: ANN401 (a user's own result)
    """Return the scores as numbers and states, one for each of `count` responses."""
    if isinstance(scores, Tensor):
        scores = scores.tolist() if scores.dim() == 1 else [scores]
    try:
        found = [_score(score) for score in scores]
    except (TypeError, ValueError, RuntimeError) as error:
        raise CaiError(
            f"The reward `{name}` returned something other than numbers ({error}). It must return "
            "one float for each response, or None where it has no score."
        ) from error
    if len(found) != count:
        raise CaiError(
            f"The reward `{name}` returned {len(found)} scores for {count} responses. It must "
            "return one float for each response."
        )
    return found


def _score(score: Any) -> Score:  # noqa: ANN401
    if score is None:
        return UNSCORED
    return score if score in STATES else float(score)


def _is_token_scorer(scorer: object) -> bool:
    return hasattr(scorer, "score_ids")


def _is_group_scorer(scorer: object) -> bool:
    return hasattr(scorer, "score_groups")


def _name(reward: object) -> str:
    if isinstance(reward, str | Path | PreferenceModel):
        return "preference"
    name = getattr(reward, "__name__", type(reward).__name__)
    return name if name.isidentifier() else "reward"
