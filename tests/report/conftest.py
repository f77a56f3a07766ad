"""A finished run whose rows are made up."""

import shutil
from pathlib import Path

import pytest
from synthetic_run import make_run


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("template"))


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A finished run that the test may change."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)
