"""The principles of a constitution as a reward: a feedback model judges sampled responses.

The questions, the log-probabilities of their options and the way to combine them are those of
`cai.compare`. All questions of a step are asked together, so that engines can share what is before
the principle.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

from cai.compare import (
    FORMS,
    FeedbackJudge,
    JudgementInputs,
    expected_grade,
    label_pair,
    preference,
)
from cai.constitution import Constitution, Principle
from cai.constitution.explain import did_you_mean
from cai.data.conversation import Conversation, user
from cai.data.records import JudgementRow, PairRow, Provenance, ResponseSample, content_hash
from cai.data.rows import Item, run_rows
from cai.engines import Engine
from cai.engines.opening import fingerprint_engine, open_engine
from cai.errors import CaiError
from cai.ppo.rewards import Samples, Score
from cai.settings import CompareSettings, LabelPolicy, ModelSettings, RewardSettings
from cai.templates import template_hash

logger = logging.getLogger(__name__)

T = TypeVar("T")
Two = tuple[int, int]

_NOWHERE = Provenance(model="", model_fingerprint="", template_hash="", sampling={}, seed=0)


class Feedback:
    """A feedback model that is opened at its first question, and the event loop of all of them."""

    def __init__(self, model: ModelSettings | Engine) -> None:
        """Take the settings of a model, or an engine that is open."""
        self.model = model
        self._engine: Engine | None = None if isinstance(model, ModelSettings) else model
        self._runner = asyncio.Runner()

    @property
    def fingerprint(self) -> str:
        """Names the weights; nothing is opened."""
        model = self.model
        return fingerprint_engine(model) if isinstance(model, ModelSettings) else model.fingerprint

    @property
    def engine(self) -> Engine:
        """The engine, opened if it is not."""
        if self._engine is None:
            assert isinstance(self.model, ModelSettings)
            self._engine = open_engine(self.model)
        return self._engine

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine until it ends."""
        return self._runner.run(work)

    def close(self) -> None:
        """Free the memory."""
        if self._engine is not None:
            self.run(self._engine.close())
        self._runner.close()


