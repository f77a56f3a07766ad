"""What holds for every test: no network, few threads, and helpers importable from tests/."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402 (after the environment is set)
from hypothesis import settings  # noqa: E402

settings.register_profile("cai", deadline=None)  # a busy machine is no failure
settings.load_profile("cai")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a family to the folder of its tiny model, made once."""
    from tiny_models import make_tiny_model

    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = make_tiny_model(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny):
    """Return a function from a family to the settings of its tiny model."""
    from cai.settings import ModelSettings

    def settings(family, **more):
        kind = "transcript" if family == "gpt2" else "chat"
        return ModelSettings(**{"path": str(tiny(family)), "format": kind, **more})

    return settings
