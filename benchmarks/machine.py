"""What a measurement was taken on."""

import platform
from pathlib import Path

from cai.pipeline.manifest import environment


def machine() -> dict[str, str]:
    """Return the processor, and what a run's manifests say of machine and versions."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        model = names[0].split(":")[1].strip() if names else model
    return {"processor": model, **environment()}
