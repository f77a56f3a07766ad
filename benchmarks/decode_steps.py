"""The time of one decoding step on a GPU, with CUDA graphs and without.

    python -m benchmarks.decode_steps --json decode_steps.json

A random model of 8B shape in bfloat16, 256 rows with prompts of about 200 words. The time of a step
is the difference between runs of more and of fewer tokens. Beside it stands the least time: that of
reading weights, and the keys and values of all rows, once, at the speed of a copy.
Without a GPU it measures nothing, says so and exits with 0.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import Shape, limits, random_model, requests, seconds
from benchmarks.machine import machine
from benchmarks.show import markdown_table
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.models.loading import PLAYGROUND, load_chat_format
from cai.settings import ModelSettings

BEFORE, STEPS = 8, 96
"""Tokens of the shorter run, and how many more the longer one makes."""


def measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, *, before: int, steps: int
) -> dict[str, Any]:
    """Return milliseconds of a step by kind, and the least that reading takes."""
    model = random_model(shape, device, dtype)
    chat = load_chat_format(ModelSettings(path=str(PLAYGROUND)))
    prompts = [tuple(chat.prompt_ids(request.prompt)) for request in requests(shape)]

    def run(new: int, *, graphs: bool) -> float:
        loop = DecodeLoop(
            model, stop_ids=(), max_batch_tokens=shape.rows * shape.context, graphs=graphs
        )
        asked = [TokenRequest(ids, seed=row, max_tokens=new) for row, ids in enumerate(prompts)]
        return seconds(lambda: loop.run(asked), device)

    found: dict[str, float] = {}
    for name, graphs in (("CUDA graphs", True), ("single operations", False)):
        run(2, graphs=graphs)
        found[name] = (run(before + steps, graphs=graphs) - run(before, graphs=graphs)) / steps
    copied, _ = limits(shape, device, dtype)
    size = torch.empty((), dtype=dtype).element_size()
    table: torch.Tensor = model.model.embed_tokens.weight
    weights = sum(weight.numel() for weight in model.parameters()) - table.numel()
    columns = sum(map(len, prompts)) + shape.rows * (before + steps / 2)
    least = (weights * size + columns * shape.bytes_of_states(size)) / copied
    return {
        "milliseconds of a step": {name: 1e3 * time for name, time in found.items()},
        "least, by reading": 1e3 * least,
        "fraction of memory bandwidth": {name: least / time for name, time in found.items()},
        "bytes/s of a copy": copied,
    }


def table(found: dict[str, Any]) -> str:
    """Lay the figures out."""
    rows: Sequence[tuple[str, ...]] = [
        (name, f"{time:.1f}", f"{found['fraction of memory bandwidth'][name]:.2f}")
        for name, time in found["milliseconds of a step"].items()
    ]
    last = ("least, by reading", f"{found['least, by reading']:.1f}", "1.00")
    return markdown_table(("a step of 256 rows", "ms", "fraction of bandwidth"), [*rows, last])


def main() -> int:
    """Measure, print and save; without a GPU, say so."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return 0
    found = measure(Shape(), torch.device("cuda"), torch.bfloat16, before=BEFORE, steps=STEPS)
    print(table(found))
    about = {**machine(), "gpu": torch.cuda.get_device_name()}
    print(about)
    if options.json:
        result = {"name": "decode_steps", "machine": about, **found}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
