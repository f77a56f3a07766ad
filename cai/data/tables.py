"""The training data of stages: parquet with fixed columns, which TRL loads unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.data.store import write_atomically

Columns = Mapping[str, str]
"""Column name to type: pyarrow's name of it, or `messages`."""

SFT_COLUMNS: Columns = {
    "key": "string",
    "kind": "string",
    "round": "int32",
    "prompt": "messages",
    "completion": "messages",
    "ended": "bool",
}
"""One row per revision or helpful sample; `ended` is False where the token limit cut it off."""

COMPARISON_COLUMNS: Columns = {
    "key": "string",
    "kind": "string",
    "source": "string",
    "prompt": "messages",
    "chosen": "messages",
    "rejected": "messages",
    "chosen_probability": "float64",
}
"""One row per labelled pair; `chosen_probability` lies in [0.5, 1]."""

LABELLED_COLUMNS: Columns = {
    "key": "string",
    "prompt": "messages",
    "completion": "messages",
    "desirable": "float64",
}
"""One row per response; `desirable` is the probability that it is a good one."""

_EVEN = 1e-9


def plain_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Leave out rows that trainers which read only texts would misunderstand.

    For them every pair has a better response, and every completion ends where it stops.

    Returns:
        The other rows, and how many were left out, by reason.
    """
    kept: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        if is_even(row):
            left_out["pairs at chosen_probability 0.5"] += 1
        elif row.get("ended") is False:
            left_out["completions that the token limit cut off"] += 1
        else:
            kept.append(row)
    return kept, left_out


def is_even(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is a pair of which neither response is the better one."""
    probability = row.get("chosen_probability")
    return probability is not None and probability - 0.5 < _EVEN


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    """Write rows atomically; an empty file still has its columns and their types.

    Raises:
        CaiError: The disk is full or the folder not writable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema(
        [
            (name, messages if kind == "messages" else pa.type_for_alias(kind))
            for name, kind in columns.items()
        ]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), sink)
    write_atomically(path, [sink.getvalue().to_pybytes()])
