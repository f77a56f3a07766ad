"""Tiny base models, training data as the stages write it, and a way to kill a training."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import Family, make_tiny_model

from cai.settings import ModelSettings
from cai.training.trainer import FitTrainer

# Every training collects garbage; what the libraries brought along need not be looked through.
gc.collect()
gc.freeze()


class Killed(Exception):  # noqa: N818 (it is none)
    """Stands for a kill of the process."""


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Callable[[Family], ModelSettings]:
    folders: dict[Family, Path] = {}

    def get(family: Family = "llama") -> ModelSettings:
        if family not in folders:
            folders[family] = make_tiny_model(family, tmp_path_factory.mktemp(family))
        transcript = "transcript" if family == "gpt2" else "chat"
        return ModelSettings(path=str(folders[family]), format=transcript)

    return get


@pytest.fixture(scope="session")
def new_file(tmp_path_factory) -> Callable[[], Path]:
    folder, numbers = tmp_path_factory.mktemp("data"), count()
    return lambda: folder / f"{next(numbers)}.parquet"


@pytest.fixture(scope="session")
def completions(new_file) -> Callable[..., Path]:
    """Write `n` rows of fine-tuning data; answers differ in length."""

    def write(n: int = 13, **changes: Any) -> Path:
        rows = [
            {
                "key": f"{i:04}",
                "kind": "helpful",
                "round": 0,
                "prompt": [{"role": "user", "content": f"What comes after {i}?"}],
                "completion": [{"role": "assistant", "content": answer_to(i)}],
                "ended": True,
                **changes,
            }
            for i in range(n)
        ]
        return _write(rows, new_file())

    return write


@pytest.fixture(scope="session")
def comparisons(new_file) -> Callable[..., Path]:
    """Write rows of comparison data, one per (chosen, rejected, probability[, source])."""

    def write(pairs: list[tuple[Any, ...]], **changes: Any) -> Path:
        rows = []
        for i, (chosen, rejected, probability, *source) in enumerate(pairs):
            row = {
                "key": f"{i:04}",
                "source": source[0] if source else "ai",
                "prompt": [{"role": "user", "content": f"Write line {i}."}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "chosen_probability": probability,
            }
            rows.append({**row, **changes})
        return _write(rows, new_file())

    return write


def answer_to(number: int) -> str:
    return f"It is {number + 1}." + " Yes." * (number % 5)


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def killed_after(monkeypatch) -> Callable[[int], Any]:
    """Within the block, a training dies in the forward pass after so many passes."""

    @contextmanager
    def killing(passes: int) -> Iterator[None]:
        done = 0
        whole = FitTrainer.training_step

        def step(self, *args, **kwargs):
            nonlocal done
            if done == passes:
                raise Killed
            done += 1
            return whole(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
            patch.setattr(FitTrainer, "training_step", step)
            yield

    return killing
