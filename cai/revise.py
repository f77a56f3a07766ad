"""The supervised stage's data: responses, critiques and revisions (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial

from cai.constitution import Constitution, Principle, draw
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
    """Return a conversation that ends with the user's turn as a red-team prompt of no file."""
    key = content_hash("try", messages)
    return PromptRow(
        key=key, kind="red_team", split="train", messages=messages, source="try", task=key
    )


@dataclass(frozen=True)
class Reviser:
    """Makes critique-revision chains; it holds no engine, so it can be sent to another process.

    Attributes:
        constitution: Where principles and worked examples come from.
        settings: Rounds and sampling.
        seed: Decides draws and samples.
    """

    constitution: Constitution
    settings: ReviseSettings = field(default_factory=ReviseSettings)
    seed: int = 0

    def item(self, prompt: PromptRow, engine: Engine, sample: int = 0) -> Item[Inputs]:
        """Draw the principles of a chain and name everything that will determine it.

        A principle is drawn for each round, with replacement (paper, section 3.1). Helpful prompts
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
        """Name the chains of a stage: one per red-team prompt, several samples per helpful prompt.

        Held-out prompts get none.
        """
        return [
            self.item(prompt, engine, sample)
            for prompt in prompts
            if prompt.split == "train"
            for sample in range(self.settings.helpful_samples if prompt.kind == "helpful" else 1)
        ]

    def _asked(self, messages: Conversation, principle: Principle) -> list[Prompt]:
        """Return the questions of a round, but for what the model will have said until then."""
        request, rewrite = str(principle.critique), str(principle.revision)
        examples = self.constitution.few_shot.critique
        if not self.settings.critique:
            return [revision_prompt(messages, "", request, None, rewrite, examples)]
        return [
            critique_prompt(messages, "", request, examples),
            revision_prompt(messages, "", request, "", rewrite, examples),
        ]

    async def row(self, item: Item[Inputs], engine: Engine) -> RevisionRow:
        """Answer a prompt, then criticise and rewrite the answer once per principle.

        Thinking blocks are removed from everything the model says before it is used.

        Returns:
            The whole chain. Its state is `too_long` when a prompt no longer fits the model's
            context and `unparsed` when the model said nothing; the steps before that are kept.
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
        except PromptTooLong as error:
            row.state, row.error = "too_long", str(error)
        except Unanswered as error:
            row.state, row.error = error.state, str(error)
        except EmptyAnswer as error:
            row.state, row.error = "unparsed", f"the model said nothing as its {error}"
        return row

    async def _fill(self, row: RevisionRow, item: Item[Inputs], engine: Engine) -> None:
        """Put the response and each step into the row as soon as it is there."""
        prompt, principles = item.inputs
        examples = self.constitution.few_shot.critique
        say = partial(self._say, engine, item.key)
        row.response, row.ended = await say(Prompt(prompt.messages), "response")
        current = row.response
        for number, principle in enumerate(principles):
            request, rewrite = str(principle.critique), str(principle.revision)
            critique = None
            if self.settings.critique:
                asked = critique_prompt(prompt.messages, current, request, examples)
                critique, _ = await say(asked, "critique", number)
            asked = revision_prompt(prompt.messages, current, request, critique, rewrite, examples)
            current, ended = await say(asked, "revision", number)
            use = PrincipleUse(id=principle.id, text_hash=principle.supervised_hash)
            row.steps.append(
                RevisionStep(principle=use, critique=critique, revision=current, ended=ended)
            )

    async def _say(
        self, engine: Engine, key: str, prompt: Prompt, *purpose: object
    ) -> tuple[str, bool]:
        """Return what the model says, and whether it came to its end."""
        completion = await engine.generate(
            GenerateRequest(
                prompt,
                seed=derive_seed(self.seed, key, *purpose),
                max_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
            )
        )
        text = strip_thinking(completion.text)
        if not text:
            raise EmptyAnswer(" ".join(str(part) for part in purpose))
        return text, completion.finish == "stop"


def _named(prompt: Prompt) -> list[object]:
    return [list(prompt.messages), prompt.prefill, prompt.speaker]


@cache
def _turns_hash() -> str:
    """Name the turns of critique and revision, in which no template of a file is used."""
    asked = critique_prompt((), "", ""), revision_prompt((), "", "", "", "")
    return content_hash(*map(_named, asked))


class EmptyAnswer(Exception):  # noqa: N818 (a row's state, not a programming error)
    """The model ended its turn at once, or said nothing but thoughts."""
