"""Read and check training data: rows, conversations and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from cai.data.conversation import Conversation, Message
from cai.data.records import content_hash
from cai.errors import CaiError
from cai.settings import OptimizerSettings
from cai.settings.wording import first_in_words


def read_rows(data: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield these columns of a parquet file's rows.

    Raises:
        CaiError: The file is missing, damaged, or lacks a column.
    """
    if not data.is_file():
        raise CaiError(
            f"The training data {data} does not exist. Run the stage that writes it first."
        )
    try:
        with pq.ParquetFile(data) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise CaiError(
                    f"{data} has no column `{missing[0]}`; its columns are "
                    f"{', '.join(file.schema_arrow.names)}. Training data needs "
                    f"{', '.join(columns)}."
                )
            for batch in file.iter_batches(columns=list(columns)):
                yield from cast("list[dict[str, Any]]", batch.to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise CaiError(
            f"{data} is not a whole parquet file ({error}). Delete it and run the stage "
            "that writes it again."
        ) from error


def conversation(row: dict[str, Any], column: str, data: Path) -> Conversation:
    """Return the messages in one column of a row; raise a CaiError if they are none."""
    try:
        return tuple(Message.model_validate(message) for message in row[column])
    except (TypeError, ValidationError) as error:
        why = f" ({first_in_words(error)})" if isinstance(error, ValidationError) else ""
        raise CaiError(
            f"Row {row['key']} of {data}: `{column}` is not a list of messages with `role` and "
            f"`content`{why}. Fix or remove the row."
        ) from error


def answer(row: dict[str, Any], column: str, data: Path) -> str:
    """Return the text of a column's one assistant message; raise a CaiError for anything else."""
    messages = conversation(row, column, data)
    if [message.role for message in messages] != ["assistant"]:
        raise CaiError(
            f"Row {row['key']} of {data}: `{column}` must be one assistant message, and has the "
            f"roles {[message.role for message in messages]}. Earlier turns belong in `prompt`."
        )
    return messages[0].content


def is_held_out(prompt: Conversation, share: float) -> bool:
    """Return whether a prompt is in the held-out share, by its hash: all its rows go together."""
    return int(content_hash("held_out", list(prompt)), 16) < share * 16**16


def longest_sequence(settings: OptimizerSettings, config: Any) -> int:  # noqa: ANN401
    """Return the tokens a row may have: `max_length`, or the model's context if that is shorter."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(settings.max_length, context or settings.max_length)


def no_rows_error(data: Path, settings: OptimizerSettings, too_long: int) -> CaiError:
    """Return the error for data of which nothing can be trained on."""
    if too_long:
        return CaiError(
            f"All {too_long} rows of {data} are longer than `max_length` {settings.max_length} or "
            "the model's context. Raise `max_length`, or take a model with a longer context."
        )
    return CaiError(
        f"{data} has no trainable rows. Check the rows of the stage that writes it: their "
        "`state` shows why each was left out."
    )
