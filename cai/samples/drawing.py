"""Sample several responses to one prompt from a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from cai.data.conversation import Prompt, strip_thinking
from cai.data.records import (
    PromptRow,
    Provenance,
    SampledResponse,
    SamplesRow,
    content_hash,
    derive_seed,
)
from cai.data.rows import Item
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.settings import SampleSettings

VERSION = 1


@dataclass(frozen=True)
class Sampler:
    """Samples the responses to a prompt; it has no engine.

    Attributes:
        settings: Sampling, and how many.
        policy: The policy's name. Draws depend on it, so that two policies of one run have
            independent samples.
        seed: The run's seed.
    """

    settings: SampleSettings
    policy: str
    seed: int

    def item(self, prompt: PromptRow, engine: Engine) -> Item[PromptRow]:
        """Return the item of a prompt's samples."""
        fingerprint = content_hash(
            VERSION,
            engine.fingerprint,
            prompt.messages,
            self.settings.sampling,
            self.settings.samples,
            self.policy,
            self.seed,
        )
        return Item(content_hash("samples", prompt.key), fingerprint, prompt)

    def items(self, prompts: Iterable[PromptRow], engine: Engine) -> list[Item[PromptRow]]:
        """Return the items of the training prompts, of each kind at most `settings.prompts`."""
        train = [p for p in prompts if p.split == "train" and p.state == "ok"]
        most = self.settings.prompts
        # Keys are hashes: their order is arbitrary, and the same in each run.
        chosen = [
            prompt
            for kind in ("red_team", "helpful")
            for prompt in sorted((p for p in train if p.kind == kind), key=lambda p: p.key)[:most]
        ]
        return [self.item(prompt, engine) for prompt in chosen]

    async def row(self, item: Item[PromptRow], engine: Engine) -> SamplesRow:
        """Sample the responses; they have no scores yet.

        Returns:
            The samples; state `too_long` if the prompt does not fit, `refused` or `failed` if a
            server gives no answer, `unparsed` if all responses are empty.
        """
        prompt = item.inputs
        row = SamplesRow(
            key=item.key,
            kind=prompt.kind,
            messages=prompt.messages,
            task=prompt.task,
            provenance=Provenance(
                model=self.policy,
                model_fingerprint=engine.fingerprint,
                template_hash="",
                sampling=self.settings.sampling,
                seed=self.seed,
            ),
        )
        requests = [
            GenerateRequest(
                Prompt(prompt.messages),
                seed=derive_seed(self.seed, item.key, self.policy, number),
                max_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
            )
            for number in range(self.settings.samples)
        ]
        try:
            found = await asyncio.gather(*(engine.generate(request) for request in requests))
        except (PromptTooLong, Unanswered) as error:
            row.state, row.error = error.state, str(error)
            return row
        for completion in found:
            row.provenance.sampling.update(completion.sampling)
        row.samples = [
            SampledResponse(text=strip_thinking(one.text), ended=one.finish == "stop")
            for one in found
        ]
        if not any(sample.text for sample in row.samples):
            row.state, row.error = "unparsed", "all responses are empty"
        return row
