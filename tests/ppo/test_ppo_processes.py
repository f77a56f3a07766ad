"""Several processes make the run that one makes; they are forked here and talk by gloo."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ppo_references import OF_A_CRITIC, SHORT, WITHOUT_CRITIC, letters, steps_of
from safetensors.torch import load_file
from two_processes import DEEPSPEED, together

from cai.data.records import PromptRow
from cai.errors import CaiError
from cai.ppo import PPO
from cai.ppo.batch import length_sorted
from cai.ppo.check import check_shares
from cai.ppo.optimizers import Optimizer, optimizer_for
from cai.settings import GuardSettings, ModelSettings
from cai.training.processes import ALONE, Processes

SETTINGS = SHORT.model_copy(
    update={
        "steps": 3,
        "batch_size": 8,
        "no_eos_reward": -1.0,
        "checkpoint_steps": 2,
        "normalise_rewards": True,
        "kl_target": 0.5,
        "guard": GuardSettings(every=2),
    }
)
FSDP2 = {"ACCELERATE_USE_FSDP": "true"}
GRPO = {**WITHOUT_CRITIC, "advantage": "grpo", "kl_in": "loss", "loss_average": "responses"}
NO_RESHARD = {**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false"}
ZERO_1, ZERO_2 = ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage} for stage in "12")

Run = Callable[..., None]


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def run(
    tiny: Callable[[str], ModelSettings],
    tiny_preference: Callable[[str], Path],
    prompt_rows: list[PromptRow],
) -> Run:
    """Run PPO in a folder, in the process that calls it."""

    def start(folder: Path, on_step: Any = None, **changes: Any) -> None:
        settings = SETTINGS.model_copy(update=changes)
        reward = {"preference": tiny_preference("llama"), "letters": (letters, 0.1)}
        ppo = PPO(tiny("llama"), reward, settings, seed=7)
        # Three held-out prompts: they do not divide by two.
        ppo.train(prompt_rows[:5], folder, held_out=prompt_rows[3:], on_step=on_step)

    return start


def kill_after_two(metrics: Mapping[str, float]) -> None:
    if metrics["step"] == 2:
        raise KilledError


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [
        {name: x for name, x in record.items() if not name.startswith("time/")}
        for record in steps_of(folder)
    ]


def assert_same_run(folder: Path, expected: Path) -> None:
    ours, theirs = metrics_of(folder), metrics_of(expected)
    assert [record["step"] for record in ours] == [1, 2, 3]
    for record, reference in zip(ours, theirs, strict=True):
        assert record == pytest.approx(reference, rel=1e-5, abs=1e-5)
    weights, reference = (load_file(f / "model" / "model.safetensors") for f in (folder, expected))
    assert weights.keys() == reference.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, reference[name], rtol=0, atol=1e-4)
    assert not (folder / "checkpoints").exists()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one process")


@pytest.fixture
def one_process(once: Path, run: Run) -> Path:
    """The folder of the run that one process makes."""
    if not (once / "model").exists():
        run(once)
    return once


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="ddp"),
        pytest.param(NO_RESHARD, id="fsdp2_no_reshard"),
        pytest.param(ZERO_1, id="zero_1", marks=pytest.mark.deepspeed),
        pytest.param(ZERO_2, id="zero_2", marks=pytest.mark.deepspeed),
    ],
)
def test_fact_25_two_processes_make_the_run_of_one(
    variables: dict[str, str], tmp_path: Path, run: Run, one_process: Path
) -> None:
    # Each is given a folder of its own, as by `mkdtemp`: that of the first one counts.
    assert together(lambda: run(tmp_path / os.environ["RANK"]), **variables) == ["", ""]
    assert_same_run(tmp_path / "0", one_process)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize(
    ("variables", "method"),
    [
        pytest.param({}, WITHOUT_CRITIC, id="ddp"),
        pytest.param(FSDP2, WITHOUT_CRITIC, id="fsdp2"),
        pytest.param(FSDP2, GRPO, id="fsdp2-grpo"),
    ],
)
def test_two_processes_make_the_run_of_one_without_a_critic(
    variables: dict[str, str], method: dict[str, Any], tmp_path: Path, run: Run
) -> None:
    """Each process samples only one of a prompt's two responses: advantages need both."""
    assert together(lambda: run(tmp_path / "two", **method), **variables) == ["", ""]
    run(tmp_path / "one", **method)
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert not OF_A_CRITIC & {name for record in metrics_of(tmp_path / "two") for name in record}


