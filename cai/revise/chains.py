"""Critique-revision chains: draws, questions and answers of a row (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial

from cai.constitution import Constitution, Principle, draw
from cai.constitution.schema import CritiqueExample
from cai.data.conversation import Conversation, Prompt, strip_thinking
from cai.data.records import (
    PrincipleUse,
    PromptRow,
    Provenance,
    RevisionRow,
    RevisionStep,
    content_hash,
    derive_seed,
)
from cai.data.rows import Item
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.settings import ReviseSettings
from cai.templates import critique_prompt, revision_prompt

VERSION = 1
Inputs = tuple[PromptRow, tuple[Principle, ...]]


def single_prompt(messages: Conversation) -> PromptRow:
    """Return a conversation that ends with the user's turn as a red-team prompt."""
    key = content_hash("try", messages)
    return PromptRow(
        key=key, kind="red_team", split="train", messages=messages, source="try", task=key
    )


@dataclass(frozen=True)
class Reviser:
    """Makes critique-revision chains. It has no engine, so it can be sent to another process."""

    constitution: Constitution
    settings: ReviseSettings = field(default_factory=ReviseSettings)
    seed: int = 0

    def item(self, prompt: PromptRow, engine: Engine, sample: int = 0) -> Item[Inputs]:
        """Draw the principles of a chain; the fingerprint has all that determines it.

        One principle per round is drawn, with replacement (paper, section 3.1). Helpful prompts
        get a response and no rounds.
        """
        key = content_hash("revise", prompt.key, sample)
        rounds = self.settings.rounds if prompt.kind == "red_team" else 0
        principles = tuple(
            draw(self.constitution.supervised, seed=self.seed, key=key, round=number)
            for number in range(rounds)
        )
        fingerprint = content_hash(
            VERSION,
            engine.fingerprint,
            prompt.messages,
            prompt.task,
            [
                [principle.supervised_hash, *map(_named, self._asked(prompt.messages, principle))]
                for principle in principles
            ],
            self.settings.sampling,
            self.seed,
        )
        return Item(key, fingerprint, (prompt, principles))

    def items(self, prompts: Iterable[PromptRow], engine: Engine) -> list[Item[Inputs]]:
        """Return the chains of a stage: one per red-team prompt, several per helpful prompt.

        Held-out prompts get none.
        """
        return [
            self.item(prompt, engine, sample)
            for prompt in prompts
            if prompt.split == "train"
            for sample in range(self.settings.helpful_samples if prompt.kind == "helpful" else 1)
        ]

    def _asked(self, messages: Conversation, principle: Principle) -> list[Prompt]:
        """Return the questions of a round, without the texts that the model will write."""
        if not self.settings.critique:
            return [self._revision_prompt(messages, "", None, principle)]
        return [
            self._critique_prompt(messages, "", principle),
            self._revision_prompt(messages, "", "", principle),
        ]

    def _critique_prompt(
        self, messages: Conversation, response: str, principle: Principle
    ) -> Prompt:
        return critique_prompt(
            messages, response, str(principle.critique), self._shown, asking=self.settings.asking
        )

    def _revision_prompt(
        self, messages: Conversation, response: str, critique: str | None, principle: Principle
    ) -> Prompt:
        return revision_prompt(
            messages,
            response,
            str(principle.critique),
            critique,
            str(principle.revision),
            self._shown,
            asking=self.settings.asking,
        )

    @property
    def _shown(self) -> tuple[CritiqueExample, ...]:
        return tuple(self.constitution.few_shot.critique[: self.settings.few_shot])

    async def row(self, item: Item[Inputs], engine: Engine) -> RevisionRow:
        """Answer a prompt, then criticise and rewrite the answer once per principle.

        Thinking blocks are removed from all outputs.

        Returns:
            The chain. Its state is `too_long` if a prompt does not fit the model's context, and
            `unparsed` if the model returned no text; the steps before that are kept.
        """
        prompt, _ = item.inputs
        row = RevisionRow(
            key=item.key,
            kind=prompt.kind,
            messages=prompt.messages,
            task=prompt.task,
            response="",
            ended=False,
            provenance=Provenance(
                model=engine.name,
                model_fingerprint=engine.fingerprint,
                template_hash=_turns_hash(),
                sampling=self.settings.sampling,
                seed=self.seed,
            ),
        )
        try:
            await self._fill(row, item, engine)
        except (PromptTooLong, Unanswered) as error:
            row.state, row.error = error.state, str(error)
        except EmptyAnswer as error:
            row.state, row.error = "unparsed", f"the model's {error} is empty"
        return row

    async def _fill(self, row: RevisionRow, item: Item[Inputs], engine: Engine) -> None:
        """Add the response and each step to the row at once, so that they are kept on an error."""
        prompt, principles = item.inputs
        say = partial(self._say, engine, row)
        row.response, row.ended = await say(Prompt(prompt.messages), "response")
        current = row.response
        for number, principle in enumerate(principles):
            critique = None
            if self.settings.critique:
                asked = self._critique_prompt(prompt.messages, current, principle)
                critique, _ = await say(asked, "critique", number)
            asked = self._revision_prompt(prompt.messages, current, critique, principle)
            current, ended = await say(asked, "revision", number)
            use = PrincipleUse(id=principle.id, text_hash=principle.supervised_hash)
            row.steps.append(
                RevisionStep(principle=use, critique=critique, revision=current, ended=ended)
            )

    async def _say(
        self, engine: Engine, row: RevisionRow, prompt: Prompt, *purpose: object
    ) -> tuple[str, bool]:
        """Return the model's text, and whether it is complete."""
        completion = await engine.generate(
            GenerateRequest(
                prompt,
                seed=derive_seed(self.seed, row.key, *purpose),
                max_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
            )
        )
        row.provenance.sampling.update(completion.sampling)
        text = strip_thinking(completion.text)
        if not text:
            raise EmptyAnswer(" ".join(str(part) for part in purpose))
        return text, completion.finish == "stop"


def _named(prompt: Prompt) -> list[object]:
    return [list(prompt.messages), prompt.prefill, prompt.speaker]


@cache
def _turns_hash() -> str:
    """Return the hash of the turns of critique and revision, which use no template file."""
    asked = critique_prompt((), "", ""), revision_prompt((), "", "", "", "")
    return content_hash(*map(_named, asked))


class EmptyAnswer(Exception):  # noqa: N818 (a row's state, not a programming error)
    """The model ended its turn at once, or returned only thinking."""
