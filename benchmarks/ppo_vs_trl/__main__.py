"""PPO of `cai` beside PPO of TRL 1.12, the last release that has it: speed, memory, agreement.

    python -m benchmarks.ppo_vs_trl --json ppo_vs_trl.json

Makes TRL an environment of its own in `.peers/trl` the first time. Both sides train the same models
on the same prompts with the same batch, epochs, critic (a model of its own, as large as the
preference model) and KL penalty, in float32, on one thread, each in a process of its own, in turn.
Exit status 1 when a wanted ratio is not met or the arithmetic does not agree.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.ppo_vs_trl.agreement import TOLERANCE, compare
from benchmarks.ppo_vs_trl.sides import REQUIREMENTS, TRL_SIDE, run, train, trl_python
from benchmarks.ppo_vs_trl.workloads import (
    LLAMA_WORKLOAD,
    PLAYGROUND_WORKLOAD,
    Workload,
    write,
)

TRL_MICRO_BATCH = {"playground": 16, "llama": 8}
"""Rows of TRL's forward and backward passes: on a CPU its speed hardly depends on it."""
WANTED = {
    "playground: episodes per second": 1.5,
    "llama: episodes per second": 2.0,
    "llama: peak memory": 2.0,
}
SPEEDS = {
    "episodes_per_second": "episodes per second",
    "tokens_per_second": "response tokens per second",
    "episodes_per_second_of_clock": "episodes per second of the clock",
}
"""Seconds are those of the one thread's processor time, which other programs disturb less."""
BUCKET = 16
"""Width of the histogram of lengths."""

Pairs = list[dict[str, dict[str, Any]]]
"""Of each repetition, what was measured, by side."""


def measure(side: str, workload: Workload, folder: Path) -> dict[str, Any]:
    """Train one side; return episodes and response tokens per second, lengths, peak memory."""
    result, memory = train(side, folder, TRL_MICRO_BATCH[workload.name])
    # The first step warms up.
    facts = {name: steps[1:] for name, steps in result.items()}
    lengths = [length for step in facts["lengths"] for length in step]
    cpu_seconds = sum(facts["cpu_seconds"])
    return {
        "episodes_per_second": len(lengths) / cpu_seconds,
        "tokens_per_second": sum(lengths) / cpu_seconds,
        "episodes_per_second_of_clock": len(lengths) / sum(facts["seconds"]),
        "peak_memory_gib": memory,
        "lengths": lengths,
    }


def alternate(workload: Workload, repetitions: int, folder: Path) -> Pairs:
    """Measure both sides in turn, each repetition with another seed and the other side first."""
    write(workload, folder)
    pairs: Pairs = []
    for repetition in range(repetitions):
        seeded = asdict(replace(workload, seed=repetition))
        (folder / "workload.json").write_text(json.dumps(seeded))
        sides = ("cai", "TRL") if repetition % 2 == 0 else ("TRL", "cai")
        pairs.append({side: measure(side, workload, folder) for side in sides})
        speeds = (f"{side} {pairs[-1][side]['episodes_per_second']:.2f}" for side in sides)
        print(
            f"{workload.name}, repetition {repetition + 1}: {', '.join(speeds)} episodes/s",
            flush=True,
        )
    return pairs


def ratios(name: str, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Return our advantage in each quantity: min, median and max over repetitions."""
    series = {
        f"{name}: {label}": [pair["cai"][key] / pair["TRL"][key] for pair in pairs]
        for key, label in SPEEDS.items()
    }
    series[f"{name}: peak memory"] = [
        pair["TRL"]["peak_memory_gib"] / pair["cai"]["peak_memory_gib"] for pair in pairs
    ]
    return {
        label: {"min": min(x), "median": statistics.median(x), "max": max(x)}
        for label, x in series.items()
    }


def agreement(folder: Path) -> dict[str, float]:
    """Run one step of TRL's trainer at λ = 1 and at λ = 0.95, and recompute it."""
    found: dict[str, float] = {}
    for lam in (1.0, 0.95):
        # Steps large enough to clip, and responses that are partly cut off.
        workload = replace(
            PLAYGROUND_WORKLOAD, steps=0, epochs=2, max_new_tokens=32, learning_rate=1e-3, lam=lam
        )
        part = write(workload, folder / f"{lam}")
        tape = part / "tape.pt"
        micro = str(workload.batch_size)
        run([trl_python(), TRL_SIDE, part, part / "result.json", micro, tape], part / "log")
        for name, difference in compare(part, tape).items():
            found[name] = max(difference, found.get(name, 0.0))
    return found


def show(console: Console, all_pairs: dict[str, Pairs]) -> None:
    """Print what was measured, and the lengths of the responses."""
    table = Table(title="Episodes per second and peak memory, every repetition", box=None)
    keys = {**SPEEDS, "peak_memory_gib": "peak GiB"}
    for column in ("workload", "side", *keys.values()):
        table.add_column(column, justify="left" if column in ("workload", "side") else "right")
    for name, pairs in all_pairs.items():
        for side in ("cai", "TRL"):
            cells = [" ".join(f"{pair[side][key]:.3g}" for pair in pairs) for key in keys]
            table.add_row(name, side, *cells)
    console.print(table)
    for name, pairs in all_pairs.items():
        for side in ("cai", "TRL"):
            lengths = [length for pair in pairs for length in pair[side]["lengths"]]
            counts = Counter((length - 1) // BUCKET for length in lengths)
            bars = ", ".join(
                f"{bucket * BUCKET + 1}-{(bucket + 1) * BUCKET}: {counts[bucket]}"
                for bucket in range(max(counts) + 1)
            )
            mean = statistics.mean(lengths)
            console.print(f"{name}, {side}: response tokens, mean {mean:.1f} ({bars})")


def main() -> int:
    """Measure, compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=("playground", "llama", "agreement"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trl_python()
    all_pairs: dict[str, Pairs] = {}
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for workload in (PLAYGROUND_WORKLOAD, LLAMA_WORKLOAD):
            if options.only in (None, workload.name):
                folder = Path(temporary) / workload.name
                all_pairs[workload.name] = alternate(workload, options.repetitions, folder)
        if options.only in (None, "agreement"):
            differences = agreement(Path(temporary) / "agreement")

    console = Console(width=150)
    show(console, all_pairs)
    found = {k: v for name, pairs in all_pairs.items() for k, v in ratios(name, pairs).items()}
    table = Table(title="cai's advantage over TRL 1.12 (larger is better)", box=None)
    for column in ("ratio", "min", "median", "max", "wanted"):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    for label, x in found.items():
        wanted = f"{WANTED[label]:g}" if label in WANTED else ""
        table.add_row(label, *(f"{x[k]:.2f}" for k in ("min", "median", "max")), wanted)
    console.print(table)
    if differences:
        table = Table(title=f"Largest absolute difference (tolerance {TOLERANCE:g})", box=None)
        table.add_column("quantity")
        table.add_column("difference", justify="right")
        for name, difference in differences.items():
            table.add_row(name, f"{difference:.1e}")
        console.print(table)

    agreed = all(x <= TOLERANCE for name, x in differences.items() if "choice:" not in name)
    met = agreed and all(
        found[label]["median"] >= least for label, least in WANTED.items() if label in found
    )
    result = {
        "name": "ppo_vs_trl",
        "machine": machine(),
        "peer": REQUIREMENTS,
        "ratios": found,
        "wanted": WANTED,
        "differences": differences,
        "tolerance": TOLERANCE,
        "runs": all_pairs,
        "met": met,
    }
    console.print(f"machine: {result['machine']}; one thread each; peer: {', '.join(REQUIREMENTS)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
