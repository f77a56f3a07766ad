"""Multiple-choice questions: the probabilities that a model puts on the options."""

from __future__ import annotations

from cai.data.records import ChoiceRow, Provenance, content_hash
from cai.data.rows import Item
from cai.engines import Engine, ScoreRequest
from cai.evaluate.grading import failures_as_states
from cai.evaluate.sets import ChoiceQuestion
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
