"""Comparisons whose better response is known, and their way into the feedback model's questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cai.errors import CaiError
from cai.prompts import load_comparisons, source_fingerprint
from cai.prompts.sources import PLAYGROUND
from cai.records import ComparisonRow, PairRow, Provenance, ResponseSample
from cai.settings import SourceSettings

PLAYGROUND_FEEDBACK = f"{PLAYGROUND}feedback"


def gold_comparisons(
    sources: Sequence[SourceSettings], *, seed: int, base_dir: Path
) -> list[ComparisonRow]:
    """Read comparisons from files, the hub and the playground; exact duplicates are left out.

    Args:
        sources: Any layout that `cai.prompts` reads, or `playground:feedback`.
        seed: Draws rows of sources with a `limit`, and which response comes first.
        base_dir: Relative paths start here.

    Raises:
        CaiError: A source cannot be read, or the playground has no such comparisons.
    """
    rows: list[ComparisonRow] = []
    for source in sources:
        if source.path == PLAYGROUND_FEEDBACK:
            from cai.playground.sources import feedback_comparisons

            rows += feedback_comparisons(seed=seed, limit=source.limit)
        elif source.path.startswith(PLAYGROUND):
            raise CaiError(
                f"The playground has no {source.path!r} to measure labels on: write "
                f"`{PLAYGROUND_FEEDBACK}`."
            )
        else:
            rows += load_comparisons([source], seed=seed, base_dir=base_dir)
    return list({row.key: row for row in rows}.values())


def gold_fingerprints(sources: Sequence[SourceSettings], *, base_dir: Path) -> dict[str, str]:
    """Name what the sources hold."""
    return {
        f"known comparisons {source.path}": source_fingerprint(source, base_dir=base_dir)
        for source in sources
        if not source.path.startswith(PLAYGROUND)
    }


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
