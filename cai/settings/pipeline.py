"""The whole pipeline file, which `cai.pipeline.load` reads, and its `report` section."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer

from cai.settings.base import Positive, Settings, StageSettings
from cai.settings.models import ModelsSettings

S = TypeVar("S", bound=StageSettings)


class ReportSettings(StageSettings, frozen=True):
    """The report of the run."""

    rows: Positive = 10_000
    """The most rows of each kind (revisions, comparisons, answers) on the page."""


class PipelineSettings(Settings, frozen=True):
    """A whole pipeline file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The name of the run; its folder is `runs/NAME` without `--out`."""
    seed: int = 0
    """The seed of every draw: principles, samples, splits, the order of training."""
    constitution: str
    """A built-in name (`harmless`) or a file."""
    models: ModelsSettings
    """The models, by role."""
    sections: dict[str, SerializeAsAny[StageSettings]] = Field(default={})
    """The stages by name, in the order of the run. In the file they are top-level keys."""

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the sections as in a pipeline file."""
        values = write(self)
        sections = values.pop("sections", {})
        return {**values, **sections}

    def named(self, kind: type[S]) -> dict[str, S]:
        """Return the sections of one kind, by name."""
        return {name: own for name, own in self.sections.items() if isinstance(own, kind)}

    def first(self, kind: type[S]) -> S | None:
        """Return the first section of one kind; None if there is none."""
        return next(iter(self.named(kind).values()), None)

    def of(self, kind: type[S]) -> S:
        """Return the first section of one kind, or its defaults if there is none."""
        return self.first(kind) or kind()
