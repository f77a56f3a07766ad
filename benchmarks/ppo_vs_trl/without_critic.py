"""Methods without a critic: GRPO and RLOO of `cai` beside TRL's, and a step beside one of PPO.

    python -m benchmarks.ppo_vs_trl.without_critic --json without_critic.json

All sides train the same models on the same prompts with the same batch, 4 samples of each prompt,
one epoch and the same KL penalty, in float32, on one thread, each in a process of its own, in turn.
TRL is the one of this environment. Exit status 1 when a wanted ratio is not met.
"""

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

from benchmarks.ppo_vs_trl.sides import run
from benchmarks.ppo_vs_trl.workloads import LLAMA_WORKLOAD, PLAYGROUND_WORKLOAD, Workload, write
from benchmarks.ratios import conclude, options

SAMPLES = 4
METHODS = {
    "GRPO": {"advantage": "grpo", "kl_in": "loss", "loss_average": "responses"},
    "RLOO": {"advantage": "rloo", "loss_average": "response_sums"},
}
SHARED = {"samples_per_prompt": SAMPLES, "whiten_advantages": False}
TRL_MICRO_BATCH = {"playground": 16, "llama": 8}
"""Rows of TRL's forward and backward passes, as for PPO."""
WANTED = {
    f"{workload}: {method}, episodes per second over TRL's": 1.2
    for workload in ("playground", "llama")
    for method in METHODS
}
TRL_SIDE = Path(__file__).with_name("trl_without_critic.py")


def speed(command: list[str | Path], folder: Path) -> float:
    """Run one side; return episodes per processor second, without the first step."""
    run([sys.executable, *command], folder / "log")
    measured = json.loads((folder / "result.json").read_text())
    return sum(map(len, measured["lengths"][1:])) / sum(measured["cpu_seconds"][1:])


def measure(workload: Workload, folder: Path, found: dict[str, list[float]]) -> None:
    """Measure all sides once, one after the other, and add their ratios to `found`."""
    result = folder / "result.json"
    ours: list[str | Path] = ["-m", "benchmarks.ppo_vs_trl.ours", folder, result]

    def set_to(changed: Workload) -> None:
        (folder / "workload.json").write_text(json.dumps(asdict(changed)))

    for name, method in METHODS.items():
        set_to(replace(workload, method={**SHARED, **method}, scores_ids=True))
        theirs = [TRL_SIDE, folder, result, str(TRL_MICRO_BATCH[workload.name]), name.lower()]
        ratio = speed(ours, folder) / speed(theirs, folder)
        found[f"{workload.name}: {name}, episodes per second over TRL's"].append(ratio)
        print(f"{workload.name}, {name}: {ratio:.2f}", flush=True)
    set_to(workload)
    ppo = speed(ours, folder)
    set_to(replace(workload, method={**SHARED, **METHODS["RLOO"]}))
    found[f"{workload.name}: RLOO, episodes per second over PPO here"].append(
        speed(ours, folder) / ppo
    )


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--only", choices=("playground", "llama"))
    parsed = parser.parse_args()
    found: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        for workload in (PLAYGROUND_WORKLOAD, LLAMA_WORKLOAD):
            if parsed.only not in (None, workload.name):
                continue
            once = replace(workload, epochs=1)
            folder = write(once, Path(temporary) / workload.name)
            for number in range(parsed.rounds):
                measure(replace(once, seed=number), folder, found)
    wanted = {label: least for label, least in WANTED.items() if label in found}
    peer = f"trl {metadata.version('trl')}"
    return conclude("ppo_vs_trl_without_critic", found, wanted, parsed.json, peer=peer)


if __name__ == "__main__":
    sys.exit(main())
