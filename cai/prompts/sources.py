"""A source of the settings to its records."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cai.errors import CaiError
from cai.prompts.files import find_file, read_file
from cai.prompts.record import Record
from cai.settings import SourceSettings

HUB = "hub:"
PLAYGROUND = "playground:"


def read_source(source: SourceSettings, base_dir: Path) -> list[Record]:
    """Read all rows of a file or hub data set.

    Raises:
        CaiError: It cannot be found or read, or it holds no rows.
    """
    if source.path.startswith(HUB):
        return _read_hub(source)
    return read_file(find_file(source.path, base_dir), source.format)


def source_fingerprint(source: SourceSettings, base_dir: Path) -> str:
    """Name what a source holds: a hash of the file, or the data set's name on the hub.

    Raises:
        CaiError: The file cannot be found.
    """
    if source.path.startswith(HUB):
        return f"{source.path}, split {source.split}"
    with find_file(source.path, base_dir).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read_hub(source: SourceSettings) -> list[Record]:
    """Load `hub:owner/name` or `hub:owner/name/configuration`."""
    from datasets import load_dataset

    owner, name, configuration = _hub_id(source.path)
    try:
        rows = load_dataset(f"{owner}/{name}", configuration, split=source.split)
    except (OSError, ValueError) as error:
        raise CaiError(
            f"The hub data set {owner}/{name} (split `{source.split}`) cannot be loaded: "
            f"{_first_line(error)}. Check its name, its `split` and the network; without network, "
            "download it elsewhere and give the file's path."
        ) from error
    return [
        Record.of(row, f"{source.path}, row {number}") for number, row in enumerate(rows, start=1)
    ]


def _hub_id(path: str) -> tuple[str, str, str | None]:
    parts = path.removeprefix(HUB).split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise CaiError(
            f"`{path}` names no data set. Write `hub:owner/name` or `hub:owner/name/configuration`."
        )
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
