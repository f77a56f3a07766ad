"""`prompts`: sources of prompts and comparisons, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cai.settings.base import Fraction, Positive, Settings, StageSettings


class SourceSettings(Settings, frozen=True):
    """A source of prompts or comparisons."""

    path: str
    """A file, `hub:owner/name`, or `playground:red_team`, `playground:helpful`, …"""
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "text", "parquet"] = "auto"
    """`auto` goes by the file's ending and its content."""
    column: str | None = None
    """The column that holds the prompt, when its name is not one of the usual ones."""
    labels: dict[str | int, Literal["first", "second", "tie"]] | None = None
    """What the numbers or words in the verdict's column of comparisons mean."""
    split: str = "train"
    """The split of a hub data set."""
    limit: Positive | None = None
    """The number of rows to draw with the run's seed; null: all."""


def _as_sources(data: Any) -> Any:  # noqa: ANN401
    """Accept a file, a source or a list of them as a list of sources."""
    items: list[Any] = data if isinstance(data, list) else [data]
    return [{"path": item} if isinstance(item, str) else item for item in items]


AnySources = Annotated[list[SourceSettings], BeforeValidator(_as_sources)]
Sources = Annotated[AnySources, Field(min_length=1)]


class PromptsSettings(StageSettings, frozen=True):
    """Red-team and helpful prompts, and how they are split."""

    red_team: Sources
    """Prompts that try to elicit harmful responses."""
    helpful: Sources
    """Benign prompts that should get a helpful response."""
    helpfulness_comparisons: AnySources = Field(default=[])
    """Human comparisons of helpfulness, mixed into preference training."""
    held_out: Fraction = 0.1
    """The share of tasks kept for evaluation; sources with their own split keep it."""
    near_duplicate: Fraction = 0.5
    """Prompts whose word 3-gram sets overlap (Jaccard) by at least this much are one task."""
