"""The responses that are compared: samples of SL-CAI, some of the helpful-only model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cai.data.conversation import Prompt, strip_thinking, turns_kept
from cai.data.records import (
    PairRow,
    PromptRow,
    Provenance,
    ResponseSample,
    content_hash,
    derive_seed,
)
from cai.data.rows import Item
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.settings import CompareSettings
from cai.templates import template_hash

VERSION = 3
PairInputs = tuple[PromptRow, bool]


@dataclass(frozen=True)
class Responder:
    """Samples the responses to compare; it has no engine.

    Attributes:
        settings: Sampling, and how many.
        seed: The run's seed.
        names: What rows call the model to be improved, and the helpful-only model.
    """

    settings: CompareSettings
    seed: int
    names: tuple[str, str] = ("sl-cai", "helpful-only")

    def item(
        self, prompt: PromptRow, policy: Engine, helpful: Engine, sample: int = 0
    ) -> Item[PairInputs]:
        """Return the item of a pair, and decide whether it has a helpful-only response."""
        key = content_hash("pair", prompt.key, sample)
        draw = derive_seed(self.seed, key, "against") / 2**63
        against_helpful = draw < self.settings.against_helpful
        fingerprint = content_hash(
            VERSION,
            policy.fingerprint,
            (helpful if against_helpful else policy).fingerprint,
            # As transcripts write them: rows from before these kept turns apart are made again.
            turns_kept(prompt.messages),
            prompt.task,
            self.settings.sampling,
            self.settings.responses,
            self.seed,
        )
        return Item(key, fingerprint, (prompt, against_helpful))

    def items(
        self, prompts: Iterable[PromptRow], policy: Engine, helpful: Engine
    ) -> list[Item[PairInputs]]:
        """Name the pairs of a stage: several per red-team prompt of the training split."""
        return [
            self.item(prompt, policy, helpful, sample)
            for prompt in prompts
            if prompt.split == "train" and prompt.kind == "red_team"
            for sample in range(self.settings.pairs_per_prompt)
        ]

    async def row(self, item: Item[PairInputs], policy: Engine, helpful: Engine) -> PairRow:
        """Sample responses to one prompt: all of the policy, or the last of the helpful-only model.

        Returns:
            The responses; state `tie` if they are all the same, `too_long` if the prompt does not
            fit, `unparsed` if one is empty.
        """
        prompt, against_helpful = item.inputs
        row = PairRow(
            key=item.key,
            kind=prompt.kind,
            messages=prompt.messages,
            task=prompt.task,
            responses=(_NOTHING,) * self.settings.responses,
            provenance=Provenance(
                model=self.names[0],
                model_fingerprint=policy.fingerprint,
                template_hash=template_hash(),
                sampling=self.settings.sampling,
                seed=self.seed,
            ),
        )
        samples: list[ResponseSample] = []
        try:
            for number in range(self.settings.responses):
                other = against_helpful and number == self.settings.responses - 1
                completion = await (helpful if other else policy).generate(
                    GenerateRequest(
                        Prompt(prompt.messages),
                        seed=derive_seed(self.seed, item.key, "response", number),
                        max_tokens=self.settings.max_new_tokens,
                        temperature=self.settings.temperature,
                    )
                )
                row.provenance.sampling.update(completion.sampling)
                samples.append(
                    ResponseSample(
                        text=strip_thinking(completion.text),
                        model=self.names[other],
                        ended=completion.finish == "stop",
                    )
                )
        except (PromptTooLong, Unanswered) as error:
            row.state, row.error = error.state, str(error)
            return row
        row.responses = tuple(samples)
        if not all(sample.text for sample in samples):
            row.state, row.error = "unparsed", "a response is empty"
        elif len({sample.text for sample in samples}) == 1:
            row.state, row.error = "tie", "the responses are the same"
        return row


_NOTHING = ResponseSample(text="", model="", ended=False)
