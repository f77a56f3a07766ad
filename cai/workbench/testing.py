"""The tests that a constitution brings along, put to a feedback model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple
from xml.etree import ElementTree

from cai.compare import FeedbackJudge, JudgementInputs, grades, preference
from cai.compare.labels import NO_VERDICT
from cai.constitution import Principle
from cai.constitution.schema import PrincipleTest
from cai.data.conversation import user
from cai.data.records import JudgementRow, Provenance
from cai.data.rows import Item, Task, run_rows, silent
from cai.engines import Engine
from cai.evaluate.rates import Rate, rate
from cai.settings import LabelPolicy
from cai.workbench.trying import pair_of, pinned


@dataclass(frozen=True)
class Outcome:
    """The result of one test.

    Attributes:
        principle: The id of the principle.
        number: Which of its tests, from 1.
        test: The test.
        probability: P(the expected verdict), both orders averaged; None without a verdict.
        mass: The probability on the two options together, the smaller of the two orders; None
            without a verdict.
        error: Why there is no verdict.
    """

    principle: str
    number: int
    test: PrincipleTest
    probability: float | None
    mass: float | None
    error: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the expected verdict is the likelier one; None without a verdict."""
        return None if self.probability is None else self.probability > 0.5


async def run_tests(judge: FeedbackJudge, engine: Engine, task: Task = silent) -> list[Outcome]:
    """Run all tests of a constitution with a feedback model.

    Args:
        judge: The constitution; reasoning, layout and few-shot examples; the seed. The settings'
            `labels` say how verdicts are read.
        engine: The feedback model.
        task: Shows how many questions have been judged.

    Returns:
        One outcome per test, in the file's order.
    """
    tests = [
        (principle, number, test, _asked(judge, principle, test, engine))
        for principle in judge.constitution.principles
        for number, test in enumerate(principle.tests, start=1)
    ]
    # Two tests may ask the same question.
    questions = {asked.item.key: asked for _, _, _, asked in tests}

    async def make(item: Item[_Asked]) -> JudgementRow:
        return await item.inputs.judge.row(item.inputs.item, engine)

    result = await run_rows(
        [Item(key, asked.item.fingerprint, asked) for key, asked in questions.items()],
        make,
        concurrency=judge.settings.concurrency,
        task=task,
    )
    judgements = {row.key: row for row in result.rows}
    return [
        _outcome(principle.id, number, test, judgements[asked.item.key], judge.settings.labels)
        for principle, number, test, asked in tests
    ]


class _Asked(NamedTuple):
    """A question of a test, and what asks it."""

    judge: FeedbackJudge
    item: Item[JudgementInputs]


def _asked(
    judge: FeedbackJudge, principle: Principle, test: PrincipleTest, engine: Engine
) -> _Asked:
    """Ask as the `compare` stage would: to compare (better, worse), or for a critique."""
    form = "comparison" if test.flagged is None else "critique"
    one = replace(
        judge,
        constitution=pinned(judge.constitution, principle.id),
        settings=judge.settings.model_copy(update={"principles": 1, "form": form}),
    )
    made_by = Provenance(
        model=engine.name,
        model_fingerprint=engine.fingerprint,
        template_hash="",
        sampling={},
        seed=judge.seed,
    )
    texts = [text for text in (test.better, test.worse, test.response) if text is not None]
    (item,) = one.items([pair_of(user(test.prompt), *texts, provenance=made_by)], engine)
    return _Asked(one, item)


def _outcome(
    principle: str, number: int, test: PrincipleTest, judgement: JudgementRow, policy: LabelPolicy
) -> Outcome:
    if test.flagged is None:
        probability = preference(judgement, policy)
    else:
        found = grades(judgement, 0, policy)  # of finding fault, and of finding none
        probability = None if found is None else found[0 if test.flagged else 1]
    if judgement.state != "ok" or probability is None:
        return Outcome(principle, number, test, None, None, judgement.error or NO_VERDICT)
    mass = min(evidence.mass for evidence in judgement.evidence)
    return Outcome(principle, number, test, probability, mass)


def accuracy(outcomes: list[Outcome]) -> Rate:
    """Return the share of tests with a verdict that passed, with Wilson's 95% interval."""
    return rate([o.passed for o in outcomes], [f"{o.principle} {o.number}" for o in outcomes])


def by_principle(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by principle, in order."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.principle, []).append(outcome)
    return groups


def failing(outcomes: list[Outcome], threshold: float) -> list[str]:
    """Return the principles of which a smaller share of tests passed than `threshold`.

    A test without a verdict has not passed.
    """
    return [
        name
        for name, group in by_principle(outcomes).items()
        if sum(bool(o.passed) for o in group) / len(group) < threshold
    ]


def junit(name: str, outcomes: list[Outcome]) -> bytes:
    """Write outcomes as JUnit XML: a suite per principle, `failure` and `error` told apart."""
    suites = ElementTree.Element("testsuites", name=name)
    for principle, group in by_principle(outcomes).items():
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=f"{name}.{principle}",
            tests=str(len(group)),
            failures=str(sum(o.passed is False for o in group)),
            errors=str(sum(o.passed is None for o in group)),
        )
        for outcome in group:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"{name}.{principle}",
                name=f"{outcome.number}: {_printable(outcome.test.prompt)}",
            )
            if outcome.passed is None:
                ElementTree.SubElement(case, "error", message=_printable(str(outcome.error)))
            elif not outcome.passed:
                ElementTree.SubElement(case, "failure", message=_printable(told(outcome)))
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def told(outcome: Outcome) -> str:
    """Say in a line what was expected, and how likely the model found it."""
    test = outcome.test
    if test.better is not None:
        wanted = f"{test.better!r} should win over {test.worse!r}"
    else:
        wanted = f"{test.response!r} should {'' if test.flagged else 'not '}be flagged"
    found = outcome.error or f"P = {outcome.probability:.3f}"
    return f"{wanted}: {found}"


def _printable(text: str) -> str:
    """Replace what XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)
