"""Start a stage's work on several processes by `accelerate launch`, and listen to them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cai.errors import CaiError
from cai.pipeline.load import shipped_folder

MODULE = "cai.pipeline.launched"
LOG = "launch.log"

_FAILURE = re.compile(r"rank\s*: (\d+).*\n\s*exitcode\s*: (-?\d+)")
_TERMINATED = -signal.SIGTERM
"""How the launcher ends the others once one process has failed."""


def launch(
    job: Path,
    launcher: str,
    processes: int | None,
    *,
    on_step: Callable[[Mapping[str, float]], None],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Run a job file (`cai.pipeline.launched`) on several processes; return what it returns.

    Args:
        job: The job; its folder gets `launch.log`, all that the processes say besides.
        launcher: `ddp`, `fsdp2`, … of pipelines/accelerate/, or a file of Accelerate's.
        processes: How many; None for what the file says, or one for each GPU.
        on_step: Gets the metrics of each step.
        warn: Gets warnings.

    Raises:
        CaiError: There are no such processes to start, a process raised one, or one died.
    """
    config = config_file(launcher)
    count = processes or _count(config)
    log, said = job.with_name(LOG), dict[str, Any]()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--num_processes", str(count), "--main_process_port", "0"]
    command += ["--module", MODULE, str(job)]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            for line in process.stdout or ():
                kind, value = _message(line)
                if kind == "step":
                    on_step(value)
                elif kind == "warning":
                    warn(value)
                elif kind:
                    said.setdefault(kind, value)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if "error" in said:
        raise CaiError(said["error"])
    if status or "result" not in said:
        raise CaiError(_obituary(log, count))
    return said["result"]


def config_file(launcher: str) -> Path:
    """Return the Accelerate configuration of that name, or the file itself.

    Raises:
        CaiError: There is none.
    """
    folder = shipped_folder() / "accelerate"
    named = folder / f"{launcher}.yaml"
    path = named if named.is_file() else Path(launcher)
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise CaiError(
            f"`ppo.launch: {launcher}` is neither a file nor one of {names}. Make a file with "
            "`accelerate config --config_file FILE`."
        )
    return path


def _count(config: Path) -> int:
    import torch

    said = yaml.safe_load(config.read_text(encoding="utf-8")).get("num_processes")
    count = said or torch.cuda.device_count()
    if count < 2:
        raise CaiError(
            f"`ppo.launch` needs two processes or more, and this machine has {count} GPUs. Set "
            "`ppo.processes`, or leave `ppo.launch` out."
        )
    return count


def _message(line: str) -> tuple[str | None, Any]:
    """Read a line of a process: one pair, or else something for nobody."""
    try:
        message = json.loads(line)
        ((kind, value),) = message.items()
    except (ValueError, AttributeError):
        return None, None
    return kind, value


def _obituary(log: Path, count: int) -> str:
    """Say which process died of what, going by the launcher's own report."""
    failures = [(int(r), int(code)) for r, code in _FAILURE.findall(log.read_text("utf-8"))]
    # One that was killed is the cause of the others' broken connections.
    failures.sort(key=lambda failure: (failure[1] >= 0, failure[1] == _TERMINATED))
    what = "the launcher failed"
    if failures:
        rank, code = failures[0]
        what = f"process {rank} failed with exit status {code}"
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as for want of memory" if -code == signal.SIGKILL else ""
            what = f"process {rank} was killed ({name}{memory})"
    return (
        f"PPO on {count} processes ended early: {what}. The others were ended, and the newest "
        f"checkpoint is kept: run again to go on from it. All that they said is in {log}."
    )
