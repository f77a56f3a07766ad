"""The prompts and the helpfulness comparisons that the pipeline reads from the playground."""

from __future__ import annotations

import random
from itertools import product
from typing import get_args

from cai.data.conversation import Conversation
from cai.data.records import ComparisonRow, Kind, PromptRow, RatedRow, content_hash
from cai.playground import lexicon
from cai.playground.documents import RANK, USEFULNESS, ResponseKind, response_of
from cai.playground.world import (
    Context,
    Stratum,
    Task,
    World,
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
"""What may come before a request; half of the prompts have nothing before it."""
PREFERRED = 0.95
"""The label of the better response: people agree about it most of the time."""
MISTAKES = 0.03
"""The share of comparisons in which the simulated person prefers the worse response."""
RATING_NOISE = 0.1
"""The share of ratings of harmfulness that are off by one."""


def playground_prompts(kind: Kind, *, seed: int, limit: int | None = None) -> list[PromptRow]:
    """Return red-team prompts (requests for harmful tasks) or helpful ones (for benign tasks).

    Every prompt brings its split: the strata other than `train` are held out. Tags name the
    `category` of harm (`benign` for helpful prompts) and the `stratum`.

    Args:
        kind: Which prompts.
        seed: Draws the order and the contexts.
        limit: Return so many of all strata together, in proportion; None for all.
    """
    world = build_world()
    rng = random.Random(f"{kind}-{seed}")
    rows: list[PromptRow] = []
    for stratum, tasks, paraphrases in _strata(world, harmful=kind == "red_team"):
        for task, paraphrase in product(tasks, paraphrases):
            for context in ("plain", rng.choice(CONTEXTS)):
                messages = request(task, paraphrase, context, world, rng)
                rows.append(_prompt_row(kind, messages, task, stratum))
    return _proportionate(rows, limit, rng)


def playground_comparisons(*, seed: int, limit: int | None = None) -> list[ComparisonRow]:
    """Return helpfulness comparisons, simulated by construction and never by the grader.

    Each sets a right answer to a benign request against a corrupted copy (40%), an over-refusal
    (30%) or an evasion (30%); the right one is preferred with probability 0.95, and a few labels
    are wrong. The prompts are those of the stratum `train`.

    Args:
        seed: Draws the prompts, the responses and the labels.
        limit: Return at most so many; None for one per prompt.
    """
    world = build_world()
    tasks = {task.name: task for task in world.tasks}
    prompts = [p for p in playground_prompts("helpful", seed=seed) if p.split == "train"][:limit]
    rng = random.Random(f"comparisons-{seed}")
    rows: list[ComparisonRow] = []
    for prompt in prompts:
        task = tasks[prompt.task]
        better, worse = answer(task, rng), _worse_response(task, world, rng)
        label = PREFERRED if rng.random() >= MISTAKES else 1 - PREFERRED
        swap = rng.random() < 0.5
        rows.append(
            ComparisonRow(
                key=content_hash("playground comparison", prompt.key, seed),
                kind="helpful",
                source="human",
                messages=prompt.messages,
                task=prompt.task,
                responses=(worse, better) if swap else (better, worse),
                label=1 - label if swap else label,
            )
        )
    return rows


def feedback_comparisons(*, seed: int, limit: int | None = None) -> list[ComparisonRow]:
    """Return comparisons whose better response is known by construction, never by the grader.

    Half of them answer harmful requests, where an explained refusal is better than an evasion, and
    that better than compliance; half answer benign ones, where a right answer is better than a
    refusal with a reason, and that better than an evasion. The stratum is `train`.

    Args:
        seed: Draws prompts and responses.
        limit: Return so many; None for one per prompt.
    """
    world = build_world()
    tasks = {task.name: task for task in world.tasks}
    sides = [
        [p for p in playground_prompts(kind, seed=seed) if p.split == "train"]
        for kind in ("red_team", "helpful")
    ]
    rng = random.Random(f"feedback-{seed}")
    rows: list[ComparisonRow] = []
    for prompt in [prompt for both in zip(*sides, strict=False) for prompt in both][:limit]:
        task = tasks[prompt.task]
        rank = RANK["category" if task.verb.harmful else USEFULNESS]
        ranked: list[ResponseKind] = [kind for kind in rank if kind != "rambles"]
        kinds = rng.sample(ranked, 2)
        first, second = (response_of(task, kind, world, rng) for kind in kinds)
        rows.append(
            ComparisonRow(
                key=content_hash("playground feedback", prompt.key, seed),
                kind=prompt.kind,
                source="human",
                messages=prompt.messages,
                task=prompt.task,
                responses=(first, second),
                label=float(ranked.index(kinds[0]) < ranked.index(kinds[1])),
            )
        )
    return rows


def playground_ratings(*, seed: int, limit: int | None = None) -> list[RatedRow]:
    """Return rated responses, simulated by construction and never by the grader.

    Answers to harmful requests with three, two or one of their harmful steps are rated 4, 3 and 2;
    refusals, evasions and right answers to benign requests 0. One rating in ten is off by one. The
    prompts are those of the stratum `train`.

    Args:
        seed: Draws prompts, responses and ratings.
        limit: Return at most so many; None for one per prompt.
    """
    world = build_world()
    tasks = {task.name: task for task in world.tasks}
    prompts = [
        prompt
        for kind in get_args(Kind)
        for prompt in playground_prompts(kind, seed=seed)
        if prompt.split == "train"
    ]
    rng = random.Random(f"ratings-{seed}")
    rng.shuffle(prompts)
    rows: list[RatedRow] = []
    for prompt in prompts[:limit]:
        response, rating = _rated_response(tasks[prompt.task], world, rng)
        if rng.random() < RATING_NOISE:
            rating = min(max(rating + rng.choice((-1, 1)), 0), 4)
        key = content_hash("playground rating", prompt.key, seed)
        rows.append(RatedRow(key=key, messages=prompt.messages, response=response, rating=rating))
    return rows


def _rated_response(task: Task, world: World, rng: random.Random) -> tuple[str, int]:
    if not task.verb.harmful:
        return answer(task, rng), 0
    fate = rng.random()
    if fate < 0.4:
        return (refusal(task, rng) if fate < 0.25 else evasion(rng)), 0
    steps, harmless = task_steps(task, rng), rng.randrange(3)
    other = task_steps(rng.choice(world.select("train", harmful=False)), rng)
    for place in rng.sample(range(3), harmless):
        steps[place] = other[place]
    return rng.choice(lexicon.OPENINGS) + steps_text(steps), 4 - harmless


def _worse_response(task: Task, world: World, rng: random.Random) -> str:
    fate = rng.random()
    if fate < 0.4:
        return corrupted_answer(task, world, rng)
    return refusal(task, rng) if fate < 0.7 else evasion(rng)


def _strata(
    world: World, *, harmful: bool
) -> list[tuple[Stratum, tuple[Task, ...], tuple[str, ...]]]:
    """Return each stratum's tasks and the words in which they are asked for."""
    return [
        ("train", world.select("train", harmful=harmful), lexicon.PARAPHRASES),
        ("paraphrase", world.select("train", harmful=harmful), lexicon.HELD_OUT_PARAPHRASES),
        ("task", world.select("task", harmful=harmful), lexicon.PARAPHRASES),
        ("pair", world.select("pair", harmful=harmful), lexicon.PARAPHRASES),
    ]


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


def _proportionate(rows: list[PromptRow], limit: int | None, rng: random.Random) -> list[PromptRow]:
    """Shuffle; identical prompts are kept once."""
    unique = list({row.key: row for row in rows}.values())
    rng.shuffle(unique)
    return unique[:limit]
