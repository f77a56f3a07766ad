"""Evaluation answers: one held-out prompt, one sample, one model, one verdict."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from cai.data.conversation import Prompt, strip_thinking
from cai.data.records import AnswerRow, Kind, PromptRow, Provenance, content_hash, derive_seed
from cai.data.rows import Item
from cai.engines import Engine, GenerateRequest, nothing_said
from cai.errors import CaiError
from cai.evaluate.grading import Grader, NoVerdict, failures_as_states
from cai.settings import EvaluateSettings

VERSION = 2
Sample = tuple[PromptRow, int]

KINDS: tuple[Kind, Kind] = ("red_team", "helpful")


def evaluation_samples(
    prompts: Sequence[PromptRow], samples_per_side: int, *, stratum: str | None = None
) -> list[Sample]:
    """Choose the prompts for all models: held-out red-team and helpful prompts.

    If there are too many, they are chosen evenly over tasks. If there are too few, all are
    repeated equally often, with sample indices 0, 1, … All models get the same prompts.

    Args:
        prompts: All prompts of the run.
        samples_per_side: The smallest number of red-team prompts, and of helpful prompts.
        stratum: Use only prompts with this `stratum` tag.

    Returns:
        (prompt, sample index) pairs, red-team first.

    Raises:
        CaiError: One of the two sides has no prompt.
    """
    return [
        sample
        for kind in KINDS
        for sample in _side(prompts, kind=kind, wanted=samples_per_side, stratum=stratum)
    ]


def answer_seed(seed: int, prompt: PromptRow, sample: int) -> int:
    """Return the seed of an answer's draws, the same for all models; it identifies the question."""
    return derive_seed(seed, prompt.key, sample)


@dataclass(frozen=True)
class Answerer:
    """Answers held-out prompts with a model. It has no engine, so it can be serialised.

    Attributes:
        name: The model's name in the report (`rl-cai`).
        settings: Sampling.
        seed: The run's seed. Draws depend on it, the prompt and the sample, but not on the model.
    """

    name: str
    settings: EvaluateSettings
    seed: int

    def item(self, sample: Sample, engine: Engine, grader: Grader) -> Item[Sample]:
        """Return the item of an answer, with all that determines it and its verdict."""
        prompt, number = sample
        fingerprint = content_hash(
            VERSION,
            engine.fingerprint,
            prompt.messages,
            prompt.task,
            prompt.tags,
            self._sampling,
            self.seed,
            grader.identity,
        )
        key = content_hash("answer", prompt.key, number, self.name)
        return Item(key, fingerprint, sample)

    async def row(
        self, item: Item[Sample], engine: Engine, grader: Grader, earlier: AnswerRow | None = None
    ) -> AnswerRow:
        """Answer a prompt with the model, and grade the answer without its thinking blocks.

        If only the grader has changed, the answer of the `earlier` row is graded again, and the
        model is not called.

        Returns:
            The graded answer; state `too_long`, without a verdict, if the prompt does not fit,
            `unparsed` if the answer is empty, `refused` or `failed` if there is none, and the
            grader's state if it gives no verdict.
        """
        prompt, number = item.inputs
        row = AnswerRow(
            key=item.key,
            model=self.name,
            kind=prompt.kind,
            messages=prompt.messages,
            task=prompt.task,
            tags=prompt.tags,
            response="",
            verdict={},
            provenance=Provenance(
                model=self.name,
                model_fingerprint=engine.fingerprint,
                template_hash="",
                sampling=self._sampling,
                seed=answer_seed(self.seed, prompt, number),
            ),
        )
        with failures_as_states(row):
            if earlier and _same_question(earlier, row):
                row.response, row.provenance = earlier.response, earlier.provenance
            else:
                completion = await engine.generate(
                    GenerateRequest(
                        Prompt(prompt.messages),
                        seed=row.provenance.seed,
                        max_tokens=self.settings.max_new_tokens,
                        temperature=self.settings.temperature,
                    )
                )
                row.provenance.sampling.update(completion.sampling)
                row.response = strip_thinking(completion.text)
                if not row.response:
                    raise NoVerdict("unparsed", nothing_said(completion.finish))
            row.verdict = await grader.grade(prompt.kind, prompt.messages, row.response)
        return row

    @property
    def _sampling(self) -> dict[str, float | int | str]:
        settings = self.settings
        return {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}


def _same_question(earlier: AnswerRow, row: AnswerRow) -> bool:
    """Return whether an earlier row has the answer that the model would give now.

    What its server was sent otherwise than asked for is recorded in words, and would be so again.
    """
    own = {n: v for n, v in earlier.provenance.sampling.items() if isinstance(v, str)}
    asked = row.provenance.model_copy(update={"sampling": {**row.provenance.sampling, **own}})
    return bool(earlier.response) and (earlier.messages, earlier.provenance) == (
        row.messages,
        asked,
    )


def _side(
    prompts: Sequence[PromptRow], *, kind: Kind, wanted: int, stratum: str | None
) -> list[Sample]:
    able = [
        prompt
        for prompt in prompts
        if prompt.split == "held_out"
        and prompt.kind == kind
        and prompt.state == "ok"
        and stratum in (None, prompt.tags.get("stratum"))
    ]
    if not able:
        which = f"held-out {kind} prompts" + (f" of stratum {stratum!r}" if stratum else "")
        fix = "or correct `evaluate.stratum`" if stratum else "or add prompts"
        raise CaiError(
            f"There are no {which}, and the evaluation needs both sides. Raise "
            f"`prompts.held_out`, {fix}."
        )
    chosen = _spread(able)[:wanted]
    samples = math.ceil(wanted / len(chosen))
    return [(prompt, sample) for sample in range(samples) for prompt in chosen]


def _spread(prompts: Sequence[PromptRow]) -> list[PromptRow]:
    """Order prompts so that the first N are spread evenly over tasks, for each N."""
    tasks: defaultdict[str, list[PromptRow]] = defaultdict(list)
    # Keys are hashes: their order is arbitrary, and the same in each run.
    for prompt in sorted(prompts, key=lambda prompt: prompt.key):
        tasks[prompt.task].append(prompt)
    rounds = chain.from_iterable(zip_longest(*tasks.values()))
    return [prompt for prompt in rounds if prompt is not None]
