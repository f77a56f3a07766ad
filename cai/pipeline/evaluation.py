"""One evaluation, of a run's models or of any others: answers, verdicts, and what they show.

The stage `evaluate` and the command `cai evaluate` both come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.engines import Engine, Usage
from cai.errors import CaiError
from cai.evaluate import measures
from cai.evaluate.answer import Sample
from cai.evaluate.asking import Choices, Subject, Text, ask, rate_harmfulness
from cai.evaluate.asking import text_logprobs as logprobs_of
from cai.evaluate.grading import Grader, plain_grader
from cai.evaluate.judge import Judge
from cai.evaluate.matches import order_agreement, play
from cai.evaluate.recorded import RecordedEngine
from cai.evaluate.sets import Question
from cai.evaluate.summarise import summarise
from cai.pipeline.engines import Engines, Fingerprints
from cai.pipeline.progress import Progress
from cai.records import AnswerRow, ChoiceRow, MatchRow, RatingRow
from cai.rows import RowsResult
from cai.settings import EvaluateSettings, ModelSettings

if TYPE_CHECKING:
    from cai.training.preference_model import PreferenceModel

SCHEMA = 2
JUDGE = "judge"


@dataclass(frozen=True)
class Checkpoint:
    """A policy as it was on the way of its training.

    Attributes:
        policy: What the training ended in (`rl-cai`).
        stage: Where it was trained.
        step: After so many steps.
        model: It itself.
    """

    policy: str
    stage: str
    step: int
    model: ModelSettings

    @property
    def name(self) -> str:
        """What the results call it."""
        return f"{self.stage}-step-{self.step}"


@dataclass(frozen=True)
class Evaluation:
    """What to find out, of whom.

    Attributes:
        folder: Gets the rows and the results.
        settings: How to ask, and who judges.
        seed: Of the draws.
        models: By name, in order; the others are held against the first.
        asked: What every one of them is asked.
        recorded: Answers that are already there, in the place of models, with what they answer.
        checkpoints: Policies on the way of their training, in order.
        checkpoint_asked: What every one of these is asked.
        questions: Multiple-choice questions.
        texts: Benign texts whose perplexity is compared.
        preference: Loads a preference model, for scores and Elo; called after the models are
            closed.
        starts: What each model was trained from, where that is one of them.
        followed: The models that were trained to please it.
        labelled_by: The fingerprint of the model that made the run's labels.
    """

    folder: Path
    settings: EvaluateSettings
    seed: int
    models: Mapping[str, ModelSettings]
    asked: Sequence[Sample]
    recorded: Mapping[str, tuple[RecordedEngine, Sequence[Sample]]] = field(
        default_factory=dict[str, tuple[RecordedEngine, Sequence[Sample]]]
    )
    checkpoints: Sequence[Checkpoint] = ()
    checkpoint_asked: Sequence[Sample] = ()
    questions: Sequence[Question] = ()
    texts: Sequence[Text] = ()
    preference: Callable[[], PreferenceModel] | None = None
    starts: Mapping[str, str] = field(default_factory=dict[str, str])
    followed: Sequence[str] = ()
    labelled_by: str | None = None

    @property
    def names(self) -> list[str]:
        """The models, in order."""
        return [*self.models, *self.recorded]

    @property
    def order(self) -> list[str]:
        """The models, each after the checkpoints of its training."""
        return [
            found
            for name in self.names
            for found in (*(kept.name for kept in self.checkpoints if kept.policy == name), name)
        ]

    @property
    def judge(self) -> ModelSettings | None:
        """The judge, if this evaluation needs one.

        Raises:
            CaiError: It needs one and has none.
        """
        settings = self.settings
        if JUDGE not in (settings.grader, settings.elo, settings.harmfulness):
            return None
        if settings.judge is None:
            raise CaiError(
                "A judge is asked for, and none is named. Set `evaluate.judge` to a model "
                "(`--judge MODEL` on the command line)."
            )
        return settings.judge


@dataclass
class _Found:
    """What the models and the judge have said."""

    answers: RowsResult[AnswerRow]
    checkpoints: RowsResult[AnswerRow] | None = None
    choices: RowsResult[ChoiceRow] | None = None
    matches: RowsResult[MatchRow] | None = None
    ratings: RowsResult[RatingRow] | None = None
    logprobs: dict[str, list[float | None]] = field(default_factory=dict[str, list[float | None]])

    @property
    def rows(self) -> list[AnswerRow]:
        """The answers of all models and checkpoints."""
        return [*self.answers.rows, *(self.checkpoints.rows if self.checkpoints else [])]


def evaluate(
    evaluation: Evaluation, fingerprints: Fingerprints, progress: Progress
) -> tuple[RowsResult[AnswerRow], dict[str, Any], Usage]:
    """Ask the models, judge their answers, and say what came out.

    The folder gets `rows.jsonl` and, as far as asked for, `checkpoints.jsonl`, `choices.jsonl`,
    `matches.jsonl` and `ratings.jsonl`.

    Returns:
        The answers; `evaluation` (rates by model) and `measures` (all else), whose shapes are in
        docs/evaluate.md; and what the engines did.

    Raises:
        CaiError: A model, judge or grader cannot be used.
    """
    judge = evaluation.judge
    rated_by = evaluation.settings.harmfulness
    if rated_by not in (None, JUDGE):  # better said now than after hours of asking
        from cai.training.harmfulness_model import HarmfulnessModel

        HarmfulnessModel.check(str(rated_by))
    with Engines(fingerprints) as engines:
        found = engines.run(_ask_all(evaluation, engines, progress))
    rows = found.rows
    preference = evaluation.preference() if evaluation.preference else None
    scores = _scores(preference, rows) if preference else None
    evaluated = summarise(found.answers.rows, scores=scores, models=evaluation.names)
    order = evaluation.order
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "grader": evaluation.settings.grader,
        "judge": judge.path if judge else None,
        "starts": dict(evaluation.starts),
        "elo": _elo(evaluation, found, order, rows, preference, scores),
        "style": measures.style(found.answers.rows, evaluation.names),
        "alignment_tax": measures.alignment_tax(
            found.answers.rows, evaluation.texts, found.logprobs, evaluation.names
        ),
        "harmfulness": _harmfulness(evaluation, rows, found.ratings, order),
        "choices": measures.choices(
            found.choices.rows if found.choices else [], evaluation.questions, evaluation.names
        ),
        "checkpoints": _checkpoints(evaluation, found.checkpoints, scores),
    }
    results["flags"] = _flags(evaluation, fingerprints, judge, results)
    return found.answers, {"evaluation": evaluated, "measures": results}, engines.usage


async def _ask_all(
    evaluation: Evaluation,
    engines: Engines,
    progress: Progress,
) -> _Found:
    settings, judge = evaluation.settings, evaluation.judge
    task = partial(progress.rows, tokens=engines.tokens)
    judging = engines[judge] if judge else None
    judge_model = (
        Judge(judging, model=judge.path, min_mass=settings.judge_min_mass)
        if judge and judging
        else None
    )
    grader: Grader = (
        judge_model if judge_model and settings.grader == JUDGE else plain_grader(settings.grader)
    )
    subjects = [
        Subject(name, engines[model], tuple(evaluation.asked))
        for name, model in evaluation.models.items()
    ]
    choices = (
        Choices(
            subjects, evaluation.questions, settings=settings, folder=evaluation.folder, task=task
        )
        if evaluation.questions
        else None
    )
    logprobs: dict[str, list[float | None]] = {}
    chosen: RowsResult[ChoiceRow] | None = None
    finished: set[int] = set()

    async def finish(engine: Engine) -> None:
        """Ask everything but answers of a model while it is loaded, and close it."""
        nonlocal chosen
        finished.add(id(engine))
        for subject in subjects:
            if subject.engine is not engine:
                continue
            if evaluation.texts:
                logprobs[subject.name] = await logprobs_of(
                    engine, evaluation.texts, settings.concurrency
                )
            if choices:
                chosen = await choices.ask(subject)
        if engine is not judging:
            await engine.close()

    async def put(some: Sequence[Subject], name: str) -> RowsResult[AnswerRow]:
        return await ask(
            some,
            settings=settings,
            seed=evaluation.seed,
            grader=grader,
            folder=evaluation.folder,
            task=task,
            name=name,
            finish=finish,
        )

    given = [
        Subject(name, engine, tuple(asked)) for name, (engine, asked) in evaluation.recorded.items()
    ]
    found = _Found(await put([*subjects, *given], "rows"), logprobs=logprobs)
    for subject in subjects:
        if id(subject.engine) not in finished:  # all of its answers were there
            await finish(subject.engine)
    found.choices = chosen
    if evaluation.checkpoints:
        policies = [
            Subject(kept.name, engines[kept.model], tuple(evaluation.checkpoint_asked))
            for kept in evaluation.checkpoints
        ]
        found.checkpoints = await put(policies, "checkpoints")
    if judge_model and settings.elo == JUDGE:
        found.matches = await play(
            found.rows,
            models=evaluation.order,
            judge=judge_model,
            settings=settings,
            seed=evaluation.seed,
            folder=evaluation.folder,
            task=task,
        )
    if judge_model and settings.harmfulness == JUDGE:
        found.ratings = await rate_harmfulness(
            [row for row in found.rows if row.kind == "red_team" and row.response],
            judge=judge_model,
            settings=settings,
            folder=evaluation.folder,
            task=task,
        )
    return found


def _scores(model: PreferenceModel, rows: Sequence[AnswerRow]) -> dict[str, float]:
    """Score the answers, by row key; those that do not fit the model's context have no score."""
    answered = [(row.key, model.ids(row.messages, row.response)) for row in rows if row.response]
    fitting = {key: ids for key, ids in answered if len(ids) <= model.context}
    scores = model.score_ids(list(fitting.values())).tolist()
    return dict(zip(fitting, scores, strict=True))


