"""Critique-revision chains: draws, questions and answers of a row (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
ChainInputs = tuple[PromptRow, tuple[Principle, ...], RevisionRow | None]
"""The prompt, the principle of each round, and the row with the first response if there is one."""


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

    def item(
        self,
        prompt: PromptRow,
        engine: Engine,
        sample: int = 0,
        answered: RevisionRow | None = None,
    ) -> Item[ChainInputs]:
        """Draw the principles of a chain; the fingerprint has all that determines it.

        One principle per round is drawn, with replacement (paper, section 3.1). Helpful prompts
        get a response and no rounds.

        Args:
            prompt: What is answered.
            engine: What the fingerprint is for.
            sample: The number of the response, where a prompt gets several.
            answered: The row with the first response, which is then not asked for. Another model
                can have made it.
        """
        key = self._key(prompt, sample)
        rounds = self.settings.rounds if prompt.kind == "red_team" else 0
        principles = tuple(
            draw(self.constitution.supervised, seed=self.seed, key=key, round=number)
            for number in range(rounds)
        )
        given = answered and [
            answered.fingerprint,
            answered.state,
            answered.error,
            answered.response,
            answered.ended,
        ]
        if answered and _is_whole(answered, principles):
            return Item(key, content_hash(VERSION, given), (prompt, principles, answered))
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
            *([given] if given else ()),
        )
        return Item(key, fingerprint, (prompt, principles, answered))

    def items(
        self,
        prompts: Iterable[PromptRow],
        engine: Engine,
        first: Mapping[str, RevisionRow] | None = None,
    ) -> list[Item[ChainInputs]]:
        """Return the chains of a stage: one per red-team prompt, several per helpful prompt.

        Held-out prompts get none. `first` has the rows with the first responses by key, which the
        `responder` has made.
        """
        return [
            self.item(prompt, engine, sample, None if first is None else first[key])
            for prompt in prompts
            if prompt.split == "train"
            for sample in range(self.settings.helpful_samples if prompt.kind == "helpful" else 1)
            for key in (self._key(prompt, sample),)
        ]

    @property
    def responder(self) -> Reviser:
        """Makes the first responses of these chains, and nothing more."""
        return replace(self, settings=self.settings.model_copy(update={"rounds": 0}))

    @staticmethod
    def _key(prompt: PromptRow, sample: int) -> str:
        return content_hash("revise", prompt.key, sample)

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
            messages,
            response,
            str(principle.critique),
            self._shown(principle),
            asking=self.settings.asking,
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
            self._shown(principle),
            asking=self.settings.asking,
        )

    def _shown(self, principle: Principle) -> tuple[CritiqueExample, ...]:
        """Return the worked examples that are shown before a request of a principle."""
        examples = self.constitution.few_shot.critique
        if self.settings.few_shot_order == "principle":
            examples = sorted(examples, key=lambda one: not one.is_of(principle))
        return tuple(examples[: self.settings.few_shot])

    async def row(self, item: Item[ChainInputs], engine: Engine) -> RevisionRow:
        """Answer a prompt, if it is not answered, then criticise and rewrite once per principle.

        Thinking blocks are removed from all outputs.

        Returns:
            The chain, or where there is nothing to revise, the row with the first response. Its
            state is `too_long` if a prompt does not fit the model's context, and `unparsed` if the
            model returned no text; the steps before that are kept.
        """
        prompt, principles, answered = item.inputs
        if answered and _is_whole(answered, principles):
            return answered.model_copy(deep=True)
        row = RevisionRow(
            key=item.key,
            kind=prompt.kind,
            messages=prompt.messages,
            task=prompt.task,
            response=answered.response if answered else "",
            ended=bool(answered and answered.ended),
            responder=answered and answered.provenance,
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

    async def _fill(self, row: RevisionRow, item: Item[ChainInputs], engine: Engine) -> None:
        """Add the response and each step to the row at once, so that they are kept on an error."""
        prompt, principles, answered = item.inputs
        say = partial(self._say, engine, row)
        if answered is None:
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


def _is_whole(answered: RevisionRow, principles: Sequence[Principle]) -> bool:
    """Return whether a row with a first response is the chain: there is nothing to revise."""
    return not principles or answered.state != "ok"


def _named(prompt: Prompt) -> list[object]:
    return [list(prompt.messages), prompt.prefill, prompt.speaker]


@cache
def _turns_hash() -> str:
    """Return the hash of the turns of critique and revision, which use no template file."""
    asked = critique_prompt((), "", ""), revision_prompt((), "", "", "", "")
    return content_hash(*map(_named, asked))


class EmptyAnswer(Exception):  # noqa: N818 (a row's state, not a programming error)
    """The model ended its turn at once, or returned only thinking."""
