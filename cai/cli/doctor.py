"""`cai doctor`."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table

from cai.cli.console import plain_console
from cai.pipeline.manifest import environment

OPTIONAL = {
    "vllm": "fast generation on GPUs: pip install 'cai[vllm]'",
    "openai": "hosted or local servers as feedback models: pip install 'cai[openai]'",
}


def doctor() -> None:
    """Show what this machine can run, and what is missing."""
    import torch

    from cai.models.loading import PLAYGROUND

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in environment().items():
        table.add_row(name, value)
    table.add_row("processors", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    table.add_row("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB")
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        table.add_row(f"GPU {number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        table.add_row("GPU", "none: models run on the CPU in float32")
    for name, purpose in OPTIONAL.items():
        table.add_row(name, "installed" if find_spec(name) else f"not installed ({purpose})")
    shipped = (PLAYGROUND / "model.safetensors").exists()
    table.add_row("playground model", "available" if shipped else f"missing from {PLAYGROUND}")
    plain_console().print(table)
