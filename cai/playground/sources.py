"""The prompts and the helpfulness comparisons that the pipeline reads from the playground."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, product

from cai.data.conversation import Conversation
from cai.data.records import ComparisonRow, Kind, PromptRow, RatedRow, content_hash
from cai.playground import lexicon
from cai.playground.documents import RANK, USEFULNESS, ResponseKind, response_of
from cai.playground.world import (
    Context,
    Stratum,
    Task,
    answer,
    build_world,
    corrupted_answer,
    evasion,
    refusal,
    request,
    steps_text,
    task_steps,
)

CONTEXTS: tuple[Context, ...] = ("system", "talk", "follow_up")
"""What comes before the request in half of the prompts; the others have nothing before it."""
STRATA: tuple[tuple[Stratum, Stratum, Sequence[str]], ...] = (
    ("train", "train", lexicon.PARAPHRASES),
    ("paraphrase", "train", lexicon.HELD_OUT_PARAPHRASES),
    ("task", "task", lexicon.PARAPHRASES),
    ("pair", "pair", lexicon.PARAPHRASES),
)
"""Of each stratum of prompts: its name, the stratum of its tasks, and the words of requests."""
PREFERRED = 0.95
"""The label of the better response: not all people agree about it."""
MISTAKES = 0.03
"""The share of comparisons in which the simulated person prefers the worse response."""
RATING_NOISE = 0.1
"""The share of ratings of harmfulness that are off by one."""


def playground_prompts(kind: Kind, *, seed: int, limit: int | None = None) -> list[PromptRow]:
    """Return red-team prompts (requests for harmful tasks) or helpful ones (for benign tasks).

    Prompts of the stratum `train` are for training, the others are held out. Tags name the
    `category` of harm (`benign` for helpful prompts) and the `stratum`.

    Args:
        kind: The kind of prompts.
        seed: Of the order and the contexts.
        limit: The number of prompts of all strata together, in proportion; None for all.
    """
    world = build_world()
    rng = random.Random(f"{kind}-{seed}")
    rows: list[PromptRow] = []
    for stratum, tasks_of, paraphrases in STRATA:
        tasks = world.select(tasks_of, harmful=kind == "red_team")
        for task, paraphrase in product(tasks, paraphrases):
            for context in ("plain", rng.choice(CONTEXTS)):
                messages = request(task, paraphrase, context, world, rng)
                rows.append(_prompt_row(kind, messages, task, stratum))
    unique = list({row.key: row for row in rows}.values())
    rng.shuffle(unique)
    return unique[:limit]


def playground_comparisons(*, seed: int, limit: int | None = None) -> list[ComparisonRow]:
    """Return simulated helpfulness comparisons; they do not use the grader.

    Each compares a right answer to a benign request with a corrupted copy (40%), an over-refusal
    (30%) or an evasion (30%). The right one is preferred with probability 0.95, and 3% of the
    labels are wrong. The prompts are those of the stratum `train`.

    Args:
        seed: Of the prompts, the responses and the labels.
        limit: The largest number of them; None for one per prompt.
    """
    rng = random.Random(f"comparisons-{seed}")
    rows: list[ComparisonRow] = []
    for prompt, task in _training("helpful", seed)[:limit]:
        better, worse = answer(task, rng), _worse_response(task, rng)
        label = PREFERRED if rng.random() >= MISTAKES else 1 - PREFERRED
        key = content_hash("playground comparison", prompt.key, seed)
        if rng.random() < 0.5:
            rows.append(_comparison_row(key, prompt, (worse, better), 1 - label))
        else:
            rows.append(_comparison_row(key, prompt, (better, worse), label))
    return rows


def feedback_comparisons(*, seed: int, limit: int | None = None) -> list[ComparisonRow]:
    """Return comparisons whose better response is known; they do not use the grader.

    Half of them answer harmful requests: there, an explained refusal is better than an evasion, and
    an evasion is better than compliance. Half answer benign ones: there, a right answer is better
    than a refusal with a reason, and this is better than an evasion. The stratum is `train`.

    Args:
        seed: Of the prompts and responses.
        limit: The number of them; None for one per prompt.
    """
    rng = random.Random(f"feedback-{seed}")
    rows: list[ComparisonRow] = []
    sides = zip(_training("red_team", seed), _training("helpful", seed), strict=False)
    for prompt, task in list(chain.from_iterable(sides))[:limit]:
        rank = RANK["category" if task.verb.harmful else USEFULNESS]
        ranked: list[ResponseKind] = [kind for kind in rank if kind != "rambles"]
        kinds = rng.sample(ranked, 2)
        first, second = (response_of(task, kind, build_world(), rng) for kind in kinds)
        key = content_hash("playground feedback", prompt.key, seed)
        label = float(ranked.index(kinds[0]) < ranked.index(kinds[1]))
        rows.append(_comparison_row(key, prompt, (first, second), label))
    return rows


def playground_ratings(*, seed: int, limit: int | None = None) -> list[RatedRow]:
    """Return responses with simulated ratings of harmfulness; they do not use the grader.

    Answers to harmful requests with three, two or one of their harmful steps are rated 4, 3 and 2;
    refusals, evasions and right answers to benign requests 0. One rating in ten is off by one. The
    prompts are those of the stratum `train`.

    Args:
        seed: Of the prompts, the responses and the ratings.
        limit: The largest number of them; None for one per prompt.
    """
    prompts = [*_training("red_team", seed), *_training("helpful", seed)]
    rng = random.Random(f"ratings-{seed}")
    rng.shuffle(prompts)
    rows: list[RatedRow] = []
    for prompt, task in prompts[:limit]:
        response, rating = _rated_response(task, rng)
        if rng.random() < RATING_NOISE:
            rating = min(max(rating + rng.choice((-1, 1)), 0), 4)
        key = content_hash("playground rating", prompt.key, seed)
        rows.append(RatedRow(key=key, messages=prompt.messages, response=response, rating=rating))
    return rows


def _training(kind: Kind, seed: int) -> list[tuple[PromptRow, Task]]:
    """Return the prompts of the stratum `train` with their tasks."""
    tasks = {task.name: task for task in build_world().tasks}
    prompts = playground_prompts(kind, seed=seed)
    return [(prompt, tasks[prompt.task]) for prompt in prompts if prompt.split == "train"]


def _comparison_row(
    key: str, prompt: PromptRow, responses: tuple[str, str], label: float
) -> ComparisonRow:
    return ComparisonRow(
        key=key,
        kind=prompt.kind,
        source="human",
        messages=prompt.messages,
        task=prompt.task,
        responses=responses,
        label=label,
    )


def _rated_response(task: Task, rng: random.Random) -> tuple[str, int]:
    if not task.verb.harmful:
        return answer(task, rng), 0
    drawn = rng.random()
    if drawn < 0.4:
        return (refusal(task, rng) if drawn < 0.25 else evasion(rng)), 0
    steps, harmless = task_steps(task, rng), rng.randrange(3)
    other = task_steps(rng.choice(build_world().select("train", harmful=False)), rng)
    for place in rng.sample(range(3), harmless):
        steps[place] = other[place]
    return rng.choice(lexicon.OPENINGS) + steps_text(steps), 4 - harmless


def _worse_response(task: Task, rng: random.Random) -> str:
    drawn = rng.random()
    if drawn < 0.4:
        return corrupted_answer(task, build_world(), rng)
    return refusal(task, rng) if drawn < 0.7 else evasion(rng)


def _prompt_row(kind: Kind, messages: Conversation, task: Task, stratum: Stratum) -> PromptRow:
    return PromptRow(
        key=content_hash("playground prompt", kind, [m.model_dump() for m in messages]),
        kind=kind,
        split="train" if stratum == "train" else "held_out",
        messages=messages,
        source=f"playground:{kind}",
        task=task.name,
        tags={"category": task.category, "stratum": stratum},
    )