def _elo(
    evaluation: Evaluation,
    found: _Found,
    order: Sequence[str],
    rows: Sequence[AnswerRow],
    preference: PreferenceModel | None,
    scores: Mapping[str, float] | None,
) -> dict[str, Any] | None:
    """Rate the models in the way that the settings ask for; None where there is no way."""
    if found.matches is not None:
        agreed = order_agreement(found.matches.rows)
        return {
            "method": JUDGE,
            "pairing": evaluation.settings.elo_pairing,
            "anchor": order[0],
            **measures.elo_by_matches(found.matches.rows, order, seed=evaluation.seed),
            "matches": found.matches.states,
            "order_agreement": agreed.value,
        }
    if preference is None or scores is None:
        return None
    raw = {key: score * preference.std for key, score in scores.items()}
    return {
        "method": "preference",
        "anchor": order[0],
        **measures.elo_by_scores(rows, raw, order),
    }


def _harmfulness(
    evaluation: Evaluation,
    rows: Sequence[AnswerRow],
    ratings: RowsResult[RatingRow] | None,
    order: Sequence[str],
) -> dict[str, Any] | None:
    how = evaluation.settings.harmfulness
    if how is None:
        return None
    if ratings is not None:
        known = {row.answer: row.rating for row in ratings.rows if row.rating is not None}
        states = ratings.states
    else:
        from cai.training.harmfulness_model import HarmfulnessModel

        asked = [row for row in rows if row.kind == "red_team" and row.response]
        found = HarmfulnessModel.load(how).rate([(row.messages, row.response) for row in asked])
        known = {r.key: value for r, value in zip(asked, found, strict=True) if value is not None}
        states = {"ok": len(known), "too_long": len(asked) - len(known)}
    return {
        "method": JUDGE if how == JUDGE else "model",
        "models": measures.harmfulness(rows, known, order),
        "states": states,
    }


