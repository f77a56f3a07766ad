"""One evaluation, of a run's models or of any others: answers, verdicts and results.

The stage `evaluate` and the command `cai evaluate` both use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cai.data.records import AnswerRow, MatchRow, RatingRow
from cai.data.rows import RowsResult, Task
from cai.data.store import RowStore
from cai.engines import Usage
from cai.errors import CaiError
from cai.evaluate import measures
from cai.evaluate.answer import Sample
from cai.evaluate.asking import Asked, Asker, Subject
from cai.evaluate.choices import choices
from cai.evaluate.grading import plain_grader
from cai.evaluate.judge import AnswerJudge
from cai.evaluate.matches import order_agreement, play
from cai.evaluate.questions import ChoiceQuestion
from cai.evaluate.ratings import rate_answers, rateable
from cai.evaluate.recorded import RecordedEngine
from cai.evaluate.results import SCHEMA, CheckpointSummary, Elo, Harmfulness, Measures, Results
from cai.evaluate.summarise import summarise
from cai.evaluate.texts import BenignText
from cai.pipeline.engines import Engines, Fingerprint
from cai.pipeline.progress import Progress
from cai.settings import EvaluateSettings, ModelSettings

if TYPE_CHECKING:
    from cai.models.preference_model import PreferenceModel

JUDGE: Final = "judge"
ROWS, CHECKPOINTS = "rows", "checkpoints"
"""The files of answers: of the models, and of a run's checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """The model after some steps of the training, in a stage, that ends in `policy` (`rl-cai`)."""

    policy: str
    stage: str
    step: int
    model: ModelSettings

    @property
    def name(self) -> str:
        """Its name in the results."""
        return f"{self.stage}-step-{self.step}"


@dataclass(frozen=True)
class Evaluation:
    """The plan of an evaluation.

    Attributes:
        folder: The folder for the rows and the results.
        settings: Sampling, and the judge.
        seed: Of the draws.
        models: By name, in order; the others are compared with the first.
        asked: The prompts for each model.
        recorded: Recorded answers with their prompts, used instead of models.
        checkpoints: Checkpoints of policies, in order.
        checkpoint_asked: The prompts for each checkpoint.
        questions: Multiple-choice questions.
        texts: Benign texts whose perplexity is compared.
        preference: Loads a preference model, for scores and Elo; called after the models are
            closed.
        starts: The model that each model was trained from, if it is one of them.
        followed: The models that were trained on the preference model's score.
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
    questions: Sequence[ChoiceQuestion] = ()
    texts: Sequence[BenignText] = ()
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
                "The evaluation needs a judge, and none is set. Set `evaluate.judge` to a model "
                "(`--judge MODEL` on the command line)."
            )
        return settings.judge


def preference_loader(folder: Path) -> Callable[[], PreferenceModel]:
    """Return a function that loads a preference model, once."""

    @cache
    def load() -> PreferenceModel:
        from cai.models.preference_model import PreferenceModel

        return PreferenceModel.load(folder)

    return load


@dataclass
class _Found:
    """The results of asking the models and the judge."""

    asked: Asked
    matches: RowsResult[MatchRow] | None = None
    ratings: RowsResult[RatingRow] | None = None

    @property
    def checkpoints(self) -> list[AnswerRow]:
        result = self.asked.answers.get(CHECKPOINTS)
        return result.rows if result else []

    @property
    def rows(self) -> list[AnswerRow]:
        return [*self.asked.answers[ROWS].rows, *self.checkpoints]


def evaluate(
    evaluation: Evaluation, fingerprint: Fingerprint, progress: Progress
) -> tuple[RowsResult[AnswerRow], Results, Usage]:
    """Run the models one after the other, and grade their answers.

    The folder gets `rows.jsonl` and, if requested, `checkpoints.jsonl`, `choices.jsonl`,
    `matches.jsonl` and `ratings.jsonl`.

    Returns:
        The answers, the results, and the usage of the engines.

    Raises:
        CaiError: A model, judge or grader cannot be used.
    """
    judge = evaluation.judge
    rated_by = evaluation.settings.harmfulness
    if rated_by not in (None, JUDGE):  # say it now, not after hours
        from cai.training.harmfulness_model import HarmfulnessModel

        HarmfulnessModel.check(str(rated_by))
    with Engines(fingerprint) as engines:
        found = engines.run(_ask(evaluation, judge, engines, progress))
    answers, names = found.asked.answers[ROWS], evaluation.names
    preference = evaluation.preference() if evaluation.preference else None
    scores = _scores(preference, found.rows) if preference else None
    found_measures = Measures(
        schema=SCHEMA,
        grader=evaluation.settings.grader,
        judge=judge.path if judge else None,
        starts=evaluation.starts,
        elo=_elo(evaluation, found, preference, scores),
        style=measures.style(answers.rows, names),
        alignment_tax=measures.alignment_tax(
            answers.rows, evaluation.texts, found.asked.logprobs, names
        ),
        harmfulness=_harmfulness(evaluation, found),
        choices=choices(found.asked.choices, evaluation.questions, names),
        checkpoints=_checkpoints(evaluation, found, scores),
    )
    flags = _flags(evaluation, fingerprint, judge, found_measures)
    results = Results(
        evaluation=summarise(answers.rows, scores=scores, models=names),
        measures=found_measures.model_copy(update={"flags": flags}),
    )
    return answers, results, engines.usage


async def _ask(
    evaluation: Evaluation, judging: ModelSettings | None, engines: Engines, progress: Progress
) -> _Found:
    """Ask the models, and then the judge about their answers."""
    settings, seed = evaluation.settings, evaluation.seed
    judge = AnswerJudge(engines[judging], settings.judge_min_mass) if judging else None
    grader = judge if judge and settings.grader == JUDGE else plain_grader(settings.grader)

    def task(what: str) -> Task:
        return partial(progress.rows, what, tokens=engines.tokens)

    asker = Asker(evaluation.folder, settings, seed, grader, task)
    subjects = _subjects(evaluation, engines)
    if judge and grader is not judge:
        # The judge is asked after them, and its own model is then the only one in memory.
        subjects.sort(key=lambda subject: subject.engine is judge.engine)
    found = _Found(await asker.ask(subjects, keep=judge.engine if judge else None))
    if judge and settings.elo == JUDGE:
        found.matches = await play(
            found.rows,
            models=evaluation.order,
            judge=judge,
            settings=settings,
            seed=seed,
            store=RowStore(evaluation.folder, MatchRow, "matches"),
            task=task("matches"),
        )
    if judge and settings.harmfulness == JUDGE:
        found.ratings = await rate_answers(
            found.rows,
            judge=judge,
            settings=settings,
            store=RowStore(evaluation.folder, RatingRow, "ratings"),
            task=task("ratings"),
        )
    return found


def _subjects(evaluation: Evaluation, engines: Engines) -> list[Subject]:
    """Return all that are asked, in order; a model that cannot be used is an error here."""
    asked, questions, texts = evaluation.asked, evaluation.questions, evaluation.texts
    return [
        *(
            Subject(name, engines[model], asked, questions, texts)
            for name, model in evaluation.models.items()
        ),
        *(Subject(name, engine, given) for name, (engine, given) in evaluation.recorded.items()),
        *(
            Subject(kept.name, engines[kept.model], evaluation.checkpoint_asked, file=CHECKPOINTS)
            for kept in evaluation.checkpoints
        ),
    ]


def _scores(model: PreferenceModel, rows: Sequence[AnswerRow]) -> dict[str, float]:
    """Score the answers, by row key; those that do not fit the model's context have no score."""
    answered = [(row.key, model.ids(row.messages, row.response)) for row in rows if row.response]
    fitting = {key: ids for key, ids in answered if len(ids) <= model.context}
    scores = model.score_ids(list(fitting.values())).tolist()
    return dict(zip(fitting, scores, strict=True))


