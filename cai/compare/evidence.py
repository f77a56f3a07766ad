"""Questions to the feedback model, under which principles, and its answers as evidence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cai.compare.forms import FORMS, Asking, Question, Verdict
from cai.constitution import Principle, draw_several
from cai.data.conversation import Prompt, strip_thinking
from cai.data.records import (
    Evidence,
    EvidenceState,
    JudgementRow,
    PairRow,
    PrincipleUse,
    Provenance,
    content_hash,
    derive_seed,
)
from cai.data.rows import Item
from cai.engines import (
    Engine,
    GenerateRequest,
    PromptTooLong,
    ScoreRequest,
    Scores,
    Unanswered,
    Unscored,
)
from cai.errors import CaiError
from cai.evaluate.refusals import declines
from cai.settings import CompareSettings
from cai.templates import RATING, VERDICT, template_hash

VERSION = 3


class JudgementInputs(NamedTuple):
    """The inputs of a judgement.

    Attributes:
        pair: The responses.
        principle: The principle.
        instead_of: The key of the judgement that this one replaces; None for a first one.
    """

    pair: PairRow
    principle: Principle
    instead_of: str | None = None


class FeedbackJudge(Asking):
    """Questions a feedback model about responses. It has no engine, so it can be serialised."""

    def item(self, inputs: JudgementInputs, engine: Engine) -> Item[JudgementInputs]:
        """Return the item of a judgement; its fingerprint is a hash of the questions."""
        asked = (self._named(question) for question in self.questions(inputs))
        key = content_hash("judgement", inputs.pair.key, inputs.principle.id)
        return Item(key, content_hash(VERSION, engine.fingerprint, *asked), inputs)

    def items(self, pairs: Iterable[PairRow], engine: Engine) -> list[Item[JudgementInputs]]:
        """Draw the principles that each pair is judged under; one item each, in the pairs' order.

        Unusable pairs have none.
        """
        return [
            self.item(JudgementInputs(pair, principle), engine)
            for pair in pairs
            if pair.state == "ok"
            for principle in self._drawn_for(pair)
        ]

    @property
    def together(self) -> int:
        """How many judgements there are of each pair."""
        there = len(FORMS[self.settings.form].principles(self.constitution))
        return there if self.settings.principles == "all" else self.settings.principles

    def questions(self, inputs: JudgementInputs) -> list[Question]:
        """Return the questions to the feedback model about a pair under a principle."""
        return FORMS[self.settings.form].questions(inputs.pair, inputs.principle, self)

    def steps(self, inputs: JudgementInputs) -> Iterator[tuple[Question, int, Prompt | Verdict]]:
        """Yield what is asked, in order: for each sample the reasoning, then the verdicts."""
        for question in self.questions(inputs):
            samples = 1 if question.reasoning is None else self.settings.reasoning_samples
            for sample in range(samples):
                if question.reasoning is not None:
                    yield question, sample, question.reasoning
                for verdict in question.verdicts:
                    yield question, sample, verdict

    async def row(self, item: Item[JudgementInputs], engine: Engine) -> JudgementRow:
        """Ask the feedback model about some responses under one principle.

        Returns:
            Raw evidence; no policy is applied. If the model fails, the evidence so far, and the
            state: `too_long` if a question does not fit, `refused` or `unparsed` if some question
            has no usable reasoning, `unparsed` also if a server does not return the probabilities
            of the options, `failed` if the engine raised an error.

        Raises:
            CaiError: The engine cannot continue.
        """
        pair, principle, replaced = item.inputs
        form = FORMS[self.settings.form]
        row = JudgementRow(
            key=item.key,
            pair=pair.key,
            principle=PrincipleUse(id=principle.id, text_hash=form.text_hash(principle)),
            instead_of=replaced,
            provenance=Provenance(
                model=engine.name,
                model_fingerprint=engine.fingerprint,
                template_hash=template_hash(*form.templates(self.settings)),
                sampling={"temperature": self.settings.temperature, "form": self.settings.form},
                seed=self.seed,
            ),
        )
        try:
            await self._fill(row, item, engine)
        except (PromptTooLong, Unanswered, Unscored) as error:
            row.state, row.error = error.state, str(error)
        except CaiError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever an engine raises costs this row alone)
            row.state, row.error = "failed", f"{type(error).__name__}: {error}"
        else:
            unusable = _without_usable(row.evidence)
            if unusable is not None:
                row.state, row.error = unusable, _ERRORS[unusable]
        return row

    async def _fill(self, row: JudgementRow, item: Item[JudgementInputs], engine: Engine) -> None:
        """Ask every question, and put each answer into the row as soon as it is there."""
        reasoning: str | None = None
        state: EvidenceState = "ok"
        for question, sample, step in self.steps(item.inputs):
            if isinstance(step, Prompt):
                sample_seed = derive_seed(self.seed, item.key, question.shown, sample)
                completion = await engine.generate(_thinking(step, sample_seed, self.settings))
                row.provenance.sampling.update(completion.sampling)
                reasoning = strip_thinking(completion.text)
                state = _state(reasoning, ended=completion.finish == "stop")
                continue
            request = ScoreRequest(step.prompt(reasoning or ""), step.options)
            scores = await engine.score(request)
            row.provenance.sampling.update(scores.sampling)
            if len(question.shown) > 2:
                _check_order(scores, step.options)
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

    def _drawn_for(self, pair: PairRow) -> Sequence[Principle]:
        fitting = FORMS[self.settings.form].principles(self.constitution)
        if self.settings.principles == "all":
            return fitting
        return draw_several(fitting, self.settings.principles, seed=self.seed, key=pair.key)

    def _named(self, question: Question) -> list[object]:
        """Return all that determines the answer to a question."""
        asked: list[object] = [
            (list(prompt.messages), prompt.prefill, prompt.speaker, verdict.options)
            for verdict in question.verdicts
            for prompt in (verdict.prompt(""),)
        ]
        if question.reasoning is not None:
            settings = self.settings
            sampling = (settings.temperature, settings.reasoning_tokens, settings.reasoning_samples)
            asked += [question.reasoning.prefill, sampling, self.seed]
        return asked


def instead_of(
    items: Iterable[Item[JudgementInputs]], judgements: Iterable[JudgementRow]
) -> list[Item[JudgementInputs]]:
    """Return the items of some judgements again, to be made by another model in their place."""
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


def _check_order(scores: Scores, options: Sequence[str]) -> None:
    """Raise Unscored if upper bounds leave open which of two responses is better.

    Grades are not checked: options this improbable hardly change their distribution.
    """
    for bound in sorted(scores.unlisted):
        for number, logprob in enumerate(scores.logprobs):
            if number not in scores.unlisted and scores.logprobs[bound] >= logprob:
                raise Unscored(
                    f"the server does not list {options[bound]!r}, which may have up to "
                    f"{math.exp(scores.logprobs[bound]):.3g}, and {options[number]!r} has "
                    f"{math.exp(logprob):.3g}: which is likelier is not told"
                )


_ERRORS = {
    "refused": "the feedback model refused to judge",
    "unparsed": "the reasoning is empty or did not come to an end; `compare.reasoning_tokens` "
    "bounds it",
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
    return "ok" if ended and reasoning else "unparsed"


def _without_usable(evidence: Sequence[Evidence]) -> EvidenceState | None:
    """Return what is wrong where no sample of a question, asked one way round, is usable."""
    states: defaultdict[tuple[object, ...], set[EvidenceState]] = defaultdict(set)
    for one in evidence:
        states[one.shown, one.turned].add(one.state)
    bad = [some for some in states.values() if "ok" not in some]
    return sorted(bad[0])[0] if bad else None
