"""`prompts`: sources of prompts and comparisons, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cai.settings.base import Fraction, Positive, Settings, StageSettings


class SourceSettings(Settings, frozen=True):
    """Where prompts or comparisons come from."""

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
    """Take so many rows, drawn with the run's seed."""


Sources = Annotated[list[SourceSettings], Field(min_length=1)]


def as_sources(data: Any) -> Any:  # noqa: ANN401
    """Accept a file, a source or a list of them for a list of sources."""
    items: list[Any] = data if isinstance(data, list) else [data]
    return [{"path": item} if isinstance(item, str) else item for item in items]


class PromptsSettings(StageSettings, frozen=True):
    """Red-team and helpful prompts, and how they are split."""

    red_team: Sources
    """Prompts that try to bring out harm."""
    helpful: Sources
    """Prompts that deserve a helpful answer."""
    helpfulness_comparisons: list[SourceSettings] = Field(default=[])
    """Human comparisons of helpfulness, mixed into preference training."""
    held_out: Fraction = 0.1
    """The share of tasks kept for evaluation; sources that bring their own split keep it."""
    near_duplicate: Fraction = 0.5
    """Prompts whose word 3-gram sets overlap (Jaccard) at least so much count as one task."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:  # noqa: ANN401
        """Accept `red_team: FILE` and lists of files for lists of sources."""
        if not isinstance(data, dict):
            return data
        short: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
        for name in ("red_team", "helpful", "helpfulness_comparisons"):
            if name in short:
                short[name] = as_sources(short[name])
        return short
