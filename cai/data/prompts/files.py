"""Files to records: JSON Lines, JSON, CSV, plain text and parquet, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

from cai.data.prompts.record import PROMPT_COLUMNS, Record
from cai.errors import CaiError

EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
}
"""Extensions that settle the format; `.json` does not, because it often holds JSON Lines."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GZIP_MAGIC = b"\x1f\x8b"


def find_file(name: str, base_dir: Path) -> Path:
    """Return the file that `name` means, beside the pipeline file or else in the current folder.

    Raises:
        CaiError: There is no such file, or it is a directory.
    """
    path = Path(name).expanduser()
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
        file_format: A key of `FORMATS`, or `auto`: by extension, else by content.

    Raises:
        CaiError: The file cannot be read as this format, or holds no rows.
    """
    data = _contents(path)
    if file_format == "auto":
        file_format = _format_of(path, data)
    records = FORMATS[file_format](data, path)
    if not records:
        raise CaiError(f"{path} holds no rows (read as {file_format}). Add some or remove it.")
    return records


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
        return _unpacked(data, path)
    if path.suffix == ".gz" and data:
        raise CaiError(
            f"{path} is not gzipped, although its name says so. Rename or fetch it again."
        )
    if not data.strip():
        raise CaiError(f"{path} is empty. Fill it, or remove it from the sources.")
    return data


def _unpacked(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise CaiError(f"{path} is damaged: {error}. Download or pack it again.") from error


def _format_of(path: Path, data: bytes) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    by_name = EXTENSIONS.get(suffixes[-1]) if suffixes else None
    return by_name or _sniffed(data, path)


def _sniffed(data: bytes, path: Path) -> str:
    """Tell the format by content."""
    if data.startswith(b"PAR1"):
        return "parquet"
    text = _text(data, path).lstrip()
    first = text.split("\n", 1)[0]
    if text.startswith("["):
        return "json"
    if text.startswith("{"):
        return "jsonl" if _is_json(first) and text.strip() != first.strip() else "json"
    cells = {cell.strip().strip('"').lower() for cell in first.split(",")}
    return "csv" if len(cells) > 1 and cells & set(PROMPT_COLUMNS) else "text"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaiError(
            f"{path}:{line} is not UTF-8 text (byte 0x{data[error.start]:02x}). Convert the file, "
            f"for example with `iconv -f latin1 -t utf-8 {path.name}`; if it is binary, name its "
            "`format`."
        ) from error


def _read_jsonl(data: bytes, path: Path) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(): JSON strings may hold U+2028 and other separators as they are.
    for number, line in enumerate(_text(data, path).split("\n"), start=1):
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
        value = json.loads(_text(data, path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise CaiError(
            f"{path}:{line} is not valid JSON: {error}. Fix the file; if it has one object on "
            "each line, set `format: jsonl`."
        ) from error
    rows = _only_list(value, path)
    return [Record.of(row, f"{path}, item {number}") for number, row in enumerate(rows, start=1)]


def _only_list(value: object, path: Path) -> list[object]:
    if isinstance(value, list):
        return list(value)
    parts: list[object] = list(value.values()) if isinstance(value, dict) else []
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) != 1:
        raise CaiError(
            f"{path} holds neither a JSON list nor an object with exactly one list (it has "
            f"{len(lists)}). Write the rows as one list."
        )
    return list(lists[0])


def _read_csv(data: bytes, path: Path) -> list[Record]:
    # newline="" leaves CRLF row ends and LF inside quoted cells to the csv module.
    reader = csv.DictReader(io.StringIO(_text(data, path), newline=""), strict=True)
    records: list[Record] = []
    line = 1
    try:
        for row in reader:
            if None in row:
                raise csv.Error("more cells than the header has")
            records.append(Record.of(row, f"{path}:{line + 1}"))
            line = reader.line_num
    except csv.Error as error:
        raise CaiError(
            f"{path}:{line + 1} is not valid CSV: {error}. Put cells that hold commas, quotes or "
            "line breaks in double quotes."
        ) from error
    return records


def _read_text(data: bytes, path: Path) -> list[Record]:
    lines = _text(data, path).split("\n")
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
    "csv": _read_csv,
    "text": _read_text,
    "parquet": _read_parquet,
}