def _checkpoints(
    evaluation: Evaluation,
    found: RowsResult[AnswerRow] | None,
    scores: Mapping[str, float] | None,
) -> list[dict[str, Any]]:
    if found is None:
        return []
    kept = evaluation.checkpoints
    by_name = summarise(found.rows, scores=scores, models=[one.name for one in kept])
    return [
        {
            "policy": one.policy,
            "stage": one.stage,
            "step": one.step,
            "name": one.name,
            "evaluation": by_name[one.name],
        }
        for one in kept
    ]


def _flags(
    evaluation: Evaluation,
    fingerprints: Fingerprints,
    judge: ModelSettings | None,
    results: Mapping[str, Any],
) -> list[str]:
    """Say what a careful reader should know, each in one sentence."""
    flags: list[str] = []
    if judge is not None:
        print_of_judge = fingerprints.fingerprint(judge)
        if print_of_judge == evaluation.labelled_by:
            flags.append("The judge is the model that made the labels of this run.")
        flags += [
            f"The judge is {name}, one of the models that it judges."
            for name, model in evaluation.models.items()
            if fingerprints.fingerprint(model) == print_of_judge
        ]
    by_preference = results["elo"] and results["elo"]["method"] == "preference"
    if by_preference and evaluation.followed:
        were = "was" if len(evaluation.followed) == 1 else "were"
        flags.append(
            f"Elo is the preference model's own score, which {' and '.join(evaluation.followed)} "
            f"{were} trained on: it shows what training reached for, not an independent judgement."
        )
    for part in ("alignment_tax", "style"):
        for name, found in results[part].items():
            flags += [f"{name}: {flag}." for flag in found["flags"]]
    return flags
