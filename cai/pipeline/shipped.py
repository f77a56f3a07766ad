"""The pipelines that come with cai."""

from __future__ import annotations

from pathlib import Path

from cai.constitution.load import shipped


def shipped_folder() -> Path:
    """Return the folder of the shipped pipelines."""
    return shipped("pipelines")


def shipped_pipelines() -> list[str]:
    """Return the names of the pipelines that come with cai, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))
