"""What a stage is, and what it is given when it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cai.constitution import Constitution
from cai.engines import Completion, Engine, GenerateRequest, ScoreRequest, Scores, Usage
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
    """

    name: str
    version: int
    settings: Callable[[Context], dict[str, Any]]
    needs: Callable[[PipelineSettings], tuple[str, ...]]
    inputs: Callable[[Context], dict[str, str]]
    run: Callable[[Context], dict[str, Any]]
    outputs: tuple[str, ...]


class LazyEngine:
    """Opens a model on its first request, so that a stage with nothing to do loads nothing."""

    def __init__(self, settings: ModelSettings, fingerprint: str) -> None:
        """Remember what to open."""
        self._settings = settings
        self._fingerprint = fingerprint
        self._engine: Engine | None = None
        self._done = Usage()

    @property
    def usage(self) -> Usage:
        """What the engine has done so far."""
        return self._done + self._engine.usage if self._engine else self._done

    @property
    def fingerprint(self) -> str:
        """Names the weights, without loading them."""
        return self._fingerprint

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt."""
        return await self._opened().generate(request)

    async def score(self, request: ScoreRequest) -> Scores:
        """Score options."""
        return await self._opened().score(request)

    async def close(self) -> None:
        """Give the memory back; another request would open the model again."""
        if self._engine:
            self._done, engine, self._engine = self.usage, self._engine, None
            await engine.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            from cai.engines.opening import open_engine

            self._engine = open_engine(self._settings)
        return self._engine


class Fingerprints(Protocol):
    """Knows models by their contents, as a `Context` does."""

    def fingerprint(self, model: ModelSettings) -> str:
        """Name a model's weights and format."""
        ...


def with_engines(
    context: Fingerprints,
    models: Iterable[ModelSettings],
    body: Callable[[Mapping[ModelSettings, Engine]], Awaitable[T]],
) -> tuple[T, Usage]:
    """Run `body` with one engine per distinct model, and close them after it.

    Returns:
        What `body` returned, and the usage of all engines together.
    """
    engines = {model: LazyEngine(model, context.fingerprint(model)) for model in models}

    async def run() -> T:
        try:
            return await body(engines)
        finally:
            for engine in engines.values():
                await engine.close()

    result = asyncio.run(run())
    return result, sum((engine.usage for engine in engines.values()), start=Usage())


def make_rows(
    context: Context,
    items: Iterable[Item[T]],
    row_function: Callable[[Mapping[ModelSettings, Engine]], Callable[[Item[T]], Awaitable[R]]],
    *,
    store: RowStore[R],
    models: Iterable[ModelSettings],
    concurrency: int,
    title: str,
) -> tuple[RowsResult[R], Usage]:
    """Make the rows of a data stage that are not there yet.

    Args:
        context: The run.
        items: The rows to make.
        row_function: Returns the row function, given an engine for each model.
        store: Where the rows are kept.
        models: The models that are asked.
        concurrency: Rows under way at once.
        title: What the progress is called.

    Returns:
        All rows, and what the engines did.
    """

    async def body(engines: Mapping[ModelSettings, Engine]) -> RowsResult[R]:
        task = partial(context.progress.rows, title, tokens=tokens_of(engines))
        make = row_function(engines)
        return await run_rows(items, make, store=store, concurrency=concurrency, task=task)

    return with_engines(context, models, body)


def train_model(
    context: Context,
    stage: str,
    train: Callable[..., Mapping[str, Any]],
    settings: OptimizerSettings,
    data: Path,
    base: ModelSettings,
) -> dict[str, Any]:
    """Train a stage's model on data that another stage made; return the metrics.

    Args:
        context: The run.
        stage: Whose folder gets `model/`.
        train: `train_sft` or `train_preference`.
        settings: Of the stage.
        data: A parquet file.
        base: Where the model starts.
    """
    with context.progress.training(stage) as on_step:
        metrics = train(
            settings,
            data=data,
            base=base,
            out=context.stage_dir(stage) / "model",
            seed=context.settings.seed,
            log_dir=context.log_dir / stage,
            on_step=on_step,
        )
    return dict(metrics)


def tokens_of(engines: Mapping[ModelSettings, Engine]) -> Callable[[], int]:
    """Return what counts the tokens that went into engines and came out of them so far."""
    return lambda: sum(e.usage.tokens_in + e.usage.tokens_out for e in engines.values())


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
        "states": rows.states,
        "errors": {row.state: row.error for row in reversed(rows.rows) if row.error},
        **done,
        **more,
        "seconds": round(seconds, 2),
        "tokens_per_second": round((usage.tokens_in + usage.tokens_out) / max(seconds, 1e-9), 1),
        "rows_per_second": round((len(rows.rows) - len(rows.reused)) / max(seconds, 1e-9), 2),
    }
