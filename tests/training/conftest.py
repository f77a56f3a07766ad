"""Tiny base models, training data as the stages write it, and a way to kill a training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import Family, make_tiny_model

from cai.settings import ModelSettings
from cai.training import QuietTrainer


class Killed(Exception):
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


@pytest.fixture
def completions(tmp_path) -> Callable[..., Path]:
    """Write `n` rows of fine-tuning data; answers differ in length."""

    def write(n: int = 13, **changes: Any) -> Path:
        rows = [
            {
                "key": f"{i:04}",
                "kind": "helpful",
                "round": 0,
                "prompt": [{"role": "user", "content": f"What comes after {i}?"}],
                "completion": [
                    {"role": "assistant", "content": f"It is {i + 1}." + " Yes." * (i % 5)}
                ],
                **changes,
            }
            for i in range(n)
        ]
        return _write(rows, tmp_path / "completions.parquet")

    return write


@pytest.fixture
def comparisons(tmp_path) -> Callable[..., Path]:
    """Write rows of comparison data, one per (chosen, rejected, probability[, source])."""

    def write(pairs: list[tuple[Any, ...]], name: str = "comparisons", **changes: Any) -> Path:
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
        return _write(rows, tmp_path / f"{name}.parquet")

    return write


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def killed_after(monkeypatch) -> Callable[[int], Any]:
    """Within the block, a training dies in the forward pass after so many passes."""

    @contextmanager
    def killing(passes: int) -> Iterator[None]:
        done = 0
        whole = QuietTrainer.training_step

        def step(self, *args, **kwargs):
            nonlocal done
            if done == passes:
                raise Killed
            done += 1
            return whole(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(QuietTrainer, "training_step", step)
            yield

    return killing
