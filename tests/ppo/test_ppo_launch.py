"""PPO as a stage on several processes: how it is launched, what is heard of it, how it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from ppo_references import SHORT

from cai.data.records import PromptRow
from cai.errors import CaiError
from cai.pipeline import launched
from cai.pipeline.launch import LOG, Launcher, launch
from cai.pipeline.launch import find_launcher as find_launcher_of
from cai.pipeline.stages.ppo import PPOJob
from cai.settings import ModelSettings

SETTINGS = SHORT.model_copy(update={"checkpoint_steps": 1, "guard": None})

Write = Callable[..., Path]

find_launcher = partial(find_launcher_of, stage="ppo")


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

    launcher = find_launcher("ddp", 2, tmp_path)
    with pytest.raises(CaiError, match=r"on 2 processes .*: process 1 was killed \(SIGKILL, as"):
        launch(job(steps=10_000), launcher, on_step=kill_the_second, warn=heard.append)
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


def test_a_process_ends_with_the_one_that_launched_it(job: Write, tmp_path: Path) -> None:
    """Whose end of standard input is closed here from the start."""
    command = [sys.executable, "-m", launched.__name__, str(job(steps=10_000))]
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1"}
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False)
    assert ended.returncode == 1
    assert not (tmp_path / "ppo" / "checkpoints").exists()


def test_a_launcher_is_a_shipped_name_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert find_launcher("ddp", 2, tmp_path).file.name == "ddp.yaml"
    for name in ("fsdp2", "fsdp2_no_reshard"):
        assert find_launcher(name, 4, tmp_path).processes == 4
    own = tmp_path / "own.yaml"
    own.write_text("distributed_type: MULTI_GPU\nnum_processes: 3")
    assert find_launcher("own.yaml", None, tmp_path) == Launcher(own, 3)
    assert find_launcher(str(own), 2, Path("elsewhere")) == Launcher(own, 2)
    with pytest.raises(CaiError, match="neither a file nor one of ddp, deepspeed, fsdp2, fsdp2_no"):
        find_launcher("zero3", 2, tmp_path)
    with pytest.raises(CaiError, match=r"not 0: this machine has 0 GPUs\. Raise `ppo\.processes`"):
        find_launcher("ddp", None, tmp_path)
    with pytest.raises(CaiError, match=r"two processes or more, not 1\."):
        find_launcher("ddp", 1, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "own.yaml is not a configuration of Accelerate's"),
        ("a: [b", "is not a configuration"),
        ("\0", "is not a configuration"),
        ("distributed_type: MULTI_GPU\nnum_procs: 2", r"unknown keys \(\['num_procs'\]\)"),
        ("distributed_type: SOME", "'SOME' is not a valid DistributedType"),
        ("num_processes: 2", "A `distributed_type` must be specified"),
        ("distributed_type: 'NO'", "Use one of MULTI_GPU, FSDP, DEEPSPEED"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2", "on this machine only"),
        ("distributed_type: MULTI_GPU\nmixed_precision: fp16", "has `mixed_precision: fp16`"),
        ("distributed_type: FSDP\nfsdp_config: {}", "Set `fsdp_version: 2`"),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, offload_params: true}",
            "`fsdp_offload_params: true`",
        ),
        ("distributed_type: DEEPSPEED", r"pip install 'cai\[deepspeed\]'"),
    ],
)
def test_a_launcher_that_would_not_do_what_it_says_is_refused(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.training.zero.is_deepspeed_available", lambda: False)
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(CaiError, match=said):
        find_launcher("own.yaml", 2, tmp_path)


def test_a_launcher_that_fails_is_quoted(tmp_path: Path, job: Write) -> None:
    """Written while Accelerate was asked, gone when it starts."""
    with pytest.raises(CaiError, match=r"2 processes did not do their work: .*does not exist"):
        launch(job(), Launcher(tmp_path / "gone.yaml", 2), on_step=dict, warn=print)
