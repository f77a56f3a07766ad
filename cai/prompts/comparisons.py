"""Human comparisons of helpfulness: pairs of responses that people have judged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cai.errors import CaiError
from cai.prompts.layouts import Judged, judged_pair
from cai.prompts.loading import draw_limit
from cai.prompts.near_duplicates import near_duplicate_groups
from cai.prompts.sources import PLAYGROUND, read_source
from cai.prompts.splitting import compared_text, uniform
from cai.records import ComparisonRow, PromptRow, RatedRow, content_hash
from cai.settings import SourceSettings

log = logging.getLogger(__name__)

R = TypeVar("R", ComparisonRow, RatedRow)


def load_comparisons(
    sources: Sequence[SourceSettings], *, seed: int, base_dir: Path
) -> list[ComparisonRow]:
    """Read human comparisons.

    The label is the probability that `responses[0]` is the better one. Which response that is, a
    hash of the seed and the key decides, so that position carries no information. Rows that cannot
    be trained on stay, with their state: `failed` (the two prompts differ), `unparsed` (a response
    is missing or is no text, the label is unknown) or `tie`. Exact duplicates are left out.

    Args:
        sources: The sources; those that begin with `playground:` are the caller's, and skipped.
        seed: The run's seed.
        base_dir: The pipeline file's folder, from which paths are relative.

    Raises:
        CaiError: A source cannot be read, has none of the known layouts or no usable row.
    """
    rows: dict[str, ComparisonRow] = {}
    for source in sources:
        if not source.path.startswith(PLAYGROUND):
            rows |= _read_comparisons(source, seed, base_dir)
    return list(rows.values())


def exclude_held_out(
    rows: Sequence[R], prompts: Sequence[PromptRow], near_duplicate: float
) -> list[R]:
    """Leave out rows whose prompt is a near-duplicate of a held-out prompt.

    Args:
        rows: The comparisons or ratings to train on.
        prompts: The run's prompts; only held-out ones count.
        near_duplicate: As in the settings of `prompts`.
    """
    held_out = [row.messages for row in prompts if row.split == "held_out"]
    texts = [compared_text(m) for m in (*held_out, *(row.messages for row in rows))]
    groups = near_duplicate_groups(texts, near_duplicate)
    reserved = set(groups[: len(held_out)])
    kept = [
        row
        for row, group in zip(rows, groups[len(held_out) :], strict=True)
        if group not in reserved
    ]
    if len(kept) < len(rows):
        log.warning(
            "%d rows of training data answer held-out prompts and were left out.",
            len(rows) - len(kept),
        )
    return kept


def _read_comparisons(
    source: SourceSettings, seed: int, base_dir: Path
) -> dict[str, ComparisonRow]:
    records = read_source(source, base_dir)
    rows: dict[str, ComparisonRow] = {}
    for record in records:
        row = _row(judged_pair(record), seed)
        rows.setdefault(row.key, row)
    states = Counter(row.state for row in rows.values())
    if not states["ok"]:
        problem = next(row.error for row in rows.values())
        raise CaiError(f"{source.path} has no usable comparison. The first row: {problem}")
    if len(rows) < len(records):
        log.warning(
            "%s: comparisons left out as exact duplicates: %d of %d.",
            source.path,
            len(records) - len(rows),
            len(records),
        )
    if states["ok"] < len(rows):
        log.warning("%s: states of the comparisons: %s.", source.path, dict(states))
    return {row.key: row for row in draw_limit(list(rows.values()), source.limit, seed)}


def _row(pair: Judged, seed: int) -> ComparisonRow:
    """Order the responses by hash; the key is the same whichever way the file has them."""
    labels = (pair.label, None if pair.label is None else 1 - pair.label)
    sides = zip(pair.responses, labels, strict=True)
    first, second = sorted(sides, key=lambda side: side[0])
    key = content_hash(pair.messages, first, second, pair.error)
    if uniform("position", seed, key) < 0.5:
        first, second = second, first
    return ComparisonRow(
        key=key,
        state=pair.state,
        error=pair.error,
        kind="helpful",
        source="human",
        messages=pair.messages,
        task=content_hash(pair.messages),
        responses=(first[0], second[0]),
        label=first[1],
    )
