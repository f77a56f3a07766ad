"""The prompts of a run: read, cleaned of duplicates, grouped into tasks and split."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cai.errors import CaiError
from cai.prompts.extraction import prompt_of, tags_of
from cai.prompts.record import Record
from cai.prompts.sources import PLAYGROUND, read_source
from cai.prompts.splitting import split_tasks, uniform, with_tasks
from cai.records import Kind, PromptRow, Row, Split, content_hash
from cai.settings import PromptsSettings, SourceSettings

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class PromptReport:
    """What `load_prompts` found.

    Attributes:
        rows: The prompts: those given as `extra`, then those read, in the order of the sources.
        counts: How many rows were `read`, left out as `empty`, as exact `duplicates` or as
            `beyond_limit`, and how many `prompts` in how many `tasks` were kept (without `extra`).
    """

    rows: tuple[PromptRow, ...]
    counts: dict[str, int]


def load_prompts(
    settings: PromptsSettings, *, seed: int, base_dir: Path, extra: Sequence[PromptRow] = ()
) -> PromptReport:
    """Read all prompts of a run and split them into training and held-out tasks.

    Exact duplicates are left out. Near-duplicates share a task, across both kinds, and a task is on
    one side, so no held-out prompt has a near-duplicate in training.

    Args:
        settings: The sources; those that begin with `playground:` are the caller's, and skipped.
        seed: The run's seed: draws the split, and the rows of sources with a `limit`.
        base_dir: The pipeline file's folder, from which paths are relative.
        extra: Rows from elsewhere. They keep their split and their task, and near-duplicates of
            them join it.

    Raises:
        CaiError: A source cannot be read, or has no prompt.
    """
    counts: Counter[str] = Counter()
    seen = {content_hash(row.messages) for row in extra}
    rows: list[PromptRow] = []
    for kind, source in _files(settings):
        records = read_source(source, base_dir)
        found = _prompt_rows(records, source, kind)
        distinct = [row for row in _first_of_each(found) if row.key not in seen]
        kept = draw_limit(distinct, source.limit, seed)
        seen.update(row.key for row in kept)
        rows += kept
        counts.update(
            read=len(records),
            empty=len(records) - len(found),
            duplicates=len(found) - len(distinct),
            beyond_limit=len(distinct) - len(kept),
        )
    rows = _split(with_tasks(rows, extra, settings.near_duplicate), extra, settings.held_out, seed)
    counts.update(prompts=len(rows), tasks=len({row.task for row in rows}))
    _warn(counts)
    return PromptReport((*extra, *rows), dict(counts))


def draw_limit(rows: Sequence[R], limit: int | None, seed: int) -> list[R]:
    """Draw `limit` rows by the rank of their keys' hashes, so that adding rows changes few of them.

    They stay in their order.
    """
    ranked = sorted((row.key for row in rows), key=lambda key: uniform("limit", seed, key))
    drawn = set(ranked[:limit])
    return [row for row in rows if row.key in drawn]


def _files(settings: PromptsSettings) -> Iterator[tuple[Kind, SourceSettings]]:
    """Go through the sources that are read here.

    Red-team sources come first: a prompt given as both kinds is not one to learn compliance from.
    """
    kinds: tuple[tuple[Kind, list[SourceSettings]], ...] = (
        ("red_team", settings.red_team),
        ("helpful", settings.helpful),
    )
    for kind, sources in kinds:
        for source in sources:
            if not source.path.startswith(PLAYGROUND):
                yield kind, source


def _prompt_rows(records: Sequence[Record], source: SourceSettings, kind: Kind) -> list[PromptRow]:
    """Return the prompts of the records that have one, not yet split."""
    rows: list[PromptRow] = []
    for record in records:
        messages = prompt_of(record, source.column)
        if messages is None:
            continue
        key = content_hash(messages)
        rows.append(
            PromptRow(
                key=key,
                kind=kind,
                split="train",
                messages=messages,
                source=source.path,
                task=key,
                tags=tags_of(record),
            )
        )
    if not rows:
        raise CaiError(
            f"{source.path} holds no prompt: all of its {len(records)} rows are blank. Fill them."
        )
    return rows


def _first_of_each(rows: Sequence[PromptRow]) -> list[PromptRow]:
    firsts: dict[str, PromptRow] = {}
    for row in rows:
        firsts.setdefault(row.key, row)
    return list(firsts.values())


def _split(
    rows: Sequence[PromptRow], extra: Sequence[PromptRow], held_out: float, seed: int
) -> list[PromptRow]:
    given: dict[str, Split] = {row.task: row.split for row in extra}
    sides: dict[str, set[Split]] = defaultdict(set)
    for row in extra:
        sides[row.kind].add(row.split)
    kinds: dict[str, set[Kind]] = defaultdict(set)
    for row in rows:
        if row.task in given:
            sides[row.kind].add(given[row.task])
        else:
            kinds[row.task].add(row.kind)
    splits = {**split_tasks(kinds, sides, held_out=held_out, seed=seed), **given}
    return [row.model_copy(update={"split": splits[row.task]}) for row in rows]


def _warn(counts: Counter[str]) -> None:
    """Say what was left out."""
    if counts["empty"]:
        log.warning("Blank rows left out: %d of %d.", counts["empty"], counts["read"])
    if counts["duplicates"]:
        log.warning("Prompts left out as exact duplicates of others: %d.", counts["duplicates"])
