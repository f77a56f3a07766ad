"""Which format a file has: its ending and its content together."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import cast

from cai.data.prompts.record import PROMPT_COLUMNS
from cai.errors import CaiError

NAMES = {
    "jsonl": "JSON Lines",
    "json": "JSON",
    "csv": "CSV",
    "tsv": "TSV",
    "text": "text, a prompt a line,",
    "parquet": "parquet",
}
"""Formats to what they are called."""

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".parquet": "parquet",
}

_BINARY = (
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "save the sheet as CSV"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it with `unxz`"),
    (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it with `unlz4`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with `7z x`"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"ARROW1", "an Arrow file", "write it as parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream (what `save_to_disk` writes)", "write it as parquet"),
    (b"FEA1", "a Feather file", "write it as parquet"),
    (b"ORC", "an ORC file", "write it as parquet"),
    (b"Obj\x01", "an Avro file", "write it as parquet"),
    (b"SQLite format 3\x00", "a SQLite database", "write the table as CSV"),
    (b"\x89HDF", "an HDF5 file", "write it as parquet"),
    (b"\x93NUMPY", "a NumPy file", "write it as JSON Lines"),
    *(
        (bytes([0x80, version]), "a Python pickle", "write it as JSON Lines")
        for version in (2, 3, 4, 5)
    ),
    (b"%PDF", "a PDF", "write its rows as JSON Lines"),
)
"""First bytes, what they say, and what to do."""

_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def format_of(path: Path, data: bytes) -> str:
    """Return the format that the ending names and the content agrees with.

    `.json` may hold JSON Lines. Without a known ending, the content decides if it can be nothing
    but parquet, JSON or a table whose header names a prompt.

    Raises:
        CaiError: Ending and content contradict each other, or neither tells the format.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    ending = suffixes[-1] if suffixes else ""
    named = ENDINGS.get(ending)
    if data.startswith(b"PAR1"):
        found = "parquet"
    elif named == "parquet":
        return "parquet"
    else:
        found = _sniffed(text_of(data, path))
    if named is None:
        if found is None:
            called = f"The ending `{ending}` of {path}" if ending else f"{path} has no ending: it"
            raise CaiError(
                f"{called} names no known format. Known endings are {', '.join(ENDINGS)}. Convert "
                "the file, or say what it is with the source's `format`."
            )
        return found
    if named == "json" and found in ("json", "jsonl"):
        return found
    if named == "jsonl" and found == "json":
        return _lines_or_list(data, path)
    if found in (None, named) or (named in ("csv", "tsv") and found in ("csv", "tsv")):
        return named
    raise CaiError(
        f"{path} ends with `{ending}`, but its content looks like {NAMES[found or '']}. Rename the "
        f"file, or set the source's `format` (`{found}`, or `{named}` to read it as it is named)."
    )


def _lines_or_list(data: bytes, path: Path) -> str:
    """Tell what a file named JSON Lines holds if its whole content is one JSON value.

    Raises:
        CaiError: It is one line with a list of texts: a conversation or a list of prompts.
    """
    text = text_of(data, path).strip()
    value = json.loads(text)
    if "\n" in text or not isinstance(value, list):
        return "json" if "\n" in text else "jsonl"
    items = cast("list[object]", value)
    if any(isinstance(item, str) for item in items):
        raise CaiError(
            f"{path} is one line with a list of texts: prompts, or one conversation. Rename it to "
            "`.json` if each is a prompt; otherwise write messages with roles."
        )
    messages = [i for i in items if isinstance(i, dict) and ("role" in i or "from" in i)]
    return "jsonl" if len(messages) == len(items) else "json"


def refuse_binary(data: bytes, path: Path) -> None:
    """Refuse compressed and column formats that are not read, and name them.

    Raises:
        CaiError: It is one of those.
    """
    for magic, kind, fix in _BINARY:
        if data.startswith(magic) and (magic != b"BZh" or data[4:10] == b"1AY&SY"):
            if magic == b"ORC" and data[-4:-1] != magic:
                continue
            raise CaiError(f"{path} is {kind}, which cannot be read. To use it, {fix}.")
    if data[257:262] == b"ustar":
        raise CaiError(f"{path} is a tar archive, which cannot be read. To use it, unpack it.")


def text_of(data: bytes, path: Path) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Raises:
        CaiError: It is none of these.
    """
    encoding = next((name for mark, name in _WIDE if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise CaiError(
                f"{path} opens as {encoding.upper()}, but is damaged at byte {error.start}. Fetch "
                "or write it again."
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        raise CaiError(
            f"{path}:{line} is not UTF-8 text (byte 0x{data[error.start]:02x}). If it is text, "
            f"convert the file, for example with `iconv -f latin1 -t utf-8 {path.name}`; if it is "
            "binary, write it as parquet or JSON Lines."
        ) from error
    if "\x00" in text:
        raise CaiError(
            f"{path} holds NUL bytes: it is UTF-16 without a byte order mark, or binary. For "
            f"UTF-16, convert it with `iconv -f utf-16le -t utf-8 {path.name}`."
        )
    return text


def delimiter_of(text: str, usual: str) -> str:
    """Return what separates the cells: the usual mark if the header has it, else tab or `;`."""
    header = text.lstrip().split("\n", 1)[0]
    return next((mark for mark in (usual, "\t", ";", ",") if mark in header), usual)


def _sniffed(text: str) -> str | None:
    """Tell the format of a text by its content, if it can be only one."""
    text = text.strip()
    first = text.split("\n", 1)[0].strip()
    if text.startswith("[") and (_is_json(text) or _is_json(first)):
        return "json" if _is_json(text) else "jsonl"
    if text.startswith("{"):
        if _is_json(first):
            return "json" if text == first else "jsonl"
        return "json" if _is_json(text) else None
    for mark, name in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        cells = [cell.strip().strip('"').lower() for cell in first.split(mark)]
        if len(cells) > 1 and set(cells) & set(PROMPT_COLUMNS) and "" not in cells[1:]:
            return name
    return None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False
