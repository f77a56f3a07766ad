"""More red-team prompts, written by a model from a few examples; near-duplicates are left out.

In the paper (section 3.2) a model wrote 140,335 red-team prompts, and people wrote 42,496.
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
        count: The number of prompts.
        shots: The number of examples in each request.
        attempts: The largest number of requests per prompt.
        near_duplicate: Prompts with this word 3-gram overlap (Jaccard) or more are left out.
        max_new_tokens: The longest prompt.
        temperature: Of sampling.
        concurrency: The number of requests at the same time.
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
        attempt: The number of the request, which seeds the draw of examples.
        examples: The examples of the request.
    """

    text: str = ""
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

    The examples of a request are drawn from the given prompts, so a request does not depend on the
    results of others.

    Returns:
        At most `settings.count` prompts in the order of their requests, none a near-duplicate of a
        seed or of another; fewer if `settings.attempts` are not enough.

    Raises:
        CaiError: There are fewer seeds than examples in a request, or they do not fit the model.
    """
    if len(seeds) < settings.shots:
        raise CaiError(
            f"Each request needs {settings.shots} examples, and the file has {len(seeds)}: give "
            "more prompts, or lower `--shots`."
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
    row = Grown(key=str(number), attempt=number, examples=examples)
    try:
        completion = await engine.generate(request)
    except PromptTooLong as problem:
        raise CaiError(
            f"{settings.shots} examples do not fit the model ({problem}): lower `--shots`, or give"
            " shorter prompts."
        ) from None
    except Unanswered as problem:
        row.state, row.error = problem.state, str(problem)
        return row
    # A text that the token limit cut off is not a whole prompt.
    row.text = _cleaned(completion.text) if completion.finish == "stop" else ""
    row.state = "ok" if row.text else "unparsed"
    return row


def _cleaned(text: str) -> str:
    """Return the first paragraph, without a number or quotes around it."""
    first = strip_thinking(text).split("\n\n")[0]
    return _NUMBER.sub("", first).strip().strip(_QUOTES).strip()


def _new(
    seeds: Sequence[str], kept: Sequence[Grown], said: Sequence[Grown], threshold: float
) -> list[Grown]:
    """Return the prompts that are near-duplicates of no seed and of no prompt before them."""
    known = [*seeds, *(grown.text for grown in kept)]
    groups = near_duplicate_groups([*known, *(grown.text for grown in said)], threshold)
    new: list[Grown] = []
    for place, grown in enumerate(said, start=len(known)):
        # The first of a group is near no text before it. Another member may be near only to a
        # text that was left out, so it is compared with the kept ones.
        texts = [*known, *(one.text for one in new), grown.text]
        alone = groups[place] == place
        if alone or near_duplicate_groups(texts, threshold)[-1] == len(texts) - 1:
            new.append(grown)
    return new