def test_a_killed_run_without_a_critic_goes_on_with_more_processes(
    tmp_path: Path, run: Run
) -> None:
    with pytest.raises(KilledError):
        run(tmp_path / "more", kill_after_two, **WITHOUT_CRITIC)
    assert together(lambda: run(tmp_path / "more", **WITHOUT_CRITIC)) == ["", ""]
    run(tmp_path / "one", **WITHOUT_CRITIC)
    assert_same_run(tmp_path / "more", tmp_path / "one")


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(FSDP2, id="fsdp2"),
        pytest.param(ZERO_2, id="zero_2", marks=pytest.mark.deepspeed),
    ],
)
def test_a_killed_run_goes_on_with_more_or_fewer_processes(
    variables: dict[str, str], tmp_path: Path, run: Run, one_process: Path
) -> None:
    """Two processes, then one; and the other way round."""
    fewer, more = tmp_path / "fewer", tmp_path / "more"
    ends = together(lambda: run(fewer, kill_after_two), **variables)
    assert any("KilledError" in end for end in ends)
    assert all(ends)
    run(fewer)
    assert_same_run(fewer, one_process)
    with pytest.raises(KilledError):
        run(more, kill_after_two)
    assert together(lambda: run(more), **variables) == ["", ""]
    assert_same_run(more, one_process)


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=20),
    count=st.integers(1, 5),
    size=st.none() | st.integers(1, 4),
)
def test_micro_batches_are_dealt_out_evenly(
    lengths: list[int], count: int, size: int | None
) -> None:
    """Each process gets as many micro-batches of as many rows, and every row is somebody's."""
    lengths_B = torch.tensor(lengths)
    parts = [length_sorted(lengths_B, size, Processes(rank, count)) for rank in range(count)]
    assert len({tuple(len(rows) for rows in part) for part in parts}) == 1
    dealt = [row for part in parts for rows in part for row in rows.tolist()]
    assert set(dealt) == set(range(len(lengths)))
    assert len(dealt) - len(lengths) == -len(lengths) % count


def test_what_processes_cannot_share_is_refused() -> None:
    two, three = Processes(0, 2), Processes(0, 3)
    check_shares(SETTINGS, two)
    with pytest.raises(CaiError, match=r"each of 3 processes\. Make it a multiple of 6"):
        check_shares(SETTINGS, three)
    sharded = Processes(0, 2, sharded=True)
    check_shares(SETTINGS, sharded)
    for changed in ({"lora_rank": 4}, {"critic": "value_head"}):
        with pytest.raises(CaiError, match="launch with `ddp`"):
            check_shares(SETTINGS.model_copy(update=changed), sharded)
        check_shares(SETTINGS.model_copy(update=changed), two)
    check_shares(SETTINGS.model_copy(update={"lora_rank": 4}), Processes(0, 2, deepspeed=True))
    with pytest.raises(CaiError, match="DeepSpeed needs a separate policy and critic"):
        check_shares(
            SETTINGS.model_copy(update={"critic": "value_head"}), Processes(0, 2, deepspeed=True)
        )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "has `mixed_precision: bf16`"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron"),
        ({**FSDP2, "FSDP_VERSION": "1"}, "FSDP 1"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_what_a_launcher_asks_in_vain_is_refused(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (variables | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CaiError, match=said):
        Processes.here()


@pytest.mark.deepspeed
def test_deepspeed_trains_adapters(tmp_path: Path, run: Run) -> None:
    alone, parted = tmp_path / "alone", tmp_path / "parted"
    assert together(lambda: run(parted, lora_rank=4), **ZERO_2) == ["", ""]
    run(alone, lora_rank=4)
    assert_same_run(parted, alone)


@pytest.mark.deepspeed
@pytest.mark.parametrize("variables", [ZERO_1, ZERO_2], ids=["zero_1", "zero_2"])
def test_zero_takes_adamws_steps_from_any_state(variables: dict[str, str]) -> None:
    """From the start, from a state of AdamW's, and from the start again; never by an infinity."""

    def steps(optimizer: Optimizer, scales: Sequence[float], mine: slice) -> list[float]:
        weight, bias = optimizer.parameters
        norms: list[float] = []
        for scale in scales:
            optimizer.zero_grad()
            for row in torch.arange(12.0).reshape(4, 3)[mine]:
                optimizer.backward(scale * ((weight @ row + bias) ** 2).sum())
            norms.append(optimizer.clip(0.5).item())
            optimizer.step()
        return norms

    def new(processes: Processes) -> Optimizer:
        weights = torch.linspace(-1, 1, 6).reshape(2, 3), torch.ones(2)
        return optimizer_for([torch.nn.Parameter(w.clone()) for w in weights], 0.1, processes)

    def check() -> None:
        processes = Processes.here()
        assert processes.deepspeed
        alone, parted = new(ALONE), new(processes)
        assert parted.moments() == {}
        start = [w.clone() for w in alone.weights()]
        mine = slice(processes.rank, None, 2)

        def same(*scales: float) -> None:
            expected = steps(alone, scales, slice(None))
            assert steps(parted, scales, mine) == pytest.approx(expected)
            torch.testing.assert_close(parted.weights(), alone.weights())

        same(1e-4, 1.0, 0.1)
        (moments,) = [m for m in processes.gather([parted.moments()]) if m]
        torch.testing.assert_close(moments, alone.moments())
        assert not math.isfinite(*steps(parted, [math.inf], mine))
        torch.testing.assert_close(parted.weights(), alone.weights())
        fresh = new(processes)
        fresh.load([w.clone() for w in alone.weights()], alone.moments())
        parted = fresh
        same(0.3, 2.0)
        for optimizer in (alone, parted):
            optimizer.load(start, {})
        same(1.0, 0.2)

    assert together(check, **variables) == ["", ""]
