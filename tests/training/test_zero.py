"""What of DeepSpeed's configuration trainings take; the runs are in the tests of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai.errors import CaiError
from cai.training import zero


def config_of(monkeypatch: pytest.MonkeyPatch, folder: Path, given: dict[str, Any]) -> Any:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps(given))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    return zero.zero_config()


def test_a_file_of_deepspeeds_is_taken_without_what_a_training_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        "zero_optimization": {
            "stage": 1,
            "reduce_bucket_size": "auto",
            "allgather_bucket_size": 1000,
            "offload_optimizer": {"device": "none"},
        },
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": 64,
        "gradient_accumulation_steps": 4,
    }
    config = config_of(monkeypatch, tmp_path, given)
    assert config["zero_optimization"]["stage"] == 1
    assert config["zero_optimization"]["allgather_bucket_size"] == 1000
    assert "auto" not in str(config)
    assert not config.keys() & set(zero.SAID_BY_TRAINING)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zero_optimization": {"stage": 3}}, "`zero_stage` is 3.*launch with `fsdp2`"),
        ({"zero_optimization": {"stage": 0}}, "`zero_stage` is 0"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "sets `offload_optimizer`",
        ),
        ({"fp16": {"enabled": True}}, "sets `fp16`"),
        ({"scheduler": {"type": "WarmupLR"}, "optimizer": {}}, "sets `optimizer`, `scheduler`"),
    ],
)
def test_what_no_training_does_is_refused(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CaiError, match=said):
        config_of(monkeypatch, tmp_path, {"zero_optimization": {"stage": 2}} | changes)


def test_deepspeed_must_be_there_and_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "is_deepspeed_available", lambda: False)
    with pytest.raises(CaiError, match=r"pip install 'cai\[deepspeed\]'"):
        zero.check_installed()
    monkeypatch.setattr(zero, "is_deepspeed_available", lambda: True)
    monkeypatch.setattr(zero, "compare_versions", lambda *_: True)
    with pytest.raises(CaiError, match=r"DeepSpeed 0\.19\.4 or newer"):
        zero.check_installed()
