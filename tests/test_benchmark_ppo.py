"""What the comparison with TRL computes, and its model that stops at random."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.ppo_vs_trl import workloads
from benchmarks.ppo_vs_trl.__main__ import ratios


def test_ratios_are_our_advantage():
    def side(speed, memory):
        speeds = ("episodes_per_second", "tokens_per_second", "episodes_per_second_of_clock")
        return dict.fromkeys(speeds, speed) | {"peak_memory_gib": memory}

    pairs = [
        {"cai": side(6.0, 1.0), "TRL": side(2.0, 4.0)},
        {"cai": side(4.0, 2.0), "TRL": side(2.0, 4.0)},
        {"cai": side(5.0, 1.0), "TRL": side(1.0, 3.0)},
    ]
    found = ratios("tiny", pairs)
    assert found["tiny: episodes per second"] == {"min": 2.0, "median": 3.0, "max": 5.0}
    assert found["tiny: peak memory"] == {"min": 2.0, "median": 3.0, "max": 4.0}


def test_the_random_llama_stops_once_in_48_tokens_whatever_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workloads, "VOCABULARY", 500)
    workload = workloads.Workload("llama", 2, epochs=1, max_new_tokens=8, steps=0)
    folder = workloads.write(workload, tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    rng = random.Random(1)
    ids = torch.tensor([[rng.randrange(2, 500) for _ in range(150)] for _ in range(4)])
    with torch.no_grad():
        stop = model(ids).logits.softmax(-1)[..., workloads.EOS]
    assert stop.min().item() == pytest.approx(1 / 48, rel=0.2)
    assert stop.max().item() == pytest.approx(1 / 48, rel=0.2)
