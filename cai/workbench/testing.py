"""Run the tests of a constitution with a feedback model."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        number: The number of the test among those of the principle, from 1.
        test: The test.
        probability: P(the expected verdict), the mean of both orders; None without a verdict.
        mass: The probability of the two options together, the smaller one of both orders; None
            without a verdict.
        error: The reason why there is no verdict.
    """

    principle: str
    number: int
    test: PrincipleTest
    probability: float | None
    mass: float | None
    error: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the expected verdict is more likely than the other; None without a verdict."""
        return None if self.probability is None else self.probability > 0.5


async def run_tests(judge: FeedbackJudge, engine: Engine, task: Task = silent) -> list[Outcome]:
    """Run all tests of a constitution; return one outcome per test, in the order of the file."""
    tests = [
        (principle, number, test, _question(judge, principle, test, engine))
        for principle in judge.constitution.principles
        for number, test in enumerate(principle.tests, start=1)
    ]
    # Two tests may have the same question.
    questions = {question.key: question for *_, question in tests}

    async def make(question: Item[_Asked]) -> JudgementRow:
        one, item = question.inputs
        return await one.row(item, engine)

    result = await run_rows(
        list(questions.values()), make, concurrency=judge.settings.concurrency, task=task
    )
    judgements = {row.key: row for row in result.rows}
    return [
        _outcome(principle.id, number, test, judgements[question.key], judge.settings.labels)
        for principle, number, test, question in tests
    ]


_Asked = tuple[FeedbackJudge, Item[JudgementInputs]]
"""A judge with one principle, and its question."""


def _question(
    judge: FeedbackJudge, principle: Principle, test: PrincipleTest, engine: Engine
) -> Item[_Asked]:
    """Ask as the `compare` stage does: for a comparison of (better, worse), or for a critique."""
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
    return Item(item.key, item.fingerprint, (one, item))


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
    """Return the principles with a smaller share of passed tests than `threshold`.

    A test without a verdict has not passed.
    """
    return [
        name
        for name, group in by_principle(outcomes).items()
        if sum(bool(o.passed) for o in group) / len(group) < threshold
    ]


def junit(name: str, outcomes: list[Outcome]) -> bytes:
    """Write JUnit XML: a suite per principle; `error` for a test without a verdict."""
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
    """Say in one line what was expected, and its probability."""
    test = outcome.test
    if test.better is not None:
        wanted = f"{test.better!r} should win over {test.worse!r}"
    else:
        wanted = f"{test.response!r} should {'' if test.flagged else 'not '}be flagged"
    found = outcome.error or f"P = {outcome.probability:.3f}"
    return f"{wanted}: {found}"


def _printable(text: str) -> str:
    """Replace the characters that XML cannot have."""
    return "".join(c if c.isprintable() else " " for c in text)
