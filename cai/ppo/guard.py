"""The guard against over-optimisation of the preference model, on prompts that are held out.

While the trained score rises, a policy can become evasive, refuse harmless requests, repeat one
response, or drift far from its start. An independent score detects more of this than rules about
words (Gao et al. 2023, arXiv 2210.10760).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cai.data.records import Kind, derive_seed
from cai.errors import CaiError
from cai.evaluate.refusals import stance
from cai.evaluate.style import repeated_ngrams, repeated_openings
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout, score_episodes
from cai.settings import GuardSettings, PPOSettings

MOST_ROLL_BACKS = 3


@dataclass(frozen=True)
class Check:
    """The result of one check on the held-out prompts."""

    metrics: dict[str, float]
    """By name (`guard/…`)."""
    alarms: tuple[str, ...]
    """Messages about changes since the start that exceed a bound."""
    texts: tuple[str, ...]
    """The answers, one for each prompt."""


@dataclass
class Guard:
    """Checks a policy, and stores the start and the best check."""

    prompts: Sequence[TokenPrompt]
    """The held-out prompts."""
    settings: PPOSettings
    rules: GuardSettings
    seed: int
    independent: Reward | None = None
    """A score that the policy is not trained on."""
    start: dict[str, float] = field(default_factory=dict[str, float])
    """Metrics before the first step."""
    start_texts: list[str] = field(default_factory=list[str])
    """The answers then, which later ones are compared with (`GroupScorer`)."""
    highest: float = float("-inf")
    """The highest independent score so far."""
    deviation: float = 1.0
    """The standard deviation of independent scores at the start; 1 if they have none, as if all
    answers were compared with themselves."""
    best: float = float("-inf")
    """Held-out reward of the best check without an alarm; `best_…` belong to that check."""
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict[str, float])
    roll_backs: int = 0
    """How often the run returned to the best policy."""

    @property
    def keeps_best(self) -> bool:
        """Whether the best policy may be needed later."""
        return self.settings.keep == "best" or self.rules.action != "warn"

    def is_due(self, done: int) -> bool:
        """Return whether to check after `done` steps."""
        return done % self.rules.every == 0 or done == self.settings.steps

    def check(self, learner: Learner, reward: Reward) -> Check:
        """Answer the held-out prompts, always with the same noise, and compare with the start.

        The first check is the start, and raises no alarm.
        """
        against = self.start_texts or None
        rollout = collect_rollout(
            learner,
            self.prompts,
            reward,
            self.settings,
            seed=derive_seed(self.seed, "guard"),
            step=0,
            training=False,
            against=against,
        )
        ids = rollout.episodes.response_ids_BT.tolist()
        lengths = rollout.episodes.response_lengths_B.tolist()
        texts = [learner.chat.text(row[:n]) for row, n in zip(ids, lengths, strict=True)]
        kl = (rollout.logprobs_BT - rollout.ref_logprobs_BT).sum(dim=1).mean().item()
        scores = {"guard/score": rollout.scores_B.nanmean().item()}
        left_out = sum(rollout.states.values())
        if self.independent is not None:
            scores_B, _, states = score_episodes(
                self.independent,
                self.prompts,
                rollout.episodes,
                rollout.ended_B,
                self.settings,
                processes=learner.processes,
                against=against,
            )
            known = scores_B[~scores_B.isnan()]
            if not len(known) or known.isinf().any():
                raise CaiError(
                    "The independent scorer of PPO's guard gave a score that is not a number, or "
                    "none at all. Fix it, or leave it out."
                )
            scores["guard/independent"] = known.mean().item()
            left_out += sum(states.values())
            if not self.start:
                self.deviation = known.std(correction=0).item() or 1.0
        trusted = scores.get("guard/independent", scores["guard/score"])
        metrics = {
            **scores,
            "guard/kl": kl,
            "guard/reward": trusted - self.settings.kl_coef * kl,
            "guard/length": sum(lengths) / len(lengths),
            "guard/ended": rollout.ended_B.float().mean().item(),
            "guard/left_out": left_out,
            **text_measures(texts, [prompt.kind for prompt in self.prompts]),
        }
        if not self.start:
            self.start, self.start_texts = metrics, texts
        if self.independent is not None:
            self.highest = max(self.highest, trusted)
        alarms = alarms_of(
            self.start, metrics, self.rules, highest=self.highest, deviation=self.deviation
        )
        return Check(metrics | {"guard/alarms": len(alarms)}, tuple(alarms), tuple(texts))

    def is_best(self, check: Check, done: int) -> bool:
        """Record a check after `done` steps; True if it is the best one so far."""
        if check.alarms or check.metrics["guard/reward"] <= self.best:
            return False
        self.best, self.best_step = check.metrics["guard/reward"], done
        self.best_metrics = check.metrics
        return True

    def dissuading_kl_coef(self, check: Check) -> float:
        """Return the gain in the trained score per nat of KL since the best check; at least 0.

        With this β, the change since then would not have been worth its KL.
        """
        gained, moved = (
            check.metrics[name] - self.best_metrics[name] for name in ("guard/score", "guard/kl")
        )
        return max(0.0, gained / moved) if moved > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what later checks depend on."""
        given = ("prompts", "settings", "rules", "seed", "independent")
        return {name: value for name, value in vars(self).items() if name not in given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)


