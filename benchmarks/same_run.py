"""Compare two run folders: do they hold the same rows, weights and figures?

    python -m benchmarks.same_run runs/before runs/after

For changes of the code that should change no result. Rows are matched by key; texts, principles,
states and labels must be equal, and numbers too unless `--tolerance` says how far they may differ.
Weights are compared to the bit. Left out is what says how a run went, not what it made: times,
versions, fingerprints (`--fingerprints` compares them as well), the report and the logs.
Prints the first differences of each file and exits with 1 if there are any.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

SKIPPED = {"manifest.json", ".lock", "report.html", "report.json", "pipeline.yaml"}
SKIPPED_FOLDERS = {"logs", "report", "checkpoints"}
RUNNING = (
    "seconds",
    "per_second",
    "cached",
    "reused",
    "cost",
    "environment",
    "engine_calls",
    "tokens_in",
    "total",
    "_made",
)
"""Fields whose names end in one of these say how a run went."""
NAMES = ("fingerprint", "template_hash")
"""Fields whose names end in one of these name what made a row."""
SHOWN = 5


@dataclass(frozen=True)
class Rules:
    """What counts as a difference.

    Attributes:
        tolerance: How far two numbers may differ.
        fingerprints: Whether fingerprints must be equal.
    """

    tolerance: float = 0.0
    fingerprints: bool = False

    def looks_at(self, field: str) -> bool:
        """Whether a field is compared."""
        return not field.endswith(RUNNING) and (self.fingerprints or not field.endswith(NAMES))


def differences(first: Path, second: Path, rules: Rules) -> dict[str, list[str]]:
    """Return the differences of two run folders by file; empty if there are none."""
    names = sorted({*_files(first), *_files(second)})
    found = {name: [*_in_file(first / name, second / name, rules)] for name in names}
    return {name: some for name, some in found.items() if some}


def _files(run: Path) -> Iterator[str]:
    for path in run.rglob("*"):
        within = path.relative_to(run)
        if (
            path.is_file()
            and path.name not in SKIPPED
            and SKIPPED_FOLDERS.isdisjoint(within.parts)
            and path.suffix in READERS
        ):
            yield within.as_posix()


def _in_file(first: Path, second: Path, rules: Rules) -> Iterator[str]:
    for path, other in ((first, second), (second, first)):
        if not path.is_file():
            yield f"only in {other.as_posix()}"
            return
    read = READERS[first.suffix]
    yield from _in_values(read(first), read(second), "", rules)


def _in_values(one: Any, other: Any, place: str, rules: Rules) -> Iterator[str]:  # noqa: ANN401
    """Say where two values differ, `place` being where they are."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            yield f"{place}: {tuple(one.shape)} {one.dtype}, {tuple(other.shape)} {other.dtype}"
        elif not torch.equal(one, other):
            apart = (one.double() - other.double()).abs().max().item()
            if not apart <= rules.tolerance:
                yield f"{place}: weights differ by {apart:.3g} at most"
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        ones, others = cast("Mapping[str, Any]", one), cast("Mapping[str, Any]", other)
        for name in sorted({*ones, *others}):
            if not rules.looks_at(name):
                continue
            inside = f"{place}.{name}" if place else name
            if name not in ones or name not in others:
                yield f"{inside}: only in the {'first' if name in ones else 'second'}"
            else:
                yield from _in_values(ones[name], others[name], inside, rules)
    elif isinstance(one, list) and isinstance(other, list):
        ones, others = cast("list[Any]", one), cast("list[Any]", other)
        if len(ones) != len(others):
            yield f"{place}: {len(ones)} and {len(others)} entries"
        for index, (left, right) in enumerate(zip(ones, others, strict=False)):
            yield from _in_values(left, right, f"{place}[{index}]", rules)
    elif not _equal(one, other, rules.tolerance):
        yield f"{place}: {one!r}, {other!r}"


def _equal(one: object, other: object, tolerance: float) -> bool:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        same = one == other or (math.isnan(one) and math.isnan(other))
        return same or abs(one - other) <= tolerance
    return one == other


def _rows(path: Path) -> dict[str, Any]:
    """Read JSON Lines; rows are named by their keys, or else by their places."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return {str(row.get("key", f"line {n}")): row for n, row in enumerate(rows, start=1)}


def _table(path: Path) -> dict[str, Any]:
    """Read a parquet file's columns."""
    return pq.read_table(path).to_pydict()


READERS = {
    ".jsonl": _rows,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jinja": lambda path: path.read_text(encoding="utf-8"),
    ".parquet": _table,
    ".safetensors": load_file,
}
"""How files are read, by their endings."""


def main() -> int:
    """Compare, print and say by the exit status whether the runs are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--fingerprints", action="store_true")
    options = parser.parse_args()
    for run in (options.first, options.second):
        if not any(_files(run)):
            parser.error(f"{run} is no run folder: nothing in it can be compared.")
    rules = Rules(options.tolerance, options.fingerprints)
    found = differences(options.first, options.second, rules)
    for name, some in found.items():
        print(f"{name}: {len(some)} differences")
        for line in islice(some, SHOWN):
            print(f"  {line[:300]}")
    count = len({*_files(options.first), *_files(options.second)})
    print(f"{count} files compared, {len(found)} of them differ.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