def _elo(
    evaluation: Evaluation,
    found: _Found,
    preference: PreferenceModel | None,
    scores: Mapping[str, float] | None,
) -> Elo | None:
    """Rate the models in the way that the settings ask for; None where there is no way."""
    order = evaluation.order
    if found.matches is not None:
        matches = found.matches
        sides = measures.elo_by_matches(matches.rows, order, seed=evaluation.seed)
        return Elo(
            method=JUDGE,
            pairing=evaluation.settings.elo_pairing,
            anchor=order[0],
            harmless=sides["harmless"],
            helpful=sides["helpful"],
            matches=matches.states,
            order_agreement=order_agreement(matches.rows).value,
        )
    if preference is None or scores is None:
        return None
    raw = {key: score * preference.std for key, score in scores.items()}
    sides = measures.elo_by_scores(found.rows, raw, order)
    return Elo(
        method="preference",
        anchor=order[0],
        harmless=sides["harmless"],
        helpful=sides["helpful"],
    )


def _harmfulness(evaluation: Evaluation, found: _Found) -> Harmfulness | None:
    how = evaluation.settings.harmfulness
    if how is None:
        return None
    if found.ratings is not None:
        known = {row.answer: row.rating for row in found.ratings.rows if row.rating is not None}
        states = found.ratings.states
    else:
        from cai.training.harmfulness_model import HarmfulnessModel

        asked = rateable(found.rows)
        rated = HarmfulnessModel.load(how).rate([(row.messages, row.response) for row in asked])
        known = {r.key: value for r, value in zip(asked, rated, strict=True) if value is not None}
        states = {"ok": len(known), "too_long": len(asked) - len(known)}
    return Harmfulness(
        method=JUDGE if how == JUDGE else "model",
        models=measures.harmfulness(found.rows, known, evaluation.order),
        states=states,
    )


def _checkpoints(
    evaluation: Evaluation, found: _Found, scores: Mapping[str, float] | None
) -> list[CheckpointSummary]:
    kept = evaluation.checkpoints
    by_name = summarise(found.checkpoints, scores=scores, models=[one.name for one in kept])
    return [
        CheckpointSummary(
            policy=k.policy, stage=k.stage, step=k.step, name=k.name, evaluation=by_name[k.name]
        )
        for k in kept
    ]


def _flags(
    evaluation: Evaluation,
    fingerprint: Fingerprint,
    judge: ModelSettings | None,
    found: Measures,
) -> list[str]:
    """Return warnings about the results, each in one sentence."""
    flags: list[str] = []
    if judge is not None:
        print_of_judge = fingerprint(judge)
        if print_of_judge == evaluation.labelled_by:
            flags.append("The judge is the model that made the labels of this run.")
        flags += [
            f"The judge is {name}, one of the models that it judges."
            for name, model in evaluation.models.items()
            if fingerprint(model) == print_of_judge
        ]
    if found.elo and found.elo.method == "preference" and evaluation.followed:
        were = "was" if len(evaluation.followed) == 1 else "were"
        flags.append(
            f"Elo is the preference model's own score, which {' and '.join(evaluation.followed)} "
            f"{were} trained on: it shows what training reached for, not an independent judgement."
        )
    for part in (found.alignment_tax, found.style):
        flags += [f"{name}: {flag}." for name, one in part.items() for flag in one.flags]
    return flags
