"""The forms of feedback: the questions about the responses to one prompt.

All forms ask questions of one shape: some responses are shown, there may be reasoning first, and
then options are scored. If several responses are shown, the options name them; if it is one, they
are its grades, from worst to best. So evidence and labels do not depend on forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal

from cai.constitution import Constitution, Principle, draw
from cai.constitution.schema import ComparisonExample, CritiqueExample
from cai.data.conversation import Prompt
from cai.data.records import PairRow, content_hash
from cai.settings import CompareSettings
from cai.templates import (
    COMPARISON_TEMPLATES,
    GRADES,
    OPTIONS,
    RATING,
    VERDICT,
    comparison_prompt,
    critique_prompt,
    flag_prompt,
    options,
    rating_prompt,
    verdict_prompt,
)


@dataclass(frozen=True)
class Verdict:
    """Options to be scored.

    Attributes:
        prompt: Makes the prompt before them from the reasoning (empty if there is none).
        options: In the order of the responses shown, or from the worst grade to the best.
        turned: Whether the responses or the letters are in reverse order.
    """

    prompt: Callable[[str], Prompt]
    options: tuple[str, ...]
    turned: bool


@dataclass(frozen=True)
class Question:
    """One question to a feedback model.

    Attributes:
        shown: The responses that it shows, by number and in its order.
        reasoning: The prompt of the reasoning before the verdicts; None without reasoning.
        verdicts: The options that are scored then.
    """

    shown: tuple[int, ...]
    reasoning: Prompt | None
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Asking:
    """Everything except the responses that determines the questions about them."""

    constitution: Constitution
    settings: CompareSettings
    seed: int


@dataclass(frozen=True)
class Form:
    """A form of feedback.

    Attributes:
        half: The text of a principle that it asks about; principles without it are left out.
        examples: The worked examples that it shows.
        templates: The templates that it fills.
        questions: The questions about the responses under a principle.
    """

    half: Literal["comparison", "critique"]
    examples: Callable[[Asking], Sequence[ComparisonExample | CritiqueExample]]
    templates: Callable[[CompareSettings], tuple[str, ...]]
    questions: Callable[[PairRow, Principle, Asking], list[Question]]

    def principles(self, constitution: Constitution) -> tuple[Principle, ...]:
        """Return the principles that have the half that this form asks about."""
        return tuple(p for p in constitution.principles if getattr(p, self.half) is not None)

    def text_hash(self, principle: Principle) -> str:
        """Return the hash of the principle's text that this form uses."""
        return content_hash(self.half, getattr(principle, self.half))


def _comparison(pair: PairRow, principle: Principle, asking: Asking) -> list[Question]:
    """Ask of every two responses which is better (paper, section 4.1)."""
    pairs = combinations(range(len(pair.responses)), 2)
    return _choices(list(pairs), pair, principle, asking)


def _ranking(pair: PairRow, principle: Principle, asking: Asking) -> list[Question]:
    """Ask which of all responses is best."""
    return _choices([tuple(range(len(pair.responses)))], pair, principle, asking)


def _choices(
    groups: Sequence[tuple[int, ...]], pair: PairRow, principle: Principle, asking: Asking
) -> list[Question]:
    """Ask which of each group is best; the other way round, the group stands in reverse order."""
    settings = asking.settings
    few_shot = _few_shot(pair, principle, asking)
    orders = [(group, False) for group in groups]
    if settings.both_orders:
        orders = [order for group in groups for order in ((group, False), (group[::-1], True))]
    questions: list[Question] = []
    for shown, turned in orders:
        prompt = comparison_prompt(
            pair.messages,
            [pair.responses[number].text for number in shown],
            str(principle.comparison),
            layout=settings.layout,
            few_shot=few_shot,
            reasoning=settings.reasoning,
        )
        letters, reasoning = options(len(shown)), settings.reasoning
        questions.append(_question(shown, prompt, letters, turned=turned, reasoning=reasoning))
    return questions


def _rating(pair: PairRow, principle: Principle, asking: Asking) -> list[Question]:
    """Ask for a rating of each response, from 1 to 7."""
    settings = asking.settings
    text = str(principle.comparison)
    return [
        _question(
            (number,),
            rating_prompt(pair.messages, response.text, text, reasoning=settings.reasoning),
            GRADES,
            ask=RATING,
            reasoning=settings.reasoning,
        )
        for number, response in enumerate(pair.responses)
    ]


def _question(
    shown: tuple[int, ...],
    prompt: Prompt,
    options: tuple[str, ...],
    *,
    ask: str = VERDICT,
    turned: bool = False,
    reasoning: bool,
) -> Question:
    """Ask for a verdict straight away, or after the reasoning that the prompt opens."""
    if not reasoning:
        return Question(shown, None, (Verdict(lambda _: prompt, options, turned),))
    verdict = Verdict(partial(verdict_prompt, prompt, ask=ask), options, turned)
    return Question(shown, prompt, (verdict,))


def _critique(pair: PairRow, principle: Principle, asking: Asking) -> list[Question]:
    """Ask for a critique of each response, and whether it found a fault (worst) or none.

    In reverse order, the letters of the two findings are exchanged.
    """
    examples = _critique_examples(asking)
    questions: list[Question] = []
    for number, response in enumerate(pair.responses):
        asked = critique_prompt(pair.messages, response.text, str(principle.critique), examples)
        verdicts = (
            Verdict(partial(flag_prompt, asked, yes_first=True), OPTIONS, turned=False),
            Verdict(partial(flag_prompt, asked, yes_first=False), OPTIONS[::-1], turned=True),
        )[: 1 + asking.settings.both_orders]
        questions.append(Question((number,), asked, verdicts))
    return questions


def _few_shot(
    pair: PairRow, principle: Principle, asking: Asking
) -> list[tuple[ComparisonExample, str]]:
    """Show examples under the principle of the question, or each under one drawn for it (paper).

    With the same principle, rewording another one changes nothing, and all judgements under one
    principle have the same beginning. Drawn ones do not depend on the principle of the question.
    """
    examples = _comparison_examples(asking)
    under = [principle] * len(examples)
    if asking.settings.few_shot_principles == "drawn":
        key = content_hash("example", pair.key)
        principles = asking.constitution.comparisons
        under = [draw(principles, seed=asking.seed, key=key, round=n) for n in range(len(examples))]
    return [(example, str(p.comparison)) for example, p in zip(examples, under, strict=True)]


def _comparison_examples(asking: Asking) -> Sequence[ComparisonExample]:
    """Show those with reasoning where the question asks for it, or else those without it first."""
    examples = sorted(
        asking.constitution.few_shot.comparison,
        key=lambda example: (example.reasoning is None) == asking.settings.reasoning,
    )
    if asking.settings.reasoning:
        examples = [example for example in examples if example.reasoning] or examples
    return examples[: asking.settings.few_shot]


def _critique_examples(asking: Asking) -> Sequence[CritiqueExample]:
    return asking.constitution.few_shot.critique[: asking.settings.few_shot]


def _comparison_templates(settings: CompareSettings) -> tuple[str, ...]:
    return (COMPARISON_TEMPLATES[settings.layout],)


FORMS: dict[str, Form] = {
    "comparison": Form("comparison", _comparison_examples, _comparison_templates, _comparison),
    "ranking": Form("comparison", _comparison_examples, _comparison_templates, _ranking),
    "rating": Form("comparison", lambda _: (), lambda _: ("rating.j2",), _rating),
    "critique": Form("critique", _critique_examples, lambda _: ("flag.j2",), _critique),
}
"""The values of `compare.form`."""
