"""Read a run folder; any stage may be missing or unfinished."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cai.data.records import Row
from cai.data.store import read_json
from cai.errors import CaiError
from cai.settings.wording import first_in_words

R = TypeVar("R", bound=Row)
T = TypeVar("T")

RERUN = "Run the pipeline again: existing answers are kept."


def stage_rows(folder: Path, row_type: type[R], name: str = "rows") -> Iterator[R]:
    """Yield the rows of a stage, one at a time, since large runs do not fit in memory.

    An unfinished stage yields its rows so far; a stage that has not started yields none.

    Raises:
        CaiError: A line is not a row of this type.
    """
    path = folder / f"{name}.jsonl"
    if not path.exists():
        path = folder / f"{name}.partial.jsonl"
    for number, line in _whole_lines(path):
        try:
            yield row_type.model_validate_json(line)
        except ValidationError as error:
            raise _damaged(path, number, f"not a {row_type.__name__}") from error


def step_metrics(path: Path) -> list[dict[str, float | None]]:
    """Read a file with one JSON object of metrics per training step.

    Returns:
        One dict per step, in order, numbers only; NaN and infinity are None. Empty if the file is
        missing.

    Raises:
        CaiError: A line is not a JSON object.
    """
    steps: list[dict[str, float | None]] = []
    for number, line in _whole_lines(path):
        try:
            step = json.loads(line)
        except ValueError as error:
            raise _damaged(path, number, "not JSON") from error
        if not isinstance(step, dict):
            raise _damaged(path, number, "not a JSON object")
        steps.append(
            {
                str(name): float(value) if math.isfinite(value) else None
                for name, value in step.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }
        )
    return steps


def stage_json(run_dir: Path, stage: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a stage, NaN and infinity as None; empty if it does not exist."""
    return finite(read_json(run_dir / stage / name))


def read_result(path: Path, kind: type[T], absent: T, fix: str = RERUN) -> T:
    """Read a JSON file of results, NaN and infinity as None; `absent` if it does not exist.

    Raises:
        CaiError: The file does not have this kind of results; `fix` is the advice in the message.
    """
    if not path.exists():
        return absent
    try:
        return TypeAdapter(kind).validate_python(finite(json.loads(path.read_bytes())))
    except ValueError as error:
        what = "not JSON"
        if isinstance(error, ValidationError):
            what = first_in_words(error)
        raise CaiError(
            f"{path} is damaged or was written by another version of cai ({what}). {fix}"
        ) from error


def finite(value: Any) -> Any:  # noqa: ANN401 (any JSON value)
    """Replace NaN and infinity by None, because JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines, without an incomplete last one of a running or killed run."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and line.strip():
                yield number, line


def _damaged(path: Path, number: int, what: str) -> CaiError:
    return CaiError(
        f"{path}:{number}: {what}. If the file was edited by hand, fix the line; otherwise delete "
        "the file, run `cai run` again, and then `cai report`."
    )
