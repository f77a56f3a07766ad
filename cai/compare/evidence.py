"""Asking the feedback model: which principles, which questions, and what it said to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cai.compare.forms import FORMS, Asking, Question, Verdict
from cai.constitution import Constitution, Principle, draw_several
from cai.conversation import Prompt, strip_thinking
from cai.engines import Engine, GenerateRequest, PromptTooLong, ScoreRequest, Unscored
from cai.errors import CaiError
from cai.records import (
    Evidence,
    EvidenceState,
    JudgementRow,
    PairRow,
    PrincipleUse,
    Provenance,
    content_hash,
    derive_seed,
)
from cai.refusals import declines
from cai.rows import Item
from cai.settings import CompareSettings
from cai.templates import RATING, VERDICT, template_hash

VERSION = 3


class JudgementInputs(NamedTuple):
    """What a judgement is about.

    Attributes:
        pair: The responses.
        principle: The principle.
        instead_of: The key of the judgement that this one is made in the stead of.
    """

    pair: PairRow
    principle: Principle
    instead_of: str | None = None


def questions_of(inputs: JudgementInputs, asking: Asking) -> list[Question]:
    """Return what the feedback model is asked about a pair under a principle."""
    return FORMS[asking.settings.form].questions(inputs.pair, inputs.principle, asking)


def judgement_items(
    pairs: Iterable[PairRow],
    *,
    constitution: Constitution,
    settings: CompareSettings,
    model_fingerprint: str,
    seed: int,
) -> list[Item[JudgementInputs]]:
    """Draw the principles that each pair is judged under; one item each, in the pairs' order.

    Unusable pairs have none. A fingerprint names the very questions, so it holds whatever goes into
    them.
    """
    serving: Sequence[Principle] = FORMS[settings.form].principles(constitution)
    asking = Asking(constitution, settings, seed)

    def drawn_for(pair: PairRow) -> Sequence[Principle]:
        if settings.principles == "all":
            return serving
        return draw_several(serving, settings.principles, seed=seed, key=pair.key)

    def item_of(inputs: JudgementInputs) -> Item[JudgementInputs]:
        asked = (_named(question, asking) for question in questions_of(inputs, asking))
        fingerprint = content_hash(VERSION, model_fingerprint, *asked)
        key = content_hash("judgement", inputs.pair.key, inputs.principle.id)
        return Item(key, fingerprint, inputs)

    return [
        item_of(JudgementInputs(pair, principle))
        for pair in pairs
        if pair.state == "ok"
        for principle in drawn_for(pair)
    ]


def instead_of(
    items: Iterable[Item[JudgementInputs]], judgements: Iterable[JudgementRow]
) -> list[Item[JudgementInputs]]:
    """Return those of the items that some judgements were made of, to be made in their stead."""
    keys = {judgement.key for judgement in judgements}
    return [
        Item(
            content_hash("fallback", item.key),
            item.fingerprint,
            item.inputs._replace(instead_of=item.key),
        )
        for item in items
        if item.key in keys
    ]


def _named(question: Question, asking: Asking) -> list[object]:
    """Return all that determines the answer to a question."""
    asked: list[object] = [
        (list(prompt.messages), prompt.prefill, prompt.speaker, verdict.options)
        for verdict in question.verdicts
        for prompt in (verdict.prompt(""),)
    ]
    if question.reasoning is not None:
        settings = asking.settings
        sampling = (settings.temperature, settings.reasoning_tokens, settings.reasoning_samples)
        asked += [question.reasoning.prefill, sampling, asking.seed]
    return asked


def steps(
    questions: Sequence[Question], settings: CompareSettings
) -> Iterator[tuple[Question, int, Prompt | Verdict]]:
    """Go through what is asked, in order: per sample what to continue, then what to score."""
    for question in questions:
        samples = 1 if question.reasoning is None else settings.reasoning_samples
        for sample in range(samples):
            if question.reasoning is not None:
                yield question, sample, question.reasoning
            for verdict in question.verdicts:
                yield question, sample, verdict


async def judge(
    item: Item[JudgementInputs],
    *,
    constitution: Constitution,
    settings: CompareSettings,
    engine: Engine,
    model: str,
    seed: int,
) -> JudgementRow:
    """Ask the feedback model about some responses under one principle.

    Returns:
        Raw evidence; no policy is applied. Where the model fails, the evidence so far, and the
        state: `too_long` when a question does not fit, `refused` or `unparsed` when there is no
        usable reasoning for some question, `unparsed` also when a server does not tell how probable
        the options are, `failed` when the engine raised an error.

    Raises:
        CaiError: The engine cannot go on at all.
    """
    pair, principle, replaced = item.inputs
    form = FORMS[settings.form]
    row = JudgementRow(
        key=item.key,
        pair=pair.key,
        principle=PrincipleUse(id=principle.id, text_hash=form.text_hash(principle)),
        instead_of=replaced,
        provenance=Provenance(
            model=model,
            model_fingerprint=engine.fingerprint,
            template_hash=template_hash(*form.templates(settings)),
            sampling={"temperature": settings.temperature, "form": settings.form},
            seed=seed,
        ),
    )
    questions = questions_of(item.inputs, Asking(constitution, settings, seed))
    reasoning: str | None = None
    state: EvidenceState = "ok"
    try:
        for question, sample, step in steps(questions, settings):
            if isinstance(step, Prompt):
                sample_seed = derive_seed(seed, item.key, question.shown, sample)
                completion = await engine.generate(_thinking(step, sample_seed, settings))
                reasoning = strip_thinking(completion.text)
                state = _state(reasoning, ended=completion.finish == "stop")
                continue
            request = ScoreRequest(step.prompt(reasoning or ""), step.options)
            scores = await engine.score(request)
            row.evidence.append(
                Evidence(
                    shown=question.shown,
                    turned=step.turned,
                    sample=sample,
                    logprobs=scores.logprobs,
                    bounded=scores.bounded,
                    reasoning=reasoning,
                    state=state,
                )
            )
    except PromptTooLong as error:
        row.state, row.error = "too_long", str(error)
    except Unscored as error:
        row.state, row.error = "unparsed", str(error)
    except CaiError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever an engine raises costs this row alone)
        row.state, row.error = "failed", f"{type(error).__name__}: {error}"
    else:
        unusable = _without_usable(row.evidence)
        if unusable is not None:
            row.state, row.error = unusable, _ERRORS[unusable]
    return row


_ERRORS = {
    "refused": "the feedback model refused to judge",
    "unparsed": "the reasoning did not come to an end; `compare.reasoning_tokens` bounds it",
}


def _thinking(prompt: Prompt, seed: int, settings: CompareSettings) -> GenerateRequest:
    """Ask for the reasoning before a verdict; a critique has no verdict to stop at."""
    return GenerateRequest(
        prompt,
        seed=seed,
        max_tokens=settings.reasoning_tokens,
        temperature=settings.temperature,
        stop=(VERDICT, RATING) if prompt.prefill else (),
    )


def _state(reasoning: str, *, ended: bool) -> EvidenceState:
    if declines(reasoning):
        return "refused"
    return "ok" if ended else "unparsed"


def _without_usable(evidence: Sequence[Evidence]) -> EvidenceState | None:
    """Return what is wrong where no sample of a question, asked one way round, is usable."""
    states: defaultdict[tuple[object, ...], set[EvidenceState]] = defaultdict(set)
    for one in evidence:
        states[one.shown, one.turned].add(one.state)
    bad = [some for some in states.values() if "ok" not in some]
    return sorted(bad[0])[0] if bad else None
