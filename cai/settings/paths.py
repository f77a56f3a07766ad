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
        return path if path.exists() else path.expanduser()
    except RuntimeError:
        return path
