"""Human comparisons of helpfulness: pairs of responses that people have judged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from cai.data.prompts.layouts import judged_pairs
from cai.data.prompts.near_duplicates import near_duplicate_groups
from cai.data.prompts.preferred import Judged
from cai.data.prompts.record import Record, say_what_was_read
from cai.data.prompts.splitting import compared_text, draw_limit, uniform
from cai.data.records import ComparisonRow, DemonstrationRow, PromptRow, RatedRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings

log = logging.getLogger(__name__)

R = TypeVar("R", ComparisonRow, DemonstrationRow, RatedRow)


def comparison_rows(
    records: Sequence[Record], source: SourceSettings, seed: int
) -> list[ComparisonRow]:
    """Read human comparisons in any of the known layouts, as `load_comparisons` describes them.

    Thinking blocks are removed from the responses and from earlier turns, as they are from those
    that models write here.

    Raises:
        CaiError: A record has none of the known layouts, or no record can be used.
    """
    pairs, layouts = judged_pairs(records, source)
    say_what_was_read(source.path, records, [layouts])
    rows: dict[str, ComparisonRow] = {}
    for pair in pairs:
        row = _row(pair, seed)
        rows.setdefault(row.key, row)
    states = Counter(row.state for row in rows.values())
    if not states["ok"]:
        problem = next(row.error for row in rows.values())
        raise CaiError(f"{source.path} has no usable comparison. The first row: {problem}")
    if len(rows) < len(pairs):
        said = "%s: comparisons left out as exact duplicates: %d of %d."
        log.warning(said, source.path, len(pairs) - len(rows), len(pairs))
    if states["ok"] < len(rows):
        problem = next(row.error for row in rows.values() if row.state != "ok")
        log.warning(
            "%s: states of the comparisons: %s. The first that is not ok: %s",
            source.path,
            dict(states),
            problem,
        )
    return draw_limit(list(rows.values()), source.limit, seed)


def exclude_held_out(
    rows: Sequence[R], prompts: Sequence[PromptRow], near_duplicate: float
) -> list[R]:
    """Leave out rows whose prompt is a near-duplicate of a held-out one of the run's `prompts`."""
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
        said = "%d rows of training data answer held-out prompts and were left out."
        log.warning(said, len(rows) - len(kept))
    return kept


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
