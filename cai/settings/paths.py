"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Return the path that somebody wrote.

    "~" and "~name" at its beginning are home folders, unless something there has this very name, or
    nobody is called so: "~notes.txt" is a file.
    """
    path = Path(text)
    try:
        return path if is_there(path) else path.expanduser()
    except RuntimeError:
        return path


def is_there(path: Path) -> bool:
    """Say whether there is something at a path; no if no path can be like this, as a long text."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
