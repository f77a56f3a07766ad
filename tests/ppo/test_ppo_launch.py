"""PPO as a stage on several processes: how it is launched, what is heard of it, how it dies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from ppo_references import SHORT

from cai.errors import CaiError
from cai.pipeline import launched
from cai.pipeline.launch import LOG, config_file, launch
from cai.pipeline.stages.ppo import PPOJob
from cai.records import PromptRow
from cai.settings import ModelSettings

SETTINGS = SHORT.model_copy(update={"checkpoint_steps": 1, "guard": None})

Write = Callable[..., Path]


@pytest.fixture
def job(
    tmp_path: Path,
    tiny: Callable[[str], ModelSettings],
    tiny_preference: Callable[[str], Path],
    prompt_rows: list[PromptRow],
) -> Write:
    """Write a job with changed settings; returns its file."""

    def write(**changes: Any) -> Path:
        prompts, file = tmp_path / "rows.jsonl", tmp_path / "job.json"
        prompts.write_text("".join(row.model_dump_json() + "\n" for row in prompt_rows))
        written = PPOJob(
            policy=tiny("llama"),
            preference_model=tiny_preference("llama"),
            settings=SETTINGS.model_copy(update=changes),
            seed=1,
            prompts=prompts,
            pretraining=None,
            independent=None,
            folder=tmp_path / "ppo",
            log_dir=tmp_path / "logs",
        )
        file.write_text(written.model_dump_json())
        return file

    return write


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_its_name(job: Write, tmp_path: Path) -> None:
    heard: list[float] = []

    def kill_the_second(metrics: Mapping[str, float]) -> None:
        heard.append(metrics["step"])
        if metrics["step"] == 2:
            for process in psutil.Process().children(recursive=True):
                if process.environ().get("RANK") == "1":
                    process.kill()

    with pytest.raises(CaiError, match=r"on 2 processes .*: process 1 was killed \(SIGKILL, as"):
        launch(job(steps=10_000), "ddp", 2, on_step=kill_the_second, warn=heard.append)
    assert heard[:2] == [1, 2]
    assert "exitcode" in (tmp_path / LOG).read_text()
    assert list((tmp_path / "ppo" / "checkpoints").glob("step-*"))
    assert not [child for child in psutil.Process().children() if child.is_running()]


def test_a_process_says_its_steps_and_its_result_or_why_it_fails(
    job: Write, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said_by(file: Path, status: int) -> list[dict[str, Any]]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["launched", str(file)])
        assert launched.main() == status
        return [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    *steps, last = said_by(job(), 0)
    assert [message["step"]["step"] for message in steps] == [1, 2]
    assert last["result"]["steps"] == 2
    (error,) = said_by(job(max_new_tokens=5000), 1)
    assert "Lower `ppo.max_new_tokens`" in error["error"]


def test_a_launcher_is_a_shipped_name_or_a_file(tmp_path: Path, job: Write) -> None:
    assert config_file("ddp").name == "ddp.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("num_processes: 1")
    assert config_file(str(own)) == own
    with pytest.raises(CaiError, match=r"neither a file nor one of ddp, fsdp2, fsdp2_no_reshard"):
        config_file("zero3")
    with pytest.raises(CaiError, match=r"Set `ppo\.processes`"):
        launch(job(), str(own), None, on_step=dict, warn=print)
