"""Run the training of a stage in this process, or on several with `accelerate launch`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cai.constitution.load import shipped
from cai.errors import CaiError
from cai.pipeline.progress import Progress
from cai.settings import ModelSettings, OptimizerSettings, PPOSettings

OnStep = Callable[[Mapping[str, float]], None]

MODULE = "cai.pipeline.launched"
LOG = "launch.log"
KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED")
"""Of Accelerate's `distributed_type`: those under which a training may share its work."""

_FAILURE = re.compile(r"rank\s*: (\d+).*\n\s*exitcode\s*: (-?\d+)")
_TERMINATED = -signal.SIGTERM
"""How the launcher ends the others once one process has failed."""


class Job(BaseModel, frozen=True):
    """The inputs and the output of a task, so that other processes can run it.

    `work` is the class of the job, as `MODULE:CLASS`.
    """

    work: str

    def run(self, on_step: OnStep) -> dict[str, Any]:
        """Run the job, in this process or as one of several; return the metrics."""
        raise NotImplementedError


class TrainingJob(Job, frozen=True):
    """A training on the rows of `data`, from the model `base`, into the folder `out`.

    `train` is `MODULE:FUNCTION`, such as `cai.training.sft:train_sft`; `section` is the class of
    its settings, `MODULE:CLASS`; `settings` are plain data.
    """

    work: str = f"{__name__}:TrainingJob"
    train: str
    section: str
    settings: dict[str, Any]
    data: Path
    base: ModelSettings
    out: Path
    seed: int
    log_dir: Path

    def run(self, on_step: OnStep) -> dict[str, Any]:
        """Train, in this process or as one of several; return the metrics."""
        return _named(self.train)(
            _named(self.section).model_validate(self.settings),
            data=self.data,
            base=self.base,
            out=self.out,
            seed=self.seed,
            log_dir=self.log_dir,
            on_step=on_step,
        )


def read_job(file: Path) -> Job:
    """Read a job of any kind."""
    text = file.read_text(encoding="utf-8")
    return _named(json.loads(text)["work"]).model_validate_json(text)


def _named(name: str) -> Any:  # noqa: ANN401
    """Return what `MODULE:NAME` names."""
    module, _, inner = name.partition(":")
    return getattr(import_module(module), inner)


@dataclass(frozen=True)
class Launcher:
    """How several processes are started: by Accelerate's configuration in `file`.

    `kind` is its `distributed_type`.
    """

    file: Path
    processes: int
    kind: str = "MULTI_GPU"


