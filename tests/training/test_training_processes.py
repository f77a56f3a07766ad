"""SFT, preference and harmfulness on two processes make the run that one makes."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from two_processes import DEEPSPEED, together

from cai.data.conversation import user
from cai.data.records import RatedRow
from cai.data.store import write_rows
from cai.errors import CaiError
from cai.models.loading import load_causal_lm
from cai.models.preference_model import last_token_scores
from cai.pipeline.launch import (
    LOG,
    Launcher,
    TrainingJob,
    launch,
    launcher_of,
    read_job,
    run_training,
)
from cai.pipeline.progress import Progress
from cai.settings import (
    HarmfulnessSettings,
    ModelSettings,
    OptimizerSettings,
    PreferenceSettings,
    SftSettings,
    SourceSettings,
)
from cai.training.trainer import FitTrainer

# No number of rows divides by the batch, and the last batch not by two processes.
COMMON: dict[str, Any] = {"batch_size": 12, "learning_rate": 1e-3, "epochs": 2}

MakeJob = Callable[..., TrainingJob]


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def job(
    base: Callable[[], ModelSettings],
    completions: Callable[[int], Path],
    comparisons: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeJob:
    """Return the job of a stage in a folder, with changed settings."""
    folder = tmp_path_factory.mktemp("ratings")

    def make(stage: str, out: Path, **changes: Any) -> TrainingJob:
        kinds: dict[str, tuple[OptimizerSettings, Callable[[], Path]]] = {
            "sft": (SftSettings(**COMMON), lambda: completions(37)),
            "preference": (PreferenceSettings(**COMMON), lambda: comparisons(_pairs())),
            "harmfulness": (
                HarmfulnessSettings(ratings=SourceSettings(path="x"), **COMMON),
                lambda: _ratings(folder / "ratings.jsonl"),
            ),
        }
        settings, data = kinds[stage]
        return TrainingJob(
            train=f"cai.training.{stage}:train_{stage}",
            section=f"{type(settings).__module__}:{type(settings).__name__}",
            settings={**settings.model_dump(mode="json"), **changes},
            data=data(),
            base=base(),
            out=out / "model",
            seed=3,
            log_dir=out / "logs",
        )

    return make


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one process")


@pytest.fixture
def one_process(references: Path, job: MakeJob) -> Callable[..., Path]:
    """Return the folder of the run that one process makes of a stage, made once."""

    def made(stage: str, lora_rank: int = 0) -> Path:
        folder = references / f"{stage} {lora_rank}"
        if not (folder / "metrics-0").exists():
            run(job(stage, folder, lora_rank=lora_rank), folder)
        return folder

    return made


def _pairs() -> list[tuple[str, str, float]]:
    return [(f"Line {i}." + " Fine." * (i % 4), "No.", 0.5 + i % 13 / 26) for i in range(121)]


def _ratings(file: Path) -> Path:
    draw = random.Random(0)
    rows = [
        RatedRow(
            key=str(n),
            messages=user(f"How {n}?"),
            response=" ".join(draw.choice(["bake", "harm"]) for _ in range(2 + n % 7)),
            rating=float(n % 5),
        )
        for n in range(58)
    ]
    write_rows(file, rows)
    return file


def run(job: TrainingJob, notes: Path, dies_after: float = torch.inf) -> None:
    """Do a job and note its steps and metrics, in the process that calls it."""
    notes.mkdir(parents=True, exist_ok=True)
    steps = (notes / "steps").open("a")

    def on_step(metrics: Mapping[str, float]) -> None:
        print(json.dumps(metrics), file=steps, flush=True)
        if metrics["step"] >= dies_after:
            raise KilledError

    metrics = job.run(on_step)
    (notes / f"metrics-{os.environ.get('RANK', '0')}").write_text(json.dumps(metrics))


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Losses of all steps and final measures to 1e-5, and the weights nearly so."""

    def losses(folder: Path) -> dict[int, float]:
        noted = map(json.loads, (folder / "steps").read_text().splitlines())
        return {step["step"]: step["loss"] for step in noted if "loss" in step}

    def metrics(file: Path) -> dict[str, float]:
        return {k: v for k, v in json.loads(file.read_text()).items() if k != "seconds"}

    expected = losses(theirs)
    assert len(expected) >= 8
    assert losses(ours) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for file in ours.glob("metrics-*"):
        assert metrics(file) == pytest.approx(metrics(theirs / "metrics-0"), rel=1e-5, abs=1e-5)
    assert plain_files(ours / "model") == plain_files(theirs / "model")
    weights, reference = (load_file(f / "model" / "model.safetensors") for f in (ours, theirs))
    assert weights.keys() == reference.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, reference[name], rtol=0, atol=1e-4)
    assert not list(ours.glob("*checkpoints"))


FSDP2 = {"ACCELERATE_USE_FSDP": "true"}
ZERO = {**DEEPSPEED, "ACCELERATE_CONFIG_DS_FIELDS": "zero_stage"}  # as the launcher says it
ZERO_1, ZERO_2 = ({**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage} for stage in "12")
LAUNCHED = [
    pytest.param({}, id="ddp"),
    pytest.param(FSDP2, id="fsdp2"),
    pytest.param(ZERO_2, id="zero_2", marks=pytest.mark.deepspeed),
]


