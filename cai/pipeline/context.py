"""A pipeline in its run folder, and the context that a stage gets when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console

from cai.constitution import Constitution
from cai.pipeline.engines import Fingerprint
from cai.pipeline.progress import Progress
from cai.pipeline.stage import BASE, FEEDBACK, GIVEN, HELPFUL, POLICY, Placed
from cai.settings import ModelSettings, PipelineSettings, StageSettings

LOGS, SWEEP = "logs", "sweep"
"""Folders of a run that are no stage's: TensorBoard's logs, and evaluations of its checkpoints."""

S = TypeVar("S", bound=StageSettings)
T = TypeVar("T", bound=StageSettings)


def known_models() -> Fingerprint:
    """Return a function that names models by their contents.

    It reads the files of each, or asks its server, once. It raises a CaiError if the folder is
    unusable or the server does not answer.
    """

    def fingerprint(model: ModelSettings) -> str:
        from cai.engines.opening import fingerprint_engine

        return fingerprint_engine(model)

    return cache(fingerprint)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, ready to run.

    Attributes:
        settings: Validated, changes applied.
        stages: In the order in which they run.
        base_dir: The folder of the file; relative paths in it start there.
        constitution: What it names, `extends` resolved.
    """

    settings: PipelineSettings
    stages: Sequence[Placed]
    base_dir: Path
    constitution: Constitution


@dataclass
class Run:
    """One execution of a pipeline in one run folder.

    Attributes:
        pipeline: What is run.
        folder: The run folder.
        progress: Where to say how far things are; the terminal if left out.
        fingerprint: Names a model, reading its files once.
    """

    pipeline: Pipeline
    folder: Path
    progress: Progress = field(default_factory=lambda: Progress(Console()))
    fingerprint: Fingerprint = field(default_factory=known_models)

    @property
    def stages(self) -> Sequence[Placed]:
        """The stages in the order in which they run."""
        return self.pipeline.stages

    def context(self, placed: Placed) -> Context[Any]:
        """Return the context of a stage."""
        return Context(self, placed, placed.settings)

    def first(self, kind: type[S]) -> Context[S]:
        """Return the context of the first stage with such a section; there must be one."""
        return next(self.context(p) for p in self.stages if isinstance(p.settings, kind))

    @property
    def models(self) -> dict[str, ModelSettings]:
        """The language models by name: those that are given, then each that a stage trains."""
        given = self.pipeline.settings.models
        found = {
            HELPFUL: given.helpful,
            BASE: given.base or given.helpful,
            FEEDBACK: given.feedback or given.helpful,
        }
        for placed in self.stages:
            made = placed.output
            if made and made.kind == POLICY:
                start = placed.sources.get(POLICY, ())
                like = found[start[0].name if start else BASE]
                found[made.name] = placed.stage.model(placed, self.folder, like)
        return found

    def forget_fingerprints(self) -> None:
        """Read the files of models again, because a stage has trained one."""
        self.fingerprint = known_models()


@dataclass(frozen=True)
class Context(Generic[S]):
    """The input of a stage when it runs.

    Attributes:
        run: The execution that it is part of.
        placed: The stage and what it reads.
        settings: Its section.
    """

    run: Run
    placed: Placed
    settings: S

    @property
    def name(self) -> str:
        """The name of the stage in its pipeline."""
        return self.placed.name

    @property
    def made(self) -> str:
        """The name of its output."""
        assert self.placed.output
        return self.placed.output.name

    @property
    def folder(self) -> Path:
        """The folder of the stage."""
        return self.run.folder / self.name

    @property
    def log_dir(self) -> Path:
        """The folder of its TensorBoard logs."""
        return self.run.folder / LOGS / self.name

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.pipeline.settings.seed

    @property
    def constitution(self) -> Constitution:
        """The constitution, `extends` resolved."""
        return self.run.pipeline.constitution

    @property
    def base_dir(self) -> Path:
        """Relative paths of the pipeline file start here."""
        return self.run.pipeline.base_dir

    @property
    def progress(self) -> Progress:
        """Where to say how far things are."""
        return self.run.progress

    @property
    def helpful(self) -> ModelSettings:
        """The helpful-only model."""
        return self.run.models[HELPFUL]

    @property
    def feedback(self) -> ModelSettings:
        """The model that compares responses."""
        return self.run.models[FEEDBACK]

    @property
    def fallback(self) -> ModelSettings | None:
        """The model that is asked if the feedback model gives no usable verdict."""
        return self.run.pipeline.settings.models.fallback

    @property
    def reviser(self) -> ModelSettings:
        """The model that critiques and revises the responses of `policy`."""
        return self.run.pipeline.settings.models.reviser or self.policy

    @property
    def policy_name(self) -> str:
        """The name of the one policy that it asks or starts from (`sl-cai`)."""
        (found,) = self.placed.sources[POLICY]
        return found.name

    @property
    def policy(self) -> ModelSettings:
        """The one policy that it asks or starts from."""
        return self.run.models[self.policy_name]

    @property
    def policies(self) -> dict[str, ModelSettings]:
        """The policies that it reads, by name."""
        models = self.run.models
        return {source.name: models[source.name] for source in self.placed.sources[POLICY]}

    def folders(self, kind: str) -> dict[str, Path]:
        """Return the folders of the inputs of a kind, by the name of the input."""
        sources = self.placed.sources.get(kind, ())
        return {s.name: self.run.folder / s.stage for s in sources if s.stage}

    def source(self, kind: str) -> Path:
        """Return the folder of the stage's only input of a kind."""
        (folder,) = self.folders(kind).values()
        return folder

    def section_of(self, kind: str, settings: type[T]) -> T:
        """Return the section of the stage that makes its only input of a kind."""
        (source,) = self.placed.sources[kind]
        section = self.run.pipeline.settings.sections[source.stage or ""]
        assert isinstance(section, settings)
        return section

    def fingerprint(self, model: ModelSettings) -> str:
        """Name a model, reading its files once."""
        return self.run.fingerprint(model)

    def fingerprints_of_given(self) -> dict[str, str]:
        """Return the fingerprints of the models that it reads and no stage makes."""
        sources = self.placed.sources.get(POLICY, ())
        models = self.run.models
        return {
            GIVEN[source.name]: self.fingerprint(models[source.name])
            for source in sources
            if source.stage is None
        }
