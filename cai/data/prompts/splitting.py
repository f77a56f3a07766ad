"""Prompts to tasks (near-duplicates), and tasks to training and held-out sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from cai.data.conversation import Conversation
from cai.data.prompts.near_duplicates import near_duplicate_groups
from cai.data.records import Kind, PromptRow, Row, Split, content_hash

R = TypeVar("R", bound=Row)


def uniform(*parts: object) -> float:
    """Return a number in [0, 1) that depends on the content of `parts` alone."""
    return int(content_hash(*parts), 16) / 2**64


def draw_limit(rows: Sequence[R], limit: int | None, seed: int) -> list[R]:
    """Draw `limit` rows by the rank of their keys' hashes, so that adding rows changes few of them.

    They stay in their order.
    """
    ranked = sorted((row.key for row in rows), key=lambda key: uniform("limit", seed, key))
    drawn = set(ranked[:limit])
    return [row for row in rows if row.key in drawn]


def compared_text(messages: Conversation) -> str:
    """Return the text that near-duplicates share; a system prompt says nothing about the task."""
    return "\n".join(message.content for message in messages if message.role != "system")


def with_tasks(
    rows: Sequence[PromptRow], given: Sequence[PromptRow], near_duplicate: float
) -> list[PromptRow]:
    """Give each row the task of its near-duplicates, which is named by the smallest of their keys.

    Near-duplicates of rows whose split is given get the task of those; if some of those are held
    out, of the held-out ones.
    """
    if not rows:
        return []
    everyone = [*rows, *given]
    groups = near_duplicate_groups([compared_text(r.messages) for r in everyone], near_duplicate)
    fixed: dict[int, PromptRow] = {}
    for group, row in zip(groups[len(rows) :], given, strict=True):
        fixed[group] = min(fixed.get(group, row), row, key=lambda r: (r.split == "train", r.key))
    names: dict[int, str] = {}
    for group, row in zip(groups, rows, strict=False):
        names[group] = min(names.get(group, row.key), row.key)
    tasks = {group: fixed[group].task if group in fixed else name for group, name in names.items()}
    return [
        row.model_copy(update={"task": tasks[group]})
        for group, row in zip(groups, rows, strict=False)
    ]


def split_tasks(
    kinds: Mapping[str, set[Kind]],
    fixed: Mapping[str, set[Split]],
    *,
    held_out: float,
    seed: int,
) -> dict[str, Split]:
    """Put every task on one side.

    A task is held out if its hash with the seed falls below `held_out`, so adding prompts moves no
    others. Where this leaves a side of a kind empty, the task whose hash comes closest changes
    sides; with `held_out` 0 or 1 a side is empty on purpose.

    Args:
        kinds: The kinds of prompts in each task that is to be split.
        fixed: The sides on which each kind already has tasks, by kind.
        held_out: The share of tasks to hold out, in [0, 1].
        seed: The run's seed.

    Returns:
        The side of each task of `kinds`.
    """
    draws = {task: uniform("split", seed, task) for task in kinds}
    splits: dict[str, Split] = {
        task: "held_out" if draw < held_out else "train" for task, draw in draws.items()
    }
    if not 0 < held_out < 1:
        return splits
    by_kind: dict[Kind, list[str]] = defaultdict(list)
    for task in sorted(kinds, key=lambda task: draws[task]):
        for kind in sorted(kinds[task]):
            by_kind[kind].append(task)
    for kind, tasks in sorted(by_kind.items()):
        _fill_sides(splits, tasks, kinds, fixed.get(kind, set()))
    return splits


def _fill_sides(
    splits: dict[str, Split],
    tasks: list[str],
    kinds: Mapping[str, set[Kind]],
    fixed: set[Split],
) -> None:
    """Make sure that one kind has a task on each side, training first; `tasks` ascend by draw."""
    present = {splits[task] for task in tasks} | fixed
    # A task of this kind alone is moved if there is one: it cannot empty the other kind's side.
    own = [task for task in tasks if len(kinds[task]) == 1] or tasks
    if "train" not in present:
        splits[own[-1]] = "train"
    elif "held_out" not in present and (len(tasks) > 1 or "train" in fixed):
        splits[own[0]] = "held_out"
