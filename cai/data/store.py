"""Rows on disk: appended while a stage runs, sorted and renamed when it is complete.

`NAME.partial.jsonl` grows by one whole line per finished row, so a killed stage loses only the rows
in flight. `finish` writes `NAME.jsonl`, sorted by key, in one atomic rename. Rows of an earlier
execution are reused while their fingerprint still holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from cai.data.records import Row
from cai.errors import CaiError
from cai.settings.wording import first_in_words

R = TypeVar("R", bound=Row)


class RowStore(Generic[R]):
    """The rows of one kind in one stage folder."""

    def __init__(self, folder: Path, row_type: type[R], name: str = "rows") -> None:
        """Open the store in a folder; its files are called `name`."""
        self.row_type = row_type
        self.path = folder / f"{name}.jsonl"
        self.partial_path = folder / f"{name}.partial.jsonl"
        with writing(folder, folder=True):
            folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, R] = {}
        self._earlier = self._read_earlier()

    def reusable(self, key: str, fingerprint: str) -> R | None:
        """Return the earlier row of this key if it is still what would be made now.

        Rows that failed are always made anew.
        """
        row = self._earlier.get(key)
        if row is None or row.fingerprint != fingerprint or row.state == "failed":
            return None
        return row

    def reuse(self, key: str, fingerprint: str) -> bool:
        """Keep the earlier row of this key if it is `reusable`, and say whether it is."""
        row = self.reusable(key, fingerprint)
        if row is not None:
            self._rows[key] = row
        return row is not None

    def earlier(self, key: str) -> R | None:
        """Return the row that an earlier execution has left under this key, stale or not."""
        return self._earlier.get(key)

    @property
    def rows(self) -> list[R]:
        """All rows, reused and new, sorted by key."""
        return sorted(self._rows.values(), key=lambda row: row.key)

    def append(self, row: R) -> None:
        """Add a row durably: after this call a kill of the process does not lose it.

        Raises:
            CaiError: The disk is full or the folder not writable.
        """
        line = row.model_dump_json(exclude_none=True) + "\n"
        with writing(self.partial_path), self.partial_path.open("ab") as file:
            file.write(line.encode())
        self._rows[row.key] = row

    def finish(self) -> list[R]:
        """Write all rows, reused and new, sorted by key, and return them."""
        rows = self.rows
        write_rows(self.path, rows)
        self.partial_path.unlink(missing_ok=True)
        return rows

    def _read_earlier(self) -> dict[str, R]:
        """Read finished and partial rows; a torn last line is cut off, so appending is safe."""
        earlier: dict[str, R] = {}
        for path in (self.path, self.partial_path):
            if not path.exists():
                continue
            if path == self.partial_path:
                _cut_torn_line(path)
            for line in path.read_bytes().splitlines():
                # A row of an older version, or one damaged on disk, is simply made again.
                with contextlib.suppress(ValidationError):
                    row = self.row_type.model_validate_json(line)
                    earlier[row.key] = row
        return earlier


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a finished file of rows, one JSON object a line, atomically."""
    write_atomically(
        path, (row.model_dump_json(exclude_none=True).encode() + b"\n" for row in rows)
    )


def read_rows(path: Path, row_type: type[R]) -> list[R]:
    """Read a finished file of rows.

    Raises:
        CaiError: The file is missing, or a line is not a row of this type.
    """
    if not path.exists():
        raise CaiError(f"{path} does not exist: the stage that makes it has not finished.")
    rows: list[R] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(row_type.model_validate_json(line))
        except ValidationError as error:
            raise CaiError(
                f"{path}:{number}: not a {row_type.__name__} ({first_in_words(error)}). If it was "
                "edited by hand, fix the line; otherwise delete the file and run again."
            ) from None
    return rows


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that it is seen whole or not at all, even after a crash.

    A file that was there keeps its rights.

    Raises:
        CaiError: The disk is full or the folder not writable; an earlier file is left as it was.
    """
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():  # such as /dev/stdout
            with path.open("wb") as device:
                device.writelines(chunks)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, [text.encode(), b"\n"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by `write_json`; an empty one if the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """Yield a temporary sibling of `out` that takes its place when the block ends well.

    Raises:
        CaiError: The disk is full or the folder not writable.
    """
    partial = out.with_name(f".{out.name}.partial")
    with writing(out, folder=True):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)


def check_output(path: Path, *, folder: bool = False) -> Path:
    """Return a path at which a file (or a folder) can be written.

    Raises:
        CaiError: Nothing can be written there, in words.
    """
    if problem := _unwritable(path, folder=folder):
        raise CaiError(f"Cannot write {path}: {problem}")
    return path


def _unwritable(path: Path, *, folder: bool) -> str | None:
    try:
        if folder and path.exists() and not path.is_dir():
            return "it is a file. Give the name of a folder."
        if not folder and path.is_dir():
            return "it is a folder. Give the name of a file."
        here = path.absolute()
        within = here if here.is_dir() else next(p for p in here.parents if p.exists())
    except OSError as error:
        return f"there can be no such path ({error.strerror}). Give another one."
    if not within.is_dir():
        return f"{within} is a file, not a folder. Give another path."
    if not os.access(within, os.W_OK | os.X_OK):
        return f"the folder {within} is not writable. Change its rights, or give another path."
    return None


@contextlib.contextmanager
def writing(path: Path, *, folder: bool = False) -> Generator[None]:
    """Turn a full disk, a missing permission or an impossible path into a readable error."""
    try:
        yield
    except OSError as error:
        if problem := _unwritable(path, folder=folder):
            raise CaiError(f"Cannot write {path}: {problem}") from error
        raise CaiError(
            f"Cannot write {path}: {error.strerror or error}. Finished rows are kept; free some "
            "space or fix the folder's rights, then run the same command again to continue."
        ) from error


def _cut_torn_line(path: Path) -> None:
    """Remove what follows the last line end: the row that was being written when the run died."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
