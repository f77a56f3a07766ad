"""Files to records: JSON Lines, JSON, CSV, TSV, plain text and parquet, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from cai.data.prompts.formats import NAMES, delimiter_of, format_of, refuse_binary, text_of
from cai.data.prompts.layouts import LAYOUTS
from cai.data.prompts.record import PROMPT_COLUMNS, Record
from cai.errors import CaiError
from cai.settings.paths import user_path

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GZIP_MAGIC = b"\x1f\x8b"


def find_file(name: str, base_dir: Path) -> Path:
    """Return the file that `name` means, beside the pipeline file or else in the current folder.

    Raises:
        CaiError: There is no such file, or it is a directory.
    """
    path = user_path(name)
    tried = list(dict.fromkeys([base_dir / path, path]))
    found = next((candidate for candidate in tried if candidate.exists()), None)
    if found is None:
        places = " or ".join(str(candidate.absolute()) for candidate in tried)
        raise CaiError(
            f"The file {name} does not exist (looked for {places}). Correct `path`; a data set of "
            "the hub is written `hub:owner/name`."
        )
    if found.is_dir():
        raise CaiError(f"{found} is a directory. Name the files in it one by one as sources.")
    return found


def read_file(path: Path, file_format: str = "auto") -> list[Record]:
    """Read all rows of a file.

    Args:
        path: The file; gzipped content is unpacked, whatever the name says.
        file_format: A key of `FORMATS`, or `auto`: by ending and content together.

    Raises:
        CaiError: The file cannot be read as this format, or holds no rows.
    """
    data = _contents(path)
    if file_format == "auto":
        file_format = format_of(path, data)
    records = FORMATS[file_format](data, path)
    if not records:
        raise CaiError(f"{path} holds no rows (read as {file_format}). Add some or remove it.")
    return [replace(record, form=NAMES[file_format]) for record in records]


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaiError(f"{path} cannot be read: {error.strerror}. Check its rights.") from error
    if data.startswith(_LFS_POINTER):
        raise CaiError(
            f"{path} is a Git LFS pointer, not the data itself. Fetch the data with `git lfs pull` "
            "in its repository."
        )
    if data.startswith(_GZIP_MAGIC):
        data = _unpacked(data, path)
    elif path.suffix == ".gz" and data:
        raise CaiError(
            f"{path} is not gzipped, although its name says so. Rename or fetch it again."
        )
    if not data.strip():
        raise CaiError(f"{path} is empty. Fill it, or remove it from the sources.")
    refuse_binary(data, path)
    return data


def _unpacked(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise CaiError(f"{path} is damaged: {error}. Download or pack it again.") from error


def _read_jsonl(data: bytes, path: Path) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(): JSON strings may hold U+2028 and other separators as they are.
    for number, line in enumerate(text_of(data, path).split("\n"), start=1):
        if line.strip():
            records.append(Record.of(_parsed(line, f"{path}:{number}"), f"{path}:{number}"))
    return records


def _parsed(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CaiError(
            f"{where} is not valid JSON: {error}. Fix or delete this line; JSON Lines has one "
            "whole object on each line (a JSON list is `format: json`)."
        ) from error


def _read_json(data: bytes, path: Path) -> list[Record]:
    try:
        value = json.loads(text_of(data, path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise CaiError(
            f"{path}:{line} is not valid JSON: {error}. Fix the file; if it has one object on "
            "each line, set `format: jsonl`."
        ) from error
    rows = _rows_in(value, path)
    return [Record.of(row, f"{path}, item {number}") for number, row in enumerate(rows, start=1)]


def _rows_in(value: object, path: Path) -> list[object]:
    """Return the rows of a JSON list, of an object around one list, or an object as one row.

    Of several lists, the only one of objects has the rows (the keywords of a BIG-bench task are
    another one). A prefix of all questions (`task_prefix`) goes to each row.
    """
    if isinstance(value, list):
        return list(value)
    if not isinstance(value, dict):
        raise CaiError(f"{path} holds neither a JSON list nor an object. Write rows as one list.")
    _refuse_columns(value, path)
    lists = {name: part for name, part in value.items() if isinstance(part, list)}
    record = Record.of(value, str(path))
    if _is_row(record):
        return [value]
    of_objects = {
        name: part
        for name, part in lists.items()
        if part and all(isinstance(i, dict) for i in part)
    }
    lists = of_objects if len(of_objects) == 1 else lists
    if len(lists) != 1:
        raise CaiError(
            f"{path} holds an object that is no row (it has {record.columns()}) and does not have "
            f"exactly one list of rows (it has {len(lists)}). Write the rows as one list."
        )
    rows = list(next(iter(lists.values())))
    prefix = {name: part for name, part in value.items() if name == "task_prefix" and part}
    return [{**prefix, **row} if isinstance(row, dict) else row for row in rows]


def _is_row(record: Record) -> bool:
    """Say whether an object is a row itself, not a wrapper around a list of rows."""
    if any(layout.fits(record) for layout in LAYOUTS if layout.name != "ranked answers"):
        return True
    conversations = ("messages", "conversation", "conversations", "turns")
    named = [name for name in PROMPT_COLUMNS if record.has(name)]
    return any(name in conversations or not isinstance(record.get(name), list) for name in named)


def _refuse_columns(value: dict[str, object], path: Path) -> None:
    """Refuse a table that is written column by column."""
    lists = [part for part in value.values() if isinstance(part, list) and len(part) > 1]
    numbered = [part for part in value.values() if isinstance(part, dict) and part and "0" in part]
    known = any(name.lower() in PROMPT_COLUMNS for name in value)
    by_lists = len(value) > 1 and len(lists) == len(value) and len({*map(len, lists)}) == 1
    if known and (by_lists or len(numbered) == len(value)):
        raise CaiError(
            f"{path} holds columns, not rows. Write one object for each row (with pandas: "
            "`to_json(orient='records')`)."
        )


def _table(data: bytes, path: Path, usual: str) -> list[Record]:
    text = text_of(data, path)
    # newline="" leaves CRLF row ends and LF inside quoted cells to the csv module.
    delimiter = delimiter_of(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
    header: list[str] = []
    line = 0
    csv.field_size_limit(2**31 - 1)
    try:
        for cells in reader:
            if not header:
                header = cells
                _check_header(header)
            elif cells:
                if len(cells) != len(header):
                    kind = "more" if len(cells) > len(header) else "fewer"
                    raise csv.Error(
                        f"{kind} cells than the header has ({len(cells)}, not {len(header)})"
                    )
                fields = dict(zip(header, cells, strict=True))
                records.append(Record.of(fields, f"{path}:{line + 1}"))
            line = reader.line_num
    except csv.Error as error:
        raise CaiError(
            f"{path}:{line + 1} is not valid CSV: {error}. Put cells that hold commas, quotes or "
            "line breaks in double quotes."
            if delimiter == ","
            else f"{path}:{line + 1} is no valid row of cells separated by {delimiter!r}: {error}. "
            "Put cells that hold it, quotes or line breaks in double quotes."
        ) from error
    return records


def _check_header(header: list[str]) -> None:
    twice = sorted({name for name in header if name.strip() and header.count(name) > 1})
    if twice:
        raise csv.Error(f"the header has `{twice[0]}` twice")


def _read_text(data: bytes, path: Path) -> list[Record]:
    lines = text_of(data, path).split("\n")
    return [
        Record({"prompt": line}, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _read_parquet(data: bytes, path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CaiError(f"{path} is no readable parquet file: {error}. Write it again.") from error
    return [Record.of(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


FORMATS: dict[str, Callable[[bytes, Path], list[Record]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": partial(_table, usual=","),
    "tsv": partial(_table, usual="\t"),
    "text": _read_text,
    "parquet": _read_parquet,
}