class PrincipleReward:
    """Scores responses by principles: a `GroupScorer`.

    With `form: comparison` or `ranking`, the score of a response is the mean of its log-odds of
    being better over all samples of the prompt, itself included (0): the difference of two scores
    is then their log-odds, where these agree with each other. With `rating` or `critique` it is
    the log-odds of its mean grade as a share of the scale; with two grades, those of the better
    one. Log-odds are averaged over principles by weight.

    A response that has no verdict under every principle (`refused`, `unparsed`, `too_long`,
    `failed`) has this state in place of a score, and no other response is compared with it.
    """

    def __init__(
        self,
        constitution: Constitution,
        feedback: Feedback | ModelSettings | Engine,
        settings: RewardSettings | None = None,
        *,
        seed: int = 0,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Choose the principles; nothing is opened.

        Args:
            constitution: With the principles and the worked examples.
            feedback: The model that is asked; `close` closes it.
            settings: How to ask.
            seed: Of chains of thought.
            ids: The principles to ask about; None for those of `settings.principles`.

        Raises:
            CaiError: A principle is not there, or has no text for this form.
        """
        self.settings = settings or RewardSettings()
        self.feedback = feedback if isinstance(feedback, Feedback) else Feedback(feedback)
        self.principles = principles_of(constitution, self.settings, ids)
        compare = CompareSettings(
            form=self.settings.form,
            reasoning=self.settings.reasoning,
            reasoning_tokens=self.settings.reasoning_tokens,
            few_shot=self.settings.few_shot,
        )
        self._constitution, self._seed, self._said = constitution, seed, set[str]()
        self._judge = FeedbackJudge(constitution, compare, seed)
        self._policy = LabelPolicy(
            ignore_within=self.settings.ignore_within,
            min_mass=self.settings.min_mass,
            clamp=(self.settings.clamp, 1 - self.settings.clamp),
        )

    def held_out(self) -> PrincipleReward | None:
        """Return the same with the principles of `settings.held_out`, for the guard."""
        if not self.settings.held_out:
            return None
        return PrincipleReward(
            self._constitution,
            self.feedback,
            self.settings,
            seed=self._seed,
            ids=self.settings.held_out,
        )

    def close(self) -> None:
        """Close the feedback model."""
        self.feedback.close()

    @property
    def identity(self) -> str:
        """A hash of all that determines the scores."""
        return content_hash(self.feedback.fingerprint, self.inputs())

    def inputs(self) -> dict[str, str]:
        """Return hashes of the texts that are asked with, by what they are."""
        form = FORMS[self.settings.form]
        return {
            "reward": content_hash(
                self.settings.model_dump(exclude={"concurrency", "principles", "held_out"}),
                template_hash(*form.templates(self._judge.settings)),
            ),
            "reward examples": content_hash(form.examples(self._judge)),
            **{
                f"principle {p.id}": f"{form.text_hash(p)}, weight {self._weight(p):g}"
                for p in self.principles
            },
        }

    def score_groups(self, groups: Sequence[Samples]) -> list[list[Score]]:
        """Return the score of each response, or the state of one that has none."""
        shown = [[*dict.fromkeys((*group.responses, *_other(group)))] for group in groups]
        rows = [self._rows(*pair) for pair in zip(groups, shown, strict=True)]
        judged = self._judged(row for found in rows for row in found.values())
        return [self._scores(*some, judged) for some in zip(groups, shown, rows, strict=True)]

    def _rows(self, group: Samples, texts: Sequence[str]) -> dict[tuple[int, ...], PairRow]:
        """Return the sets of different texts that are shown together, by their numbers."""
        every = range(len(texts))
        sets: Iterable[tuple[int, ...]] = [(number,) for number in every]
        if self.settings.form == "comparison":
            sets = combinations(every, 2)
        elif self.settings.form == "ranking":
            sets = [tuple(every)] if len(texts) > 1 else []
        given = group.prompt
        messages = user(given) if isinstance(given, str) else tuple(given)
        return {numbers: _row(messages, [texts[n] for n in numbers]) for numbers in sets}

    def _judged(self, rows: Iterable[PairRow]) -> dict[str, list[JudgementRow]]:
        """Ask about each row under each principle, all together; return them by the row's key."""
        different = {row.key: row for row in rows}
        if not different:
            return {}
        engine = self.feedback.engine
        items: list[Item[JudgementInputs]] = [
            self._judge.item(JudgementInputs(row, principle), engine)
            for row in different.values()
            for principle in self.principles
        ]
        make = partial(self._judge.row, engine=engine)
        work = run_rows(items, make, concurrency=self.settings.concurrency)
        judged: dict[str, list[JudgementRow]] = {key: [] for key in different}
        for judgement in self.feedback.run(work).rows:
            judged[judgement.pair].append(judgement)
            if judgement.state != "ok" and judgement.state not in self._said:
                self._said.add(judgement.state)
                logger.warning(
                    "A judgement of the reward, the first of its kind, ended as `%s`: %s",
                    judgement.state,
                    judgement.error,
                )
        return judged

    def _scores(
        self,
        group: Samples,
        texts: Sequence[str],
        rows: Mapping[tuple[int, ...], PairRow],
        judged: Mapping[str, list[JudgementRow]],
    ) -> list[Score]:
        of = [texts.index(text) for text in (*group.responses, *_other(group))]
        if not self.settings.compares:
            grades = [self._grade(judged[rows[number,].key]) for number in range(len(texts))]
            return [grades[number] for number in of[: len(group.responses)]]
        odds = {
            (numbers[i], numbers[j]): self._odds(row, judged[row.key], (i, j))
            for numbers, row in rows.items()
            for i, j in combinations(range(len(numbers)), 2)
        }
        scores = relative_scores(odds, of)
        if group.against is None:
            return scores
        ours, theirs = scores
        return [ours if isinstance(ours, str) or isinstance(theirs, str) else ours - theirs]

    def _odds(self, row: PairRow, judgements: Sequence[JudgementRow], two: Two) -> Score:
        """Return the log-odds that the first of two different texts is better, or a state."""
        verdicts = [preference(judgement, self._policy, two) for judgement in judgements]
        if state := _failure(judgements, verdicts):
            return state
        weights = {p.id: self._weight(p) for p in self.principles}
        label = label_pair(row, judgements, weights=weights, policy=self._policy, two=two).label
        # No label: no principle prefers either.
        return 0.0 if label is None else _log_odds(label)

    def _grade(self, judgements: Sequence[JudgementRow]) -> Score:
        """Return the score of a text that was shown alone, or a state."""
        grades = [expected_grade(judgement, 0, self._policy) for judgement in judgements]
        if state := _failure(judgements, grades):
            return state
        low, high = self._policy.clamp
        weights = [self._weight(principle) for principle in self.principles]
        total = 0.0
        for judgement, grade, weight in zip(judgements, grades, weights, strict=True):
            assert grade is not None
            share = (grade - 1) / (len(judgement.evidence[0].logprobs) - 1)
            total += weight * _log_odds(min(max(share, low), high))
        return total / sum(weights)

    def _weight(self, principle: Principle) -> float:
        return self.settings.weights.get(principle.id, principle.weight)


def principles_of(
    constitution: Constitution, settings: RewardSettings, ids: Sequence[str] | None = None
) -> tuple[Principle, ...]:
    """Return the principles with these ids, or those that `settings.principles` asks about.

    Raises:
        CaiError: One that the settings name is not there, or has no text for the form.
    """
    form = FORMS[settings.form]
    fitting = {principle.id: principle for principle in form.principles(constitution)}
    chosen = settings.principles if ids is None else ids
    named = {
        **dict.fromkeys(settings.weights, "weights"),
        **dict.fromkeys(settings.held_out, "held_out"),
        **(
            {} if settings.principles == "all" else dict.fromkeys(settings.principles, "principles")
        ),
    }
    for name, key in named.items():
        if name not in fitting:
            raise CaiError(
                f"`ppo.reward.{key}` names `{name}`, and the constitution {constitution.name} has "
                f"no such principle with `{form.half}`, {did_you_mean(name, list(fitting))}"
            )
    if chosen == "all":
        chosen = [name for name in fitting if name not in settings.held_out]
    if not chosen:
        raise CaiError(
            f"`ppo.reward` has no principle to ask about: the constitution {constitution.name} has "
            f"none with `{form.half}` outside `held_out`. Add one, or use another `form`."
        )
    return tuple(fitting[name] for name in chosen)


def relative_scores(odds: Mapping[Two, Score], of: Sequence[int]) -> list[Score]:
    """Return the score of each sample, from log-odds between different texts.

    `s_i = Σ_j l_ij / n` over the n samples, with l_ij = 0 for the same text. If l_ij = b_i - b_j
    for some b, then s_i - s_j = l_ij, and the scores sum to 0. A single sample has the score 0.

    Where two texts have a state and no log-odds, the one of them that more comparisons have failed
    with is left out, or both; so until none is left.

    Args:
        odds: By numbers of texts i < j, log-odds that i is better, or a state.
        of: The text of each sample.

    Returns:
        Scores; for a sample that is left out, the state of one of its comparisons.
    """
    left, lost = {*of}, dict[int, str]()
    while failed := [two for two, x in odds.items() if isinstance(x, str) and {*two} <= left]:
        counts = Counter(number for two in failed for number in two)
        most = max(counts.values())
        for number in [number for number, count in counts.items() if count == most]:
            left.discard(number)
            lost[number] = str(next(odds[two] for two in failed if number in two))
    used = [number for number in of if number in left]
    if len(used) == 1 and lost:
        lost[used.pop()] = next(iter(lost.values()))

    def beats(i: int, j: int) -> float:
        if i == j:
            return 0.0
        found = odds[i, j] if i < j else odds[j, i]
        assert isinstance(found, float)
        return found if i < j else -found

    return [lost[i] if i in lost else sum(beats(i, j) for j in used) / len(used) for i in of]


def _other(group: Samples) -> Iterator[str]:
    if group.against is not None:
        yield group.against


def _row(messages: Conversation, texts: Sequence[str]) -> PairRow:
    return PairRow(
        key=content_hash("reward", messages, texts),
        kind="red_team",
        messages=messages,
        task="",
        responses=tuple(ResponseSample(text=text, model="policy", ended=True) for text in texts),
        provenance=_NOWHERE,
    )


def _failure(judgements: Sequence[JudgementRow], verdicts: Sequence[float | None]) -> str | None:
    """Return the state of the first judgement that has no verdict; None if all have one."""
    for judgement, verdict in zip(judgements, verdicts, strict=True):
        if judgement.state != "ok" or verdict is None:
            return "unparsed" if judgement.state == "ok" else judgement.state
    return None


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