def run_training(
    train: str,
    settings: OptimizerSettings,
    *,
    stage: str,
    out: Path,
    base_dir: Path,
    progress: Progress,
    **inputs: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train with a progress display; return the metrics.

    `stage` is the name in the display; launcher files are also looked up in `base_dir`. The job of
    several processes and their log are written beside `out`, the folder of the new model. `inputs`
    are the other attributes of `TrainingJob`: `data`, `base`, `seed`, `log_dir`.
    """
    section = f"{type(settings).__module__}:{type(settings).__name__}"
    plain = settings.model_dump(mode="json")
    job = TrainingJob(train=train, section=section, settings=plain, out=out, **inputs)
    launcher = launcher_of(settings, stage=stage, base_dir=base_dir)
    with progress.training(stage) as on_step:
        file = out.with_name(f"{out.name}-job.json")
        return run_job(job, file, launcher, on_step=on_step, warn=progress.say)


def run_job(
    job: Job,
    file: Path,
    launcher: Launcher | None,
    *,
    on_step: OnStep,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Run a job in this process, or on several; return its metrics.

    Several processes read the job from `file`, see `launch`.
    """
    if launcher is None:
        return job.run(on_step)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    return launch(file, launcher, on_step=on_step, warn=warn)


def launch(
    job: Path,
    launcher: Launcher,
    *,
    on_step: OnStep,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Run a job file on several processes (`cai.pipeline.launched`); return what it returns.

    All other output of the processes goes to `launch.log` in the job's folder.

    Raises:
        CaiError: The processes could not be started, or one raised an error or died.
    """
    log, said = job.with_name(LOG), dict[str, Any]()
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(launcher.file)]
    command += ["--num_processes", str(launcher.processes), "--main_process_port", "0"]
    command += ["--module", MODULE, str(job)]
    pipe = subprocess.PIPE
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        try:
            for line in process.stdout or ():
                kind, value = _message(line)
                if kind == "step":
                    on_step(value)
                elif kind == "warning":
                    warn(value)
                elif kind:
                    said.setdefault(kind, value)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
    if "result" in said:
        return said["result"]
    failure = said.get("error") or _failure_of(log, launcher.processes, process.returncode)
    raise CaiError(failure)


def launcher_of(
    settings: OptimizerSettings | PPOSettings, *, stage: str, base_dir: Path
) -> Launcher | None:
    """Return how to start the processes of a stage; None if it needs only this process.

    Raises:
        CaiError: The launcher or the settings cannot be used with each other.
    """
    if settings.launch is None:
        return None
    launcher = find_launcher(settings.launch, settings.processes, base_dir, stage=stage)
    try:
        settings.checked(processes=launcher.processes)
    except CaiError as problem:
        raise CaiError(f"`{stage}`: {problem}") from None
    return launcher


def find_launcher(name: str, processes: int | None, base_dir: Path, *, stage: str) -> Launcher:
    """Return how to start processes, after checks; none is started.

    `name` is `ddp`, `fsdp2`, … of pipelines/accelerate/, or a file of Accelerate's, in `base_dir`
    or the working directory. Without `processes`, its file says how many, or there is one for each
    GPU.

    Raises:
        CaiError: There is no such file, or it has settings that are not supported.
    """
    import torch

    from cai.training.processes import check_launch_variables

    file = _config_file(name, base_dir, stage)
    config = _read(file)
    kind = next((kind for kind in KINDS if kind == config.distributed_type), None)
    if kind is None:
        raise CaiError(
            f"{file}: `{stage}` cannot run with `distributed_type: "
            f"{config.distributed_type}`. Use one of {', '.join(KINDS)} (on a CPU, too)."
        )
    if config.num_machines > 1:
        raise CaiError(
            f"{file}: `num_machines` is {config.num_machines}, and `cai run` starts processes on "
            "this machine only. For several, start a training script (with `cai.ppo.PPO`) "
            "on each of them with `accelerate launch` (docs/ppo.md)."
        )
    check_launch_variables(_variables(config))
    said = config.num_processes if config.num_processes > 0 else None
    count = processes or said or torch.cuda.device_count()
    if count < 2:
        there = "" if processes or said else f": this machine has {count} GPUs"
        raise CaiError(
            f"`{stage}.launch` needs two processes or more, not {count}{there}. Raise "
            f"`{stage}.processes`, or leave `{stage}.launch` out."
        )
    return Launcher(file, count, kind)


def _config_file(name: str, base_dir: Path, stage: str) -> Path:
    folder = shipped("pipelines") / "accelerate"
    for path in (folder / f"{name}.yaml", Path(name), base_dir / name):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise CaiError(
        f"`{stage}.launch: {name}` is neither a file nor one of {names}. Make a file with "
        "`accelerate config --config_file FILE`."
    )


def _read(file: Path) -> Any:  # noqa: ANN401 (Accelerate's ClusterConfig)
    """Read a configuration as the launcher will, which has many kinds of errors."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(str(file))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as problem:
        raise CaiError(
            f"{file} is not a configuration of Accelerate's ({' '.join(str(problem).split())}). "
            "Make one with `accelerate config --config_file FILE`."
        ) from problem


def _variables(config: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the variables that the launcher will set, as far as `check_launch_variables` asks."""
    sharded = config.distributed_type == "FSDP"
    precision = "no" if config.mixed_precision is None else config.mixed_precision
    said = {"ACCELERATE_USE_FSDP": sharded, "ACCELERATE_MIXED_PRECISION": precision}
    said["ACCELERATE_USE_DEEPSPEED"] = config.distributed_type == "DEEPSPEED"
    if sharded:
        prefixed = {f"fsdp_{key.removeprefix('fsdp_')}": x for key, x in config.fsdp_config.items()}
        said |= {"FSDP_VERSION": 1} | {key.upper(): x for key, x in prefixed.items()}
    return {name: str(x).lower() for name, x in said.items()}


def _message(line: str) -> tuple[str | None, Any]:
    """Read a line of a process: a message is one pair; other lines are skipped."""
    try:
        message = json.loads(line)
        ((kind, value),) = message.items()
    except (ValueError, AttributeError):
        return None, None
    return kind, value


def _failure_of(log: Path, count: int, status: int) -> str:
    """Return an error text: which process died and why, by the launcher's own report."""
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    failures = [(int(r), int(code)) for r, code in _FAILURE.findall(said)]
    if not failures:
        last = said.split("\n")[-1] or f"the launcher ended with exit status {status}"
        return f"The {count} processes did not do their work: {last} (all of it is in {log})."
    # A killed process is the cause of the broken connections of the others.
    failures.sort(key=lambda failure: (failure[1] >= 0, failure[1] == _TERMINATED))
    rank, code = failures[0]
    what = f"process {rank} failed with exit status {code}"
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", as for want of memory" if -code == signal.SIGKILL else ""
        what = f"process {rank} was killed ({name}{memory})"
    return (
        f"The training on {count} processes ended early: {what}. The others were ended, and the "
        f"newest checkpoint is kept: run again to go on from it. All that they said is in {log}."
    )
