"""The trainings on a CPU (float32) and on a GPU (bfloat16 by autocast): losses, kills, adapters."""

import pytest
import torch
from devices import ON_EACH_DEVICE
from safetensors.torch import load_file
from test_dpo import PAIRS as DPO_PAIRS
from test_preference_training import PAIRS, reference_losses
from test_sft import reference_loss, texts_in

from cai.models.loading import load_causal_lm
from cai.settings import DpoSettings, PreferenceSettings, SftSettings
from cai.training.dpo import train_dpo
from cai.training.preference import train_preference
from cai.training.sft import train_sft

pytestmark = ON_EACH_DEVICE

USUAL = {"batch_size": 4, "learning_rate": 3e-3, "epochs": 2, "checkpoint_steps": 1}
"""A batch in one pass; on a GPU its layers are computed again in the backward pass."""


@pytest.fixture
def start(base, completions, comparisons, tmp_path):
    """Run a training by name in a folder."""

    def run(name, folder="run", **changes):
        kind, function, data = {
            "sft": (SftSettings, train_sft, lambda: completions(13)),
            "preference": (PreferenceSettings, train_preference, lambda: comparisons(PAIRS)),
            "dpo": (DpoSettings, train_dpo, lambda: comparisons(DPO_PAIRS)),
        }[name]
        if name not in files:
            files[name] = data()
        out = tmp_path / folder
        return function(
            kind(**{**USUAL, **changes}),
            data=files[name],
            base=base(),
            out=out / "model",
            seed=5,
            log_dir=out / "logs",
        )

    files = {}
    return run


def tolerance(device):
    return 1e-5 if device.type == "cpu" else 2e-2


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_the_first_loss_of_fine_tuning_is_that_of_a_reference(chosen, start, base, completions):
    found = start("sft", batch_size=13, epochs=1)
    expected = reference_loss(base(), texts_in(completions(13)))
    assert found["first_loss"] == pytest.approx(expected, rel=tolerance(chosen))


def test_the_first_loss_of_the_preference_model_is_that_of_a_reference(chosen, start, base):
    found = start("preference", batch_size=13, epochs=1)
    losses = reference_losses(base())
    expected = sum(losses) / len(losses)
    assert found["first_loss"] == pytest.approx(expected, rel=tolerance(chosen))


def test_the_first_loss_of_dpo_is_that_of_no_preference(chosen, start):
    """Its reference is the policy itself, so all log-ratios are 0 and σ(0) is one half."""
    found = start("dpo", batch_size=len(DPO_PAIRS), epochs=1)
    expected = torch.tensor(2.0).log().item()
    assert found["first_loss"] == pytest.approx(expected, abs=tolerance(chosen))


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("name", ["sft", "preference", "dpo"])
def test_a_killed_training_ends_with_the_same_weights(
    name, lora_rank, chosen, start, base, killed_after, tmp_path
):
    whole = start(name, "whole", lora_rank=lora_rank)
    with killed_after(5):
        start(name, "killed", lora_rank=lora_rank)
    resumed = start(name, "killed", lora_rank=lora_rank)
    assert resumed["steps"] == whole["steps"] > 5
    for loss in ("first_loss", "final_loss"):
        assert resumed[loss] == pytest.approx(whole[loss], rel=tolerance(chosen))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for key, weight in first.items():
        # A GPU may add in another order.
        atol = 0 if chosen.type == "cpu" else 1e-3
        torch.testing.assert_close(second[key], weight, rtol=0, atol=atol)
    assert {weight.dtype for weight in first.values()} == {torch.float32}
    before = load_causal_lm(base(), device="cpu").state_dict()
    moved = {key for key in first if key in before and not first[key].equal(before[key].float())}
    assert moved
    assert not lora_rank or all(key.endswith("_proj.weight") for key in moved)
