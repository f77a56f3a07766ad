"""Peak memory of a training step on a CPU: the whole batch in one pass, and split as by default.

    python -m benchmarks.training_memory FOLDER        # of a model, such as one of 0.5B parameters

Each in a process of its own, from loading the model to saving it: one optimizer step with LoRA on
made-up rows of about 100 tokens. The first losses of the two must be the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import gib
from benchmarks.show import markdown_table
from cai.settings import DpoSettings, ModelSettings, PreferenceSettings, SftSettings

TEXT = " ".join(f"word{number}" for number in range(30))
SETTINGS = {"sft": SftSettings, "preference": PreferenceSettings, "dpo": DpoSettings}


def train(model: Path, training: str, batch: int, micro: int | None, folder: Path) -> float:
    """Take one step in this process; returns its loss."""
    data = folder / "rows.parquet"
    answer, other = ([{"role": "assistant", "content": text}] for text in (TEXT, TEXT[::-1]))
    more: dict[str, Any] = {"chosen": answer, "rejected": other, "chosen_probability": 0.9}
    if training == "sft":
        more = {"kind": "helpful", "round": 0, "completion": answer, "ended": True}
    prompt = [{"role": "user", "content": "What is this about?"}]
    rows = [{"key": str(n), "source": "ai", "prompt": prompt, **more} for n in range(batch)]
    pq.write_table(pa.Table.from_pylist(rows), data)
    found = _function(training)(
        SETTINGS[training](batch_size=batch, micro_batch_size=micro, lora_rank=8),
        data=data,
        base=ModelSettings(path=str(model)),
        out=folder / "model",
        seed=0,
        log_dir=folder / "logs",
    )
    return found["first_loss"]


def _function(training: str) -> Callable[..., dict[str, float]]:
    from cai.training.dpo import train_dpo
    from cai.training.preference import train_preference
    from cai.training.sft import train_sft

    return {"sft": train_sft, "preference": train_preference, "dpo": train_dpo}[training]


def measured(model: Path, training: str, batch: int, micro: int | None) -> dict[str, float]:
    """Take one step in another process; returns `loss` and `peak_gib`."""
    with tempfile.TemporaryDirectory() as name:
        options = ["--one", training, "--batch", str(batch), "--folder", name]
        options += ["--micro", str(micro)] if micro else []
        process = subprocess.Popen([sys.executable, "-m", __spec__.name, str(model), *options])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{training} failed")
        loss = json.loads((Path(name) / "loss.json").read_text(encoding="utf-8"))
    return {"loss": loss, "peak_gib": gib(usage.ru_maxrss * 1024)}


def main() -> int:
    """Measure and print; exit status 1 if the losses differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", choices=SETTINGS, help="only this training")
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--micro", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        loss = train(chosen.model, chosen.one, chosen.batch, chosen.micro, chosen.folder)
        (chosen.folder / "loss.json").write_text(json.dumps(loss), encoding="utf-8")
        return 0
    rows: list[list[str]] = []
    same = True
    for training in [chosen.only] if chosen.only else SETTINGS:
        whole = measured(chosen.model, training, chosen.batch, chosen.batch)
        split = measured(chosen.model, training, chosen.batch, None)
        same = same and abs(whole["loss"] - split["loss"]) < 1e-5
        rows.append([training, *(f"{one['peak_gib']:.2f}" for one in (whole, split))])
        rows[-1] += [f"{one['loss']:.7f}" for one in (whole, split)]
    head = ("one step", "whole batch, GiB", "as by default, GiB", "loss", "loss by default")
    print(markdown_table(head, rows))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
