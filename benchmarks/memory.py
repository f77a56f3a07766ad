"""The memory of a run, stage by stage."""

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import psutil

EVERY = 0.1
"""Seconds between two looks."""


class Watched:
    """A process, and the resident memory of it and its children while it runs."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the command."""
        self.samples: list[tuple[float, int]] = []
        """Seconds since the epoch, and bytes."""
        self._process = subprocess.Popen(command)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        status = self._process.wait()
        self._thread.join()
        return status

    def _watch(self) -> None:
        while self._process.poll() is None:
            self.samples.append((time.time(), resident(self._process.pid)))
            time.sleep(EVERY)


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its children; 0 when it has ended."""
    try:
        whole = psutil.Process(pid)
        processes = [whole, *whole.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def by_stage(run: Path, samples: Sequence[tuple[float, int]]) -> dict[str, dict[str, float]]:
    """Return `seconds` and `peak_gib` of the stages that ran while there were samples, in order."""
    found: dict[str, tuple[float, float]] = {}
    for path in run.glob("*/manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        started = datetime.fromisoformat(manifest["started"]).timestamp()
        found[path.parent.name] = (started, started + manifest["seconds"])
    stages: dict[str, dict[str, float]] = {}
    for stage, (start, end) in sorted(found.items(), key=lambda item: item[1]):
        inside = [size for when, size in samples if start <= when <= end]
        if inside:
            stages[stage] = {"seconds": round(end - start, 1), "peak_gib": gib(max(inside))}
    return stages


def gib(size: float) -> float:
    """Return bytes as GiB, rounded to two places."""
    return round(size / 2**30, 2)