def steps_of(folder: Path) -> list[int]:
    """Return the steps that were taken, in all runs in a folder."""
    noted = map(json.loads, (folder / "steps").read_text().splitlines())
    return [step["step"] for step in noted if "loss" in step]


def plain_files(model: Path) -> dict[str, Any]:
    """Return what a model folder holds besides weights, and the names of the weights' files."""
    constants = ("cai_score_mean", "cai_score_std")  # the metrics have them, too
    config = json.loads((model / "config.json").read_text())
    texts = {
        file.name: file.read_text() for file in model.glob("*") if file.suffix != ".safetensors"
    }
    plain = {name: x for name, x in config.items() if name not in constants}
    return {
        **texts,
        "config.json": plain,
        "weights": sorted(f.name for f in model.glob("*.safetensors")),
    }


@pytest.mark.parametrize("variables", LAUNCHED)
@pytest.mark.parametrize(
    ("stage", "micro"), [("sft", None), ("sft", 3), ("preference", 3), ("harmfulness", None)]
)
def test_two_processes_make_the_run_of_one(
    variables: dict[str, str],
    stage: str,
    micro: int | None,
    tmp_path: Path,
    job: MakeJob,
    one_process: Callable[..., Path],
) -> None:
    two = job(stage, tmp_path, micro_batch_size=micro)
    assert together(lambda: run(two, tmp_path), **variables) == ["", ""]
    assert len(list(tmp_path.glob("metrics-*"))) == 2
    assert_same_run(tmp_path, one_process(stage))


