"""The inputs of a finished stage, to detect when it is stale, and the cost of its work."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from cai.data.records import content_hash
from cai.data.store import read_json, write_json
from cai.settings import StageSettings

EXECUTION_ONLY = frozenset(
    {"concurrency", "max_batch_tokens", "launch", "processes", "max_state_share"}
)
"""Settings that change how fast a stage runs, or when it stops, and not what it makes."""

COUNTERS = (
    "rows",
    "rows_reused",
    "engine_calls",
    "tokens_in",
    "tokens_out",
    "tokens_cached",
    "cost",
)


class FileStamp(BaseModel):
    """A file as it was when its stage finished."""

    model_config = ConfigDict(extra="forbid")

    size: int
    mtime_ns: int
    hash: str


class Manifest(BaseModel):
    """`manifest.json`: written last, so its presence means that the stage is complete."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, FileStamp]
    started: str
    seconds: float
    environment: dict[str, str]


def read_manifest(folder: Path) -> Manifest | None:
    """Read a stage's manifest; None if the stage never finished (or an older cai wrote it)."""
    try:
        return Manifest.model_validate(read_json(folder / "manifest.json"))
    except ValidationError:
        return None


def significant(settings: StageSettings) -> dict[str, Any]:
    """Return the settings that determine a stage's output; its inputs are hashed elsewhere."""
    own = settings.model_dump(mode="json", exclude={"stage", "start"})
    return _without(own, EXECUTION_ONLY)


def changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> list[str]:
    """Describe which settings differ, nested ones by their dotted names."""
    said: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            said += changes(old, new, f"{prefix}.{name}")
        elif old != new:
            said.append(f"{prefix}.{name} changed from {old} to {new}")
    return said


def stamp_files(folder: Path, names: Sequence[str]) -> dict[str, FileStamp]:
    """Hash the files of a stage; a name may be a folder, or be missing."""
    return {
        str(path.relative_to(folder)): _stamp(path)
        for name in names
        if (folder / name).exists()
        for path in _files(folder / name)
    }


def outputs_hash(folder: Path, manifest: Manifest) -> str | None:
    """Return the hash of a stage's files as they are now; None if one is missing.

    A file with unchanged size and time is not read again.
    """
    hashes: dict[str, str] = {}
    for name, stamp in manifest.outputs.items():
        path = folder / name
        if not path.exists():
            return None
        status = path.stat()
        same = (status.st_size, status.st_mtime_ns) == (stamp.size, stamp.mtime_ns)
        hashes[name] = stamp.hash if same else _stamp(path).hash
    return content_hash(hashes)


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`: this execution's figures, and counters of all under `total`."""
    earlier = read_json(folder / "metrics.json").get("total", {})
    total = {
        name: metrics[name] + (0 if name == "rows" else earlier.get(name, 0))
        for name in (*COUNTERS, "seconds")
        if name in metrics
    }
    write_json(folder / "metrics.json", {**metrics, "total": total})


def _processor() -> str:
    """Return the model's name as Linux tells it, or what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Return versions and hardware, for provenance; none of it makes a stage stale."""
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(usable_cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
    }
    torch = sys.modules.get("torch")  # A stage that did not load it used no GPU.
    if torch is not None and torch.cuda.is_available():
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name()
        found["gpu"] = name if count == 1 else f"{count} x {name}"
    for package in ("cai", "torch", "transformers", "trl", "datasets", "accelerate", "peft"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if revision.returncode == 0:
        found["git"] = revision.stdout.strip()
    return found


def usable_cores() -> int | None:
    """Count the cores that this process may use, which taskset and containers lower."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _without(value: Any, names: frozenset[str]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return value


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _stamp(path: Path) -> FileStamp:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    status = path.stat()
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns, hash=digest)
