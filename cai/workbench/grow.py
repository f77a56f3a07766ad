"""More red-team prompts, written by a model after a few examples and de-duplicated.

The paper had its model write most of its red-team prompts (section 3.2): 140,335 beside 42,496 of
people's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cai.data.conversation import strip_thinking
from cai.data.prompts.near_duplicates import near_duplicate_groups
from cai.data.records import Row, content_hash, derive_seed
from cai.data.rows import Item, Task, run_rows, silent
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.errors import CaiError
from cai.templates import grow_prompt

_NUMBER = re.compile(r"^\s*(\d+[.)]|[-*•])\s+")
_QUOTES = "\"'“”‘’`"


@dataclass(frozen=True)
class GrowSettings:
    """The settings of growing prompts.

    Attributes:
        count: How many to make.
        shots: Examples in each request.
        attempts: At most so many requests per prompt wanted; then it is enough.
        near_duplicate: Word 3-gram overlap (Jaccard) from which a prompt is no new one.
        max_new_tokens: The longest prompt.
        temperature: Of sampling.
        concurrency: Requests under way at once.
    """

    count: int
    shots: int = 5
    attempts: int = 5
    near_duplicate: float = 0.5
    max_new_tokens: int = 96
    temperature: float = 1.0
    concurrency: int = 64


class Grown(Row):
    """A prompt that a model wrote; `unparsed` when it was cut off or has no text.

    Attributes:
        text: The prompt.
        attempt: The number of the request; with the seed it names the draw of examples.
        examples: What it was written after.
    """

    text: str
    attempt: int
    examples: tuple[str, ...]


async def grow(
    seeds: Sequence[str],
    *,
    settings: GrowSettings,
    engine: Engine,
    seed: int,
    task: Task = silent,
) -> list[Grown]:
    """Write prompts like the given ones with a model until there are enough new ones.

    The examples of a request are drawn by hash among the given prompts alone, so a request does not
    depend on what other requests gave.

    Args:
        seeds: Prompts that people wrote; the examples are drawn among them.
        settings: How many, and how.
        engine: The model.
        seed: Decides draws and samples.
        task: Shows how many prompts have been kept.

    Returns:
        At most `settings.count` prompts in the order of their requests, none a near-duplicate of a
        seed or of another; fewer when the model had no more to say.

    Raises:
        CaiError: There are fewer seeds than examples are wanted, or they do not fit the model.
    """
    if len(seeds) < settings.shots:
        raise CaiError(
            f"Each request needs {settings.shots} examples, but there are only"
            f" {len(seeds)} prompts: give more, or lower `--shots`."
        )

    async def make(item: Item[int]) -> Grown:
        return await _ask(seeds, item.inputs, settings, engine, seed)

    kept: list[Grown] = []
    attempts = range(settings.attempts * settings.count)
    with task(settings.count) as advance:
        while len(kept) < settings.count and attempts:
            wave, attempts = attempts[: settings.concurrency], attempts[settings.concurrency :]
            items = [Item(str(number), "", number) for number in wave]
            result = await run_rows(items, make, concurrency=settings.concurrency)
            said = [row for row in result.rows if row.state == "ok"]
            new = _new(seeds, kept, said, settings.near_duplicate)[: settings.count - len(kept)]
            kept += new
            for _ in new:
                advance()
    return kept


async def _ask(
    seeds: Sequence[str], number: int, settings: GrowSettings, engine: Engine, seed: int
) -> Grown:
    ranked = sorted(seeds, key=lambda text: content_hash("example", seed, number, text))
    examples = tuple(ranked[: settings.shots])
    request = GenerateRequest(
        grow_prompt(examples),
        seed=derive_seed(seed, "grow", number),
        max_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
    )
    try:
        completion = await engine.generate(request)
    except PromptTooLong as problem:
        raise CaiError(
            f"{settings.shots} examples do not fit the model ({problem}): lower `--shots`, or give"
            " shorter prompts."
        ) from None
    except Unanswered as problem:
        return Grown(
            key=str(number),
            state=problem.state,
            error=str(problem),
            text="",
            attempt=number,
            examples=examples,
        )
    # What the token limit cut off is no whole prompt.
    text = _cleaned(completion.text) if completion.finish == "stop" else ""
    return Grown(
        key=str(number),
        state="ok" if text else "unparsed",
        text=text,
        attempt=number,
        examples=examples,
    )


def _cleaned(text: str) -> str:
    """Return the first paragraph, without a number or quotes around it."""
    first = strip_thinking(text).split("\n\n")[0]
    return _NUMBER.sub("", first).strip().strip(_QUOTES).strip()


def _new(
    seeds: Sequence[str], kept: Sequence[Grown], said: Sequence[Grown], threshold: float
) -> list[Grown]:
    """Return what is near no seed and nothing that was kept before it, whatever the waves."""
    known = [*seeds, *(grown.text for grown in kept)]
    groups = near_duplicate_groups([*known, *(grown.text for grown in said)], threshold)
    new: list[Grown] = []
    for place, grown in enumerate(said, start=len(known)):
        # The first of a group is near nothing before it. Another member may be near only to what
        # was left out itself, so it is looked at beside what was kept.
        texts = [*known, *(one.text for one in new), grown.text]
        alone = groups[place] == place
        if alone or near_duplicate_groups(texts, threshold)[-1] == len(texts) - 1:
            new.append(grown)
    return new
