"""The supervised stage's data: responses, critiques and revisions (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable

from cai.constitution import Constitution, Principle, draw
from cai.conversation import Prompt, strip_thinking
from cai.engines import Engine, GenerateRequest, PromptTooLong
from cai.records import (
    PrincipleUse,
    PromptRow,
    Provenance,
    RevisionRow,
    RevisionStep,
    content_hash,
    derive_seed,
)
from cai.rows import Item
from cai.settings import ReviseSettings
from cai.templates import critique_prompt, revision_prompt, template_hash

VERSION = 1
Inputs = tuple[PromptRow, tuple[Principle, ...]]


def revise_item(
    prompt: PromptRow,
    sample: int,
    *,
    constitution: Constitution,
    settings: ReviseSettings,
    model_fingerprint: str,
    seed: int,
) -> Item[Inputs]:
    """Draw the principles of a chain and name everything that will determine it.

    A principle is drawn for each round, with replacement (paper, section 3.1). Helpful prompts get
    a response and no rounds.
    """
    key = content_hash("revise", prompt.key, sample)
    rounds = settings.rounds if prompt.kind == "red_team" else 0
    principles = tuple(
        draw(constitution.supervised, seed=seed, key=key, round=number) for number in range(rounds)
    )
    fingerprint = content_hash(
        VERSION,
        model_fingerprint,
        prompt.messages,
        prompt.task,
        [principle.supervised_hash for principle in principles],
        constitution.few_shot.critique if rounds else [],
        template_hash(),
        _sampling(settings),
        settings.critique,
        seed,
    )
    return Item(key, fingerprint, (prompt, principles))


def revise_items(
    prompts: Iterable[PromptRow],
    *,
    constitution: Constitution,
    settings: ReviseSettings,
    model_fingerprint: str,
    seed: int,
) -> list[Item[Inputs]]:
    """Name the chains of a stage: one per red-team prompt, several samples per helpful prompt.

    Held-out prompts get none.
    """
    return [
        revise_item(
            prompt,
            sample,
            constitution=constitution,
            settings=settings,
            model_fingerprint=model_fingerprint,
            seed=seed,
        )
        for prompt in prompts
        if prompt.split == "train"
        for sample in range(settings.helpful_samples if prompt.kind == "helpful" else 1)
    ]


async def critique_and_revise(
    item: Item[Inputs],
    *,
    constitution: Constitution,
    settings: ReviseSettings,
    engine: Engine,
    model: str,
    seed: int,
) -> RevisionRow:
    """Answer a prompt, then criticise and rewrite the answer once per principle.

    Thinking blocks are removed from everything the model says before it is used.

    Returns:
        The whole chain. Its state is `too_long` when a prompt no longer fits the model's context
        and `unparsed` when the model said nothing; the steps before that are kept.
    """
    prompt, principles = item.inputs
    few_shot = constitution.few_shot.critique
    row = RevisionRow(
        key=item.key,
        kind=prompt.kind,
        messages=prompt.messages,
        task=prompt.task,
        response="",
        ended=False,
        provenance=Provenance(
            model=model,
            model_fingerprint=engine.fingerprint,
            template_hash=template_hash(),
            sampling=_sampling(settings),
            seed=seed,
        ),
    )

    async def say(asked: Prompt, *purpose: object) -> tuple[str, bool]:
        completion = await engine.generate(
            GenerateRequest(
                asked,
                seed=derive_seed(seed, item.key, *purpose),
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
            )
        )
        text = strip_thinking(completion.text)
        if not text:
            raise EmptyAnswer(" ".join(str(part) for part in purpose))
        return text, completion.finish == "stop"

    try:
        row.response, row.ended = await say(Prompt(prompt.messages), "response")
        current = row.response
        for number, principle in enumerate(principles):
            request, rewrite = str(principle.critique), str(principle.revision)
            critique = None
            if settings.critique:
                critique, _ = await say(
                    critique_prompt(prompt.messages, current, request, few_shot),
                    "critique",
                    number,
                )
            asked = revision_prompt(prompt.messages, current, request, critique, rewrite, few_shot)
            current, ended = await say(asked, "revision", number)
            use = PrincipleUse(id=principle.id, text_hash=principle.supervised_hash)
            row.steps.append(
                RevisionStep(principle=use, critique=critique, revision=current, ended=ended)
            )
    except PromptTooLong as error:
        row.state, row.error = "too_long", str(error)
    except EmptyAnswer as error:
        row.state, row.error = "unparsed", f"the model said nothing as its {error}"
    return row


class EmptyAnswer(Exception):  # noqa: N818 (a row's state, not a programming error)
    """The model ended its turn at once, or said nothing but thoughts."""


def _sampling(settings: ReviseSettings) -> dict[str, float | int | str]:
    return {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
