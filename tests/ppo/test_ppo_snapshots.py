"""Policies that are kept for good on the way, for an evaluation afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from cai.ppo import PPO, PPOSettings
from cai.settings import ModelSettings
from cai.training.snapshots import snapshots

SETTINGS = PPOSettings(
    steps=4,
    batch_size=4,
    minibatches=1,
    epochs=1,
    max_new_tokens=4,
    no_eos_reward=None,
    learning_rate=1e-2,
    critic_learning_rate=1e-3,
    snapshot_steps=2,
)


def train(tiny: Callable[[str], ModelSettings], folder: Path, **changes: object) -> None:
    settings = SETTINGS.model_copy(update=changes)
    PPO(tiny("llama"), lambda p, r: [len(t) for t in r], settings).train(
        ["Bake bread.", "Plant seeds."], folder
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_snapshot_is_the_policy_of_its_step(
    tiny: Callable[[str], ModelSettings], tmp_path: Path
) -> None:
    train(tiny, tmp_path / "run")
    kept = snapshots(tmp_path / "run")
    assert list(kept) == [2]  # the last step is the model itself
    # With a constant learning rate, a run of two steps ends where this one was after two.
    train(tiny, tmp_path / "constant", final_learning_rate=1.0)
    train(tiny, tmp_path / "short", final_learning_rate=1.0, steps=2)
    after_two, short = snapshots(tmp_path / "constant")[2], tmp_path / "short" / "model"
    assert (after_two / "tokenizer.json").is_file()
    for name, tensor in weights(short).items():
        assert torch.equal(tensor, weights(after_two)[name]), name
    last = weights(tmp_path / "constant" / "model")
    assert any(not torch.equal(tensor, last[n]) for n, tensor in weights(after_two).items())
    assert snapshots(tmp_path / "short") == {}


def test_steps_that_a_run_did_not_keep_are_removed(
    tiny: Callable[[str], ModelSettings], tmp_path: Path
) -> None:
    train(tiny, tmp_path, snapshot_steps=1)
    assert list(snapshots(tmp_path)) == [1, 2, 3]
    train(tiny, tmp_path, steps=3)
    assert list(snapshots(tmp_path)) == [2]
    train(tiny, tmp_path, snapshot_steps=None)
    assert snapshots(tmp_path) == {}
