"""Comparisons whose better response is known, and their way into the feedback model's questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cai.data.prompts import fingerprints, load_comparisons
from cai.data.records import ComparisonRow, PairRow, Provenance, ResponseSample
from cai.settings import SourceSettings


def gold_comparisons(
    sources: Sequence[SourceSettings], *, seed: int, base_dir: Path
) -> list[ComparisonRow]:
    """Read comparisons whose better response is known; exact duplicates are left out.

    Args:
        sources: Any source of comparisons; the playground's are `playground:feedback`.
        seed: Draws rows of sources with a `limit`, and which response comes first.
        base_dir: Relative paths start here.

    Raises:
        CaiError: A source cannot be read, or has no such comparisons.
    """
    return load_comparisons(sources, "feedback", seed=seed, base_dir=base_dir)


def gold_fingerprints(sources: Sequence[SourceSettings], *, base_dir: Path) -> dict[str, str]:
    """Name what the sources hold."""
    named = fingerprints(sources, "feedback", base_dir)
    return {f"known comparisons {path}": name for path, name in named.items()}


def gold_pairs(rows: Iterable[ComparisonRow]) -> list[PairRow]:
    """Return known comparisons as `gold_pair` does, in an order that is not that of their files.

    The first of them then say as much about all of them as any others (`data/states.py`).
    """
    return sorted(map(gold_pair, rows), key=lambda pair: pair.key)


def gold_pair(row: ComparisonRow) -> PairRow:
    """Return a known comparison as responses that the feedback model can be asked about."""
    first, second = (ResponseSample(text=text, model="", ended=True) for text in row.responses)
    return PairRow(
        key=row.key,
        state=row.state,
        error=row.error,
        kind=row.kind,
        messages=row.messages,
        task=row.task,
        responses=(first, second),
        provenance=Provenance(
            model="", model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
    )