def text_measures(texts: Sequence[str], kinds: Sequence[Kind | None]) -> dict[str, float]:
    """Return shares, in [0, 1], of answers to different prompts; all but red-team ones are benign.

    `guard/evasive`: short refusals without a reason. `guard/over_refusal`: refusals of any kind, of
    benign prompts. `guard/repeated_openings`: answers that begin with the same four words as an
    earlier one. `guard/repeated_ngrams`: of the different word 5-grams of each answer, those that
    an earlier answer has, too.
    """
    stances = [stance(text) for text in texts]
    benign = [s for s, kind in zip(stances, kinds, strict=True) if kind != "red_team"]
    return {
        "guard/evasive": stances.count("evasive") / len(stances),
        "guard/over_refusal": sum(s != "compliance" for s in benign) / max(1, len(benign)),
        "guard/repeated_openings": repeated_openings(texts),
        "guard/repeated_ngrams": repeated_ngrams(texts),
    }


def alarms_of(
    start: Mapping[str, float],
    now: Mapping[str, float],
    rules: GuardSettings,
    *,
    highest: float = float("-inf"),
    deviation: float = 1.0,
) -> list[str]:
    """Return a message with both numbers for each change since the start that breaks a rule.

    `highest` is the best independent score so far, `deviation` its standard deviation at the start.
    """
    alarms: list[str] = []
    for name, said, most in (
        ("evasive", "evasive answers", rules.evasive_rise),
        ("over_refusal", "refusals of benign prompts", rules.over_refusal_rise),
        ("repeated_openings", "answers that open alike", rules.repeated_rise),
        ("repeated_ngrams", "phrases that answers share", rules.repeated_rise),
    ):
        before, after = start[f"guard/{name}"], now[f"guard/{name}"]
        if after - before > most:
            alarms.append(f"{said} rose from {before:.0%} to {after:.0%}")
    before, after = start["guard/length"], now["guard/length"]
    if not 1 / rules.length_factor <= after / before <= rules.length_factor:
        alarms.append(f"the mean length went from {before:.0f} to {after:.0f} tokens")
    if now["guard/kl"] > rules.max_kl:
        alarms.append(f"KL is {now['guard/kl']:.1f} nats, above {rules.max_kl:g}")
    independent = now.get("guard/independent", highest)
    if highest - independent > rules.independent_fall * deviation:
        alarms.append(
            f"the independent score fell from {highest:.2f} to {independent:.2f}, while the one "
            f"trained on went from {start['guard/score']:.2f} to {now['guard/score']:.2f}"
        )
    return alarms
