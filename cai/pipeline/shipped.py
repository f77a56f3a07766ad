"""The pipelines that come with cai."""

from __future__ import annotations

from pathlib import Path


def shipped_folder() -> Path:
    """Return the folder of the shipped pipelines, in a checkout or installed."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / "pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"


def shipped_pipelines() -> list[str]:
    """Return the names of the pipelines that come with cai, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))
