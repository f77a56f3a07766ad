"""What the comparison with TRL computes, and its model that stops at random."""

import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import ppo_gpu
from benchmarks.ppo_vs_trl import workloads
from benchmarks.ppo_vs_trl.__main__ import ratios

TINY_LINEAR = [(16, 16), (8, 16), (8, 16), (16, 16), (32, 16), (32, 16), (16, 32)]
"""Rows and columns of a layer's matrices: q, k, v, o, gate, up, down."""


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


def test_the_gpu_measurement_runs_on_a_tiny_shape_and_says_when_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """All of it but the kernels: shares add up, each role is counted once, in bytes."""
    tiny = ppo_gpu.Shape("tiny", 16, 32, 2, 2, 1, 50, tied=True, batch=4, prompt=5, response=4)
    found = ppo_gpu.measure(tiny, torch.device("cpu"), torch.float32, steps=1, product=64)
    assert sum(found["time"].values()) == pytest.approx(1)
    assert all(share > 0 for share in found["time"].values())
    linear = 2 * sum(rows + columns for rows, columns in TINY_LINEAR) * ppo_gpu.RANK
    base = 50 * 16 + 2 * (sum(r * c for r, c in TINY_LINEAR) + 2 * 16) + 16
    memory = found["memory"]
    assert memory["shared base"] == 4 * base
    assert memory["policy"] == memory["preference model"] == 4 * linear
    assert memory["critic"] == 4 * (linear + 16 + 1)
    assert memory["gradients"] == memory["policy"] + memory["critic"]
    assert memory["Adam"] >= 2 * memory["gradients"]
    assert "| fraction of peak |" in ppo_gpu.tables([found, found])
    monkeypatch.setattr(sys, "argv", ["ppo_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ppo_gpu.main() == 0
    assert "No GPU here: nothing is measured" in capsys.readouterr().out