@pytest.mark.parametrize("variables", LAUNCHED)
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_killed_run_goes_on_with_more_or_fewer_processes(
    variables: dict[str, str],
    lora_rank: int,
    tmp_path: Path,
    job: MakeJob,
    one_process: Callable[..., Path],
) -> None:
    """One process, then two; and the other way round."""
    once = one_process("preference", lora_rank)

    def of(name: str, **changes: Any) -> TrainingJob:
        return job("preference", tmp_path / name, lora_rank=lora_rank, **changes)

    often = {"checkpoint_steps": 3, "micro_batch_size": 3}
    fewer, more = of("fewer", **often), of("more", **often)
    ends = together(lambda: run(fewer, tmp_path / "fewer", dies_after=8), **variables)
    assert any("KilledError" in end for end in ends)
    assert (tmp_path / "fewer" / "checkpoints" / "checkpoint-6").is_dir()
    run(fewer, tmp_path / "fewer")
    assert steps_of(tmp_path / "fewer").count(1) == 1  # it did not start again
    assert_same_run(tmp_path / "fewer", once)
    with pytest.raises(KilledError):
        run(more, tmp_path / "more", dies_after=8)
    assert together(lambda: run(more, tmp_path / "more"), **variables) == ["", ""]
    assert steps_of(tmp_path / "more").count(1) == 1
    assert_same_run(tmp_path / "more", once)


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        pytest.param({}, (1.0, 1.0), id="ddp"),
        pytest.param(FSDP2, (0.5, 0.5), id="fsdp2"),
        pytest.param(ZERO_1, (1.0, 0.5), id="zero_1", marks=pytest.mark.deepspeed),
        pytest.param(ZERO_2, (1.0, 0.5), id="zero_2", marks=pytest.mark.deepspeed),
    ],
)
def test_a_process_keeps_its_part(
    variables: dict[str, str],
    kept: tuple[float, float],
    tmp_path: Path,
    job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which share of the weights and of Adam's moments each process has in its memory."""
    made = job("sft", tmp_path)
    weights = sum(p.numel() for p in load_causal_lm(made.base).parameters())

    def noting(trainer: FitTrainer, hollow: Any) -> Any:
        moments = [state["exp_avg"] for state in trainer._adamw.state.values()]
        sizes = [sum(map(here, x)) / weights for x in (trainer.model.parameters(), moments)]
        (tmp_path / os.environ["RANK"]).write_text(json.dumps(sizes))
        return whole_model(trainer, hollow)

    def here(x: torch.Tensor) -> int:
        return x.to_local().numel() if isinstance(x, DTensor) else x.numel()

    whole_model = FitTrainer.whole_model
    monkeypatch.setattr(FitTrainer, "whole_model", noting)
    assert together(lambda: run(made, tmp_path / "notes"), **variables) == ["", ""]
    for rank in "01":
        assert json.loads((tmp_path / rank).read_text()) == pytest.approx(kept, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("variables", LAUNCHED)
def test_passes_compute_in_bfloat16_as_in_one_process(
    variables: dict[str, str], tmp_path: Path, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; weights, their gradients and the scores are float32 all the same."""
    for module in ("arguments", "fit"):
        monkeypatch.setattr(f"cai.training.{module}.computes_in_bfloat16", lambda _: True)

    def noting(model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        scores = last_token_scores(model, *inputs)
        (tmp_path / "notes" / os.environ.get("RANK", "alone")).write_text(
            f"{torch.is_autocast_enabled('cpu')} {model.model.layers[0].mlp.up_proj.weight.dtype} "
            f"{scores.dtype}"
        )
        return scores

    monkeypatch.setattr("cai.training.scorer.last_token_scores", noting)
    run(job("preference", tmp_path / "one"), tmp_path / "notes")
    two = job("preference", tmp_path / "two")
    assert together(lambda: run(two, tmp_path / "notes"), **variables) == ["", ""]
    for rank in ("alone", "0", "1"):
        said = (tmp_path / "notes" / rank).read_text()
        assert said == "True torch.float32 torch.float32"


def test_fewer_rows_than_processes_can_share(tmp_path: Path, job: MakeJob) -> None:
    """The second process has fillers alone, which count for nothing."""
    for name, start in (("one", lambda f: f()), ("two", lambda f: together(f))):
        made = job("sft", tmp_path / name, batch_size=36, epochs=8)
        start(lambda made=made, name=name: run(made, tmp_path / name))
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_its_name(tmp_path: Path, job: MakeJob) -> None:
    """With `fsdp2`; the same is tested of PPO with `ddp`."""
    file = tmp_path / "job.json"
    made = job("sft", tmp_path, epochs=200, checkpoint_steps=1)
    file.write_text(made.model_dump_json())
    assert read_job(file) == made
    heard: list[float] = []

    def kill_the_second(metrics: Mapping[str, float]) -> None:
        heard.append(metrics["step"])
        if metrics["step"] == 2:
            for process in psutil.Process().children(recursive=True):
                if process.environ().get("RANK") == "1":
                    process.kill()

    launcher = launcher_of(SftSettings(launch="fsdp2", processes=2), stage="sft", base_dir=tmp_path)
    assert isinstance(launcher, Launcher)
    with pytest.raises(CaiError, match=r"on 2 processes .*: process 1 was killed \(SIGKILL, as"):
        launch(file, launcher, on_step=kill_the_second, warn=print)
    assert heard[:2] == [1, 2]
    assert "exitcode" in (tmp_path / LOG).read_text()
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_stage_with_launch_trains_on_its_processes(
    tmp_path: Path, job: MakeJob, one_process: Callable[..., Path]
) -> None:
    made = job("sft", tmp_path / "two")
    metrics = run_training(
        made.train,
        SftSettings(**COMMON, launch="fsdp2_no_reshard", processes=2),
        stage="sft",
        data=made.data,
        base=made.base,
        out=made.out,
        seed=made.seed,
        log_dir=made.log_dir,
        base_dir=tmp_path,
        progress=Progress(Console(quiet=True)),
    )
    expected = json.loads((one_process("sft") / "metrics-0").read_text())
    del metrics["seconds"], expected["seconds"]
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert (made.out / "model.safetensors").is_file()
    assert "two" in (tmp_path / "two" / "model-job.json").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"launch": "ddp"}, r"`sft\.launch` needs two processes or more, not 0"),
        ({"launch": "ddp", "processes": 1}, "not 1"),
        ({"launch": "none", "processes": 2}, "`sft.launch: none` is neither a file nor one of"),
        ({"launch": "deepspeed", "processes": 2}, r"pip install 'cai\[deepspeed\]'"),
        ({"launch": "fsdp1.yaml", "processes": 2}, "is for FSDP 1, .* `fsdp_version: 2`"),
        ({"launch": "three.yaml", "batch_size": 32}, "cannot be split among 3 processes"),
        ({"launch": "half.yaml"}, "`mixed_precision: bf16`"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_runs(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("cai.training.zero.is_deepspeed_available", lambda: False)
    (tmp_path / "fsdp1.yaml").write_text("distributed_type: FSDP\nfsdp_config: {}")
    three = "distributed_type: MULTI_GPU\nnum_processes: 3"
    (tmp_path / "three.yaml").write_text(three)
    (tmp_path / "half.yaml").write_text(f"{three}\nmixed_precision: bf16")
    with pytest.raises(CaiError, match=re.compile(said, re.DOTALL)):
        launcher_of(SftSettings(**changes), stage="sft", base_dir=tmp_path)


def test_a_batch_that_processes_cannot_share_is_refused_when_it_is_read() -> None:
    assert launcher_of(SftSettings(), stage="sft", base_dir=Path()) is None
    with pytest.raises(ValidationError, match="micro-batches of 32"):
        SftSettings(launch="ddp", processes=2, micro_batch_size=32)
    with pytest.raises(ValidationError, match="cannot be split among 3 processes"):
        PreferenceSettings(batch_size=32, processes=3)
    with pytest.raises(ValidationError, match="among 2 processes in micro-batches of 32"):
        PreferenceSettings(batch_size=32, processes=2, micro_batch_size=32)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_a_script_that_one_process_would_split_is_refused(
    kind: str, tmp_path: Path, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.training.processes.check_installed", lambda: None)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(CaiError, match=f"is for {kind}, and this process is alone"):
        job("sft", tmp_path).run(lambda _: None)
