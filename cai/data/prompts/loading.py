"""What the sources of a run hold: read, cleaned of duplicates, grouped into tasks and split."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.data.prompts.readers import ComparisonPurpose, Reader, reader_of
from cai.data.prompts.record import LeftOut
from cai.data.prompts.splitting import draw_limit, split_tasks, with_tasks
from cai.data.records import ComparisonRow, Kind, PromptRow, Split, content_hash
from cai.settings import PromptsSettings, SourceSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptReport:
    """The prompts of a run, those of sources with a split of their own first.

    `counts` says of the other sources how many rows were `read`, left out as `empty`, as messages
    that are `not_the_users`, as `unreadable` (turns of tools, images), as exact `duplicates` or as
    `beyond_limit`, and how many `prompts` in how many `tasks` were kept.
    """

    rows: tuple[PromptRow, ...]
    counts: dict[str, int]


def load_prompts(settings: PromptsSettings, *, seed: int, base_dir: Path) -> PromptReport:
    """Read all prompts of a run and split them into training and held-out tasks.

    Exact duplicates are left out. Near-duplicates share a task, across both kinds, and a task is on
    one side, so no held-out prompt has a near-duplicate in training. Prompts of sources with a
    split of their own keep it and their task, and near-duplicates of them join it.

    Args:
        settings: The sources.
        seed: Draws the split, and the rows of sources with a `limit`.
        base_dir: The folder of the pipeline file; relative paths start there.

    Raises:
        CaiError: A source cannot be read, or has no prompt.
    """
    # Red-team sources come first: a prompt given as both kinds is not one to learn compliance from.
    readers: list[tuple[Kind, Reader]] = [
        *(("red_team", reader_of(source, base_dir)) for source in settings.red_team),
        *(("helpful", reader_of(source, base_dir)) for source in settings.helpful),
    ]
    given = [
        row
        for kind, reader in readers
        if reader.own_split
        for row in reader.prompts(kind, seed=seed)
        if isinstance(row, PromptRow)
    ]
    counts: Counter[str] = Counter()
    seen = {content_hash(row.messages) for row in given}
    rows: list[PromptRow] = []
    for kind, reader in readers:
        if reader.own_split:
            continue
        read = reader.prompts(kind, seed=seed)
        found = [row for row in read if isinstance(row, PromptRow)]
        left_out = Counter(row.reason for row in read if isinstance(row, LeftOut))
        first_of_each = {row.key: row for row in reversed(found)}
        distinct = [r for r in found if first_of_each[r.key] is r and r.key not in seen]
        kept = draw_limit(distinct, reader.source.limit, seed)
        seen.update(row.key for row in kept)
        rows += kept
        counts.update(
            read=len(read),
            empty=read.count(None),
            not_the_users=left_out["assistant"],
            unreadable=left_out["unreadable"],
            duplicates=len(found) - len(distinct),
            beyond_limit=len(distinct) - len(kept),
        )
    rows = _split(with_tasks(rows, given, settings.near_duplicate), given, settings.held_out, seed)
    counts.update(prompts=len(rows), tasks=len({row.task for row in rows}))
    if counts["empty"]:
        log.warning("Blank rows left out: %d of %d.", counts["empty"], counts["read"])
    if counts["duplicates"]:
        log.warning("Prompts left out as exact duplicates of others: %d.", counts["duplicates"])
    return PromptReport((*given, *rows), dict(counts))


def load_comparisons(
    sources: Sequence[SourceSettings], purpose: ComparisonPurpose, *, seed: int, base_dir: Path
) -> list[ComparisonRow]:
    """Read human comparisons.

    The label is the probability that `responses[0]` is the better one. A hash of the seed and the
    key decides which response that is, so the position tells nothing. Rows that cannot be trained
    on stay, with their state: `failed` (the two prompts differ), `unparsed` (a response is missing
    or is no text, the label is unknown) or `tie`. Exact duplicates are left out.

    Raises:
        CaiError: A source cannot be read, has none of the known layouts or no usable row.
    """
    readers = [reader_of(source, base_dir) for source in sources]
    rows = {row.key: row for r in readers for row in r.comparisons(purpose, seed=seed)}
    return list(rows.values())


def _split(
    rows: Sequence[PromptRow], given: Sequence[PromptRow], held_out: float, seed: int
) -> list[PromptRow]:
    given_splits: dict[str, Split] = {row.task: row.split for row in given}
    sides: dict[str, set[Split]] = defaultdict(set)
    for row in given:
        sides[row.kind].add(row.split)
    kinds: dict[str, set[Kind]] = defaultdict(set)
    for row in rows:
        if row.task in given_splits:
            sides[row.kind].add(given_splits[row.task])
        else:
            kinds[row.task].add(row.kind)
    splits = {**split_tasks(kinds, sides, held_out=held_out, seed=seed), **given_splits}
    return [row.model_copy(update={"split": splits[row.task]}) for row in rows]
