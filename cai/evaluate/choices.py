"""Multiple-choice questions: the probabilities that a model puts on the options, measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from cai.compare.calibration import Told, calibration, reliability
from cai.data.records import ChoiceRow, Provenance, content_hash
from cai.data.rows import Item
from cai.engines import Engine, ScoreRequest
from cai.evaluate.grading import failures_as_states
from cai.evaluate.questions import ChoiceQuestion
from cai.evaluate.rates import mean, rate
from cai.evaluate.results import Choices, Chosen, Confidence
from cai.templates import template_hash


def choice_item(question: ChoiceQuestion, name: str, engine: Engine) -> Item[ChoiceQuestion]:
    """Return the item of a question to the model with this name."""
    prompt = question.prompt
    return Item(
        content_hash("choice", name, question.source, prompt.messages[-1]),
        content_hash(
            engine.fingerprint, prompt.messages, prompt.prefill, question.options, question.gold
        ),
        question,
    )


async def choice_row(item: Item[ChoiceQuestion], name: str, engine: Engine) -> ChoiceRow:
    """Score the options with a model; state `too_long` or `unparsed` without probabilities."""
    question = item.inputs
    row = ChoiceRow(
        key=item.key,
        model=name,
        source=question.source,
        task=question.task,
        question=question.prompt.messages[-1].content,
        options=question.options,
        gold=question.gold,
        provenance=Provenance(
            model=name,
            model_fingerprint=engine.fingerprint,
            template_hash=template_hash(),
            sampling={},
            seed=0,
        ),
    )
    with failures_as_states(row):
        request = ScoreRequest(question.prompt, question.options)
        row.logprobs = (await engine.score(request)).logprobs
    return row


def choices(
    rows: Sequence[ChoiceRow], questions: Sequence[ChoiceQuestion], models: Sequence[str]
) -> dict[str, Choices]:
    """Measure how well models choose the right options, with baselines, by set."""
    found: dict[str, Choices] = {}
    for source in dict.fromkeys(question.source for question in questions):
        asked = [question for question in questions if question.source == source]
        tasks = [question.task for question in asked]
        letters = Counter(q.options[number].strip() for q in asked for number in q.gold)
        most = max(sorted(letters), key=lambda letter: letters[letter])
        longest = {q.prompt.messages[-1].content: _longest(q) for q in asked}
        found[source] = Choices(
            questions=len(asked),
            baselines={
                "always_first": rate([0 in q.gold for q in asked], tasks),
                "longest": rate([_in(_longest(q), q.gold) for q in asked], tasks),
                "most_frequent": rate(
                    [any(q.options[n].strip() == most for n in q.gold) for q in asked], tasks
                ),
            },
            letters=dict(sorted(letters.items())),
            models={
                model: _chosen(own, [longest.get(r.question) for r in own])
                for model in models
                if (own := [r for r in rows if (r.model, r.source) == (model, source)])
            },
        )
    return found


def _longest(question: ChoiceQuestion) -> int | None:
    """Return the option with the longest text; None if there are several or no texts."""
    lengths = [len(text) for text in question.texts]
    if not lengths or lengths.count(max(lengths)) > 1:
        return None
    return lengths.index(max(lengths))


def _in(number: int | None, gold: Sequence[int]) -> bool | None:
    return None if number is None else number in gold


def _chosen(rows: Sequence[ChoiceRow], longest: Sequence[int | None]) -> Chosen:
    """Measure one model's choices; `longest` is the number of each row's longest option."""
    told = [(row, long) for row, long in zip(rows, longest, strict=True) if row.logprobs]
    shares = [_shares(row.logprobs) for row, _ in told]
    tasks = [row.task for row, _ in told]
    verdicts = [_told(row, share) for (row, _), share in zip(told, shares, strict=True)]
    picked = [share.index(max(share)) for share in shares]
    masses = [math.fsum(map(math.exp, row.logprobs)) for row, _ in told]
    letters = Counter(row.options[n].strip() for (row, _), n in zip(told, picked, strict=True))
    return Chosen(
        accuracy=rate([one.right for one in verdicts], tasks),
        answered=rate([bool(row.logprobs) for row in rows], [row.task for row in rows]),
        first_share=rate([number == 0 for number in picked], tasks),
        right_probability=mean(
            [sum(p[n] for n in row.gold) for (row, _), p in zip(told, shares, strict=True)], tasks
        ),
        calibration_error=calibration(verdicts, lowest=0.0),
        position_bias=mean(
            [_beyond(row, p, 0) for (row, _), p in zip(told, shares, strict=True)], tasks
        ),
        length_bias=mean(
            [_beyond(row, p, long) for (row, long), p in zip(told, shares, strict=True)], tasks
        ),
        mean_mass=sum(masses) / len(masses) if masses else None,
        reliability=[
            Confidence(confidence=one.confidence, right=one.right)
            for one in reliability(verdicts, lowest=0.0)
        ],
        letters=dict(sorted(letters.items())),
        states=dict(sorted(Counter(row.state for row in rows).items())),
    )


def _shares(logprobs: Sequence[float]) -> list[float]:
    """Return the options' shares of their probability together."""
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


def _told(row: ChoiceRow, shares: Sequence[float]) -> Told:
    best = [n for n, logprob in enumerate(row.logprobs) if logprob == max(row.logprobs)]
    credit = sum(n in row.gold for n in best) / len(best)
    return Told(row.task, max(shares), bool(credit) if len(best) == 1 else None, credit)


def _beyond(row: ChoiceRow, shares: Sequence[float], number: int | None) -> float | None:
    """Return what an option gets beyond its share of the right options."""
    if number is None:
        return None
    return shares[number] - (number in row.gold) / len(row.gold)
