"""What a stage is, and what it is given when it runs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cai.constitution import Constitution
from cai.engines import Usage
from cai.pipeline.engines import Engines
from cai.pipeline.launch_training import launcher_of_training, run_training
from cai.pipeline.progress import Progress
from cai.records import Row
from cai.rows import Item, RowsResult, run_rows
from cai.settings import ModelSettings, OptimizerSettings, PipelineSettings
from cai.store import RowStore

T = TypeVar("T")
R = TypeVar("R", bound=Row)


class KnownModels:
    """Names models by their contents: reads the files, or asks the server, of each one once."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[ModelSettings, str] = {}

    def fingerprint(self, model: ModelSettings) -> str:
        """Name a model's weights and format, or a model behind a server.

        Raises:
            CaiError: The folder is unusable, or the server does not answer.
        """
        if model not in self._known:
            from cai.engines.opening import fingerprint_engine

            self._known[model] = fingerprint_engine(model)
        return self._known[model]


@dataclass
class Context:
    """One execution of a pipeline in one run folder.

    Attributes:
        settings: The whole pipeline, resolved.
        folder: The run folder.
        base_dir: Relative paths of the pipeline file start here.
        constitution: The constitution, `extends` resolved.
        progress: Where to say how far things are.
    """

    settings: PipelineSettings
    folder: Path
    base_dir: Path
    constitution: Constitution
    progress: Progress
    _models: KnownModels = field(default_factory=KnownModels)

    def stage_dir(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.folder / stage

    @property
    def log_dir(self) -> Path:
        """The folder of the TensorBoard logs."""
        return self.folder / "logs"

    @property
    def helpful(self) -> ModelSettings:
        """The helpful-only model."""
        return self.settings.models.helpful

    @property
    def base(self) -> ModelSettings:
        """The model that fine-tuning starts from."""
        return self.settings.models.base or self.helpful

    @property
    def feedback(self) -> ModelSettings:
        """The model that compares responses."""
        return self.settings.models.feedback or self.helpful

    @property
    def sl_cai(self) -> ModelSettings:
        """SL-CAI, or the helpful-only model in a pipeline without fine-tuning."""
        return self.trained("sft", self.base) if self.settings.sft else self.helpful

    @property
    def rl_cai(self) -> ModelSettings:
        """RL-CAI."""
        return self.trained("ppo", self.base)

    def trained(self, stage: str, like: ModelSettings) -> ModelSettings:
        """Return the model that a stage has trained; its tokenizer carries its chat template."""
        path = str(self.stage_dir(stage) / "model")
        return like.model_copy(update={"path": path, "format": "chat", "adapter": None})

    def fingerprint(self, model: ModelSettings) -> str:
        """Name a model, reading its files once."""
        return self._models.fingerprint(model)

    def forget_fingerprints(self) -> None:
        """Look at model folders anew, after a stage has trained one."""
        self._models = KnownModels()


@dataclass(frozen=True)
class Stage:
    """One step of the method.

    Attributes:
        name: Its name, its folder's, and its section's in the pipeline file.
        version: Raised when the code changes what the stage makes from the same inputs.
        settings: What of the pipeline file determines its result.
        needs: The stages whose files it reads.
        inputs: Hashes of what it reads from outside the run folder.
        run: Makes the files; returns the metrics of this execution.
        outputs: Files and folders that make up its result.
        check: Raises a CaiError for what can be known to go wrong before any stage has run.
    """

    name: str
    version: int
    settings: Callable[[Context], dict[str, Any]]
    needs: Callable[[PipelineSettings], tuple[str, ...]]
    inputs: Callable[[Context], dict[str, str]]
    run: Callable[[Context], dict[str, Any]]
    outputs: tuple[str, ...]
    check: Callable[[Context], None] = lambda _: None


def make_rows(
    context: Context,
    engines: Engines,
    items: Iterable[Item[T]],
    make: Callable[[Item[T]], Awaitable[R]],
    *,
    store: RowStore[R],
    concurrency: int,
    title: str,
) -> RowsResult[R]:
    """Make the rows of a data stage that are not there yet; return all of them.

    Args:
        context: The run.
        engines: Of the stage; `make` asks them.
        items: The rows to make.
        make: The row function.
        store: Where the rows are kept.
        concurrency: Rows under way at once.
        title: What the progress is called.
    """
    task = partial(context.progress.rows, title, tokens=engines.tokens)
    return engines.run(run_rows(items, make, store=store, concurrency=concurrency, task=task))


def train_model(
    context: Context,
    stage: str,
    train: str,
    settings: OptimizerSettings,
    data: Path,
    base: ModelSettings,
) -> dict[str, Any]:
    """Train a stage's model on data that another stage made; return the metrics.

    Args:
        context: The run.
        stage: Whose folder gets `model/`.
        train: `MODULE:FUNCTION`, such as `cai.training.sft:train_sft`.
        settings: Of the stage.
        data: The rows.
        base: Where the model starts.
    """
    return run_training(
        train,
        settings,
        stage=stage,
        data=data,
        base=base,
        out=context.stage_dir(stage) / "model",
        seed=context.settings.seed,
        log_dir=context.log_dir / stage,
        base_dir=context.base_dir,
        progress=context.progress,
    )


def check_launcher(context: Context, stage: str, settings: OptimizerSettings) -> None:
    """Raise a CaiError if a training stage could not be launched as its settings say."""
    launcher_of_training(settings, stage=stage, base_dir=context.base_dir)


def data_metrics(
    rows: RowsResult[Any], usage: Usage, started: float, **more: object
) -> dict[str, Any]:
    """Return the figures every data stage writes; `errors` has the first row's of each state.

    Args:
        rows: The stage's own rows.
        usage: Of all engines.
        started: `time.monotonic()` at the stage's start.
        more: Figures of this stage alone.
    """
    seconds = time.monotonic() - started
    done = {
        name: round(value, 6 if name == "cost" else 2) if isinstance(value, float) else value
        for name, value in asdict(usage).items()
    }
    return {
        "rows": len(rows.rows),
        "rows_reused": len(rows.reused),
        "rows_waited": rows.waited,
        "states": rows.states,
        "errors": {row.state: row.error for row in reversed(rows.rows) if row.error},
        **done,
        **more,
        "seconds": round(seconds, 2),
        "tokens_per_second": round((usage.tokens_in + usage.tokens_out) / max(seconds, 1e-9), 1),
        "rows_per_second": round((len(rows.rows) - len(rows.reused)) / max(seconds, 1e-9), 2),
    }
