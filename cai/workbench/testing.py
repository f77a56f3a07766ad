"""The tests that a constitution brings along, put to a feedback model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

from cai.compare import grades, judge, judgement_items, preference
from cai.compare.labels import NO_VERDICT
from cai.constitution import Constitution, Principle
from cai.constitution.schema import PrincipleTest
from cai.conversation import user
from cai.engines import Engine
from cai.evaluate.rates import Rate, rate
from cai.records import JudgementRow, Provenance
from cai.settings import CompareSettings
from cai.workbench.trying import pair_of, pinned

CONCURRENCY = 64


@dataclass(frozen=True)
class Outcome:
    """What came of one test.

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


@dataclass(frozen=True)
class Examiner:
    """A feedback model and how it is asked.

    Attributes:
        engine: The model.
        model: Its name.
        settings: Reasoning, layout, few-shot examples; `labels` says how verdicts are read.
        seed: Decides the samples, where the temperature is not 0.
    """

    engine: Engine
    model: str
    settings: CompareSettings
    seed: int

    async def run(self, constitution: Constitution, tell: Callable[[], None]) -> list[Outcome]:
        """Run all tests of a constitution; `tell` is called after each.

        Returns:
            One outcome per test, in the file's order.
        """
        limit = asyncio.Semaphore(CONCURRENCY)

        async def one(principle: Principle, number: int, test: PrincipleTest) -> Outcome:
            async with limit:
                outcome = await self._outcome(constitution, principle, number, test)
            tell()
            return outcome

        return list(
            await asyncio.gather(
                *(
                    one(principle, number, test)
                    for principle in constitution.principles
                    for number, test in enumerate(principle.tests, start=1)
                )
            )
        )

    async def _outcome(
        self, constitution: Constitution, principle: Principle, number: int, test: PrincipleTest
    ) -> Outcome:
        texts = [t for t in (test.better, test.worse, test.response) if t is not None]
        judgement = await self._judgement(pinned(constitution, principle.id), test, texts)
        policy = self.settings.labels
        if test.flagged is None:
            probability = preference(judgement, policy)
        else:
            found = grades(judgement, 0, policy)  # of finding fault, and of finding none
            probability = None if found is None else found[0 if test.flagged else 1]
        if judgement.state != "ok" or probability is None:
            error = judgement.error or NO_VERDICT
            return Outcome(principle.id, number, test, None, None, error)
        mass = min(evidence.mass for evidence in judgement.evidence)
        return Outcome(principle.id, number, test, probability, mass)

    async def _judgement(
        self, constitution: Constitution, test: PrincipleTest, texts: list[str]
    ) -> JudgementRow:
        """Ask as the `compare` stage would: to compare (better, worse), or for a critique."""
        pair = pair_of(user(test.prompt), *texts, provenance=self._provenance)
        form = "comparison" if test.flagged is None else "critique"
        settings = self.settings.model_copy(update={"principles": 1, "form": form})
        (item,) = judgement_items(
            [pair],
            constitution=constitution,
            settings=settings,
            model_fingerprint=self.engine.fingerprint,
            seed=self.seed,
        )
        return await judge(
            item,
            constitution=constitution,
            settings=settings,
            engine=self.engine,
            model=self.model,
            seed=self.seed,
        )

    @property
    def _provenance(self) -> Provenance:
        return Provenance(
            model=self.model,
            model_fingerprint=self.engine.fingerprint,
            template_hash="",
            sampling={},
            seed=self.seed,
        )


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
