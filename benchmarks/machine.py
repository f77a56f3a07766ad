"""What a measurement was taken on."""

import os
import platform
from pathlib import Path

from cai.pipeline.manifest import environment


def machine() -> dict[str, str]:
    """Return processor, cores and versions."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        model = names[0].split(":")[1].strip() if names else model
    return {"processor": model, "cores": str(os.cpu_count()), **environment()}
