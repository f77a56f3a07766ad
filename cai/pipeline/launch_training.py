"""Run the training of a stage: in this process, or on several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cai.errors import CaiError
from cai.pipeline.launch import Job, Launcher, find_launcher, launch
from cai.pipeline.progress import Progress
from cai.settings import ModelSettings, OptimizerSettings


class TrainingJob(Job, frozen=True):
    """A training on a file of rows.

    Attributes:
        train: `MODULE:FUNCTION`, such as `cai.training.sft:train_sft`.
        section: The class of the settings, `MODULE:CLASS`.
        settings: The training settings, as plain data.
        data: The rows.
        base: The model to start from.
        out: The folder of the new model.
        seed: The run's.
        log_dir: For TensorBoard.
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

    def run(self, on_step: Callable[[Mapping[str, float]], None]) -> dict[str, Any]:
        """Train, in this process or as one of several; return the metrics."""
        return _found(self.train)(
            _found(self.section).model_validate(self.settings),
            data=self.data,
            base=self.base,
            out=self.out,
            seed=self.seed,
            log_dir=self.log_dir,
            on_step=on_step,
        )


def _found(name: str) -> Any:  # noqa: ANN401
    """Return what `MODULE:NAME` names."""
    module, _, inner = name.partition(":")
    return getattr(import_module(module), inner)


def run_training(
    train: str,
    settings: OptimizerSettings,
    *,
    stage: str,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    base_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train with a progress display; return the metrics.

    Args:
        train: See `TrainingJob`.
        settings: The training settings, and the number of processes.
        stage: The name in the progress display.
        data: The rows.
        base: The model to start from.
        out: The folder of the new model; the job of several processes and their log are beside it.
        seed: The run's.
        log_dir: For TensorBoard.
        base_dir: A folder of launcher files, besides the working directory.
        progress: The progress display.
    """
    launcher = launcher_of_training(settings, stage=stage, base_dir=base_dir)
    job = TrainingJob(
        train=train,
        section=f"{type(settings).__module__}:{type(settings).__name__}",
        settings=settings.model_dump(mode="json"),
        data=data,
        base=base,
        out=out,
        seed=seed,
        log_dir=log_dir,
    )
    with progress.training(stage) as on_step:
        if launcher is None:
            return job.run(on_step)
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.with_name(f"{out.name}-job.json")
        file.write_text(job.model_dump_json(indent=1), encoding="utf-8")
        return launch(file, launcher, on_step=on_step, warn=progress.say)


def launcher_of_training(
    settings: OptimizerSettings, *, stage: str, base_dir: Path
) -> Launcher | None:
    """Return how to start the processes of a training; None if it needs only this process.

    Raises:
        CaiError: The launcher or the settings cannot be used with each other.
    """
    if settings.launch is None:
        return None
    launcher = find_launcher(settings.launch, settings.processes, base_dir, stage=stage)
    count, batch = launcher.processes, settings.batch_size
    if batch % count or batch // count % (settings.micro_batch_size or 1):
        micro = settings.micro_batch_size or 1
        raise CaiError(
            f"`{stage}.batch_size` {batch} cannot be split among {count} processes in "
            f"micro-batches of {micro}. Make it a multiple of {count * micro}."
        )
    return launcher
