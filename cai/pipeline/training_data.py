"""The `train.parquet` of stages that make data: comparisons, and completions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai.data.conversation import Conversation, Message
from cai.data.records import ComparisonRow, DemonstrationRow, Kind
from cai.data.tables import COMPARISON_COLUMNS, write_parquet

TRAIN = "train.parquet"


def completion(
    key: str,
    kind: Kind,
    prompt: Conversation,
    text: str,
    *,
    ended: bool = True,
    round_number: int = 0,
) -> dict[str, Any]:
    """Return a row of `SFT_COLUMNS`."""
    return {
        "key": key,
        "kind": kind,
        "round": round_number,
        "prompt": [message.model_dump() for message in prompt],
        "completion": [_answer(text)],
        "ended": ended,
    }


def write_comparisons(path: Path, rows: Iterable[ComparisonRow]) -> None:
    """Write the trainable comparisons, the likelier response as `chosen`."""
    examples: list[dict[str, Any]] = []
    for row in rows:
        if row.state != "ok" or row.label is None:
            continue
        answers = [[_answer(text)] for text in row.responses]
        chosen, rejected = answers if row.label >= 0.5 else reversed(answers)
        examples.append(
            {
                "key": row.key,
                "kind": row.kind,
                "source": row.source,
                "prompt": [message.model_dump() for message in row.messages],
                "chosen": chosen,
                "rejected": rejected,
                "chosen_probability": max(row.label, 1 - row.label),
            }
        )
    write_parquet(path, examples, COMPARISON_COLUMNS)


def labelled(row: DemonstrationRow, desirable: float) -> dict[str, Any]:
    """Return a row of `LABELLED_COLUMNS`."""
    return {
        "key": row.key,
        "prompt": [message.model_dump() for message in row.messages],
        "completion": [_answer(row.response)],
        "desirable": desirable,
    }


def labelled_of_comparisons(path: Path) -> list[dict[str, Any]]:
    """Return both responses of each comparison of a file, as labelled responses."""
    from cai.training.data import read_rows

    columns = ("key", "prompt", "chosen", "rejected", "chosen_probability")
    return [
        {
            "key": f"{row['key']}-{side}",
            "prompt": row["prompt"],
            "completion": row[side],
            "desirable": probability,
        }
        for row in read_rows(path, columns)
        for side, probability in (
            ("chosen", row["chosen_probability"]),
            ("rejected", 1 - row["chosen_probability"]),
        )
    ]


def _answer(text: str) -> dict[str, Any]:
    return Message(role="assistant", content=text).model_dump()
