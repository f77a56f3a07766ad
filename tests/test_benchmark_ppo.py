"""What the comparisons with TRL and the experiment with the guard compute."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import playground_guard, ppo_gpu
from benchmarks import ppo_time_to_quality as time_to_quality
from benchmarks.ppo_vs_trl import ours, without_critic, workloads
from benchmarks.ppo_vs_trl.__main__ import ratios
from benchmarks.ppo_vs_trl.trl_without_critic import score

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


def test_methods_without_a_critic_are_settings_and_both_sides_score_the_same():
    for name, method in without_critic.METHODS.items():
        workload = replace(
            workloads.PLAYGROUND_WORKLOAD, epochs=1, method={**without_critic.SHARED, **method}
        )
        settings = ours.settings_of(workload)
        assert settings.advantage == name.lower()
        assert not settings.has_critic
        assert settings.samples_per_prompt == without_critic.SAMPLES
    responses = [[random.Random(i).randrange(1000) for _ in range(8 + i)] for i in range(5)]
    sequences = [[1, 2, 3, *response] for response in responses]
    assert ours.IdScorer().score_ids(sequences).tolist() == pytest.approx(score(responses))


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


def test_time_to_quality_goes_by_the_best_point_of_each_side():
    quickstart = time_to_quality.point_name("cai", 1.2e-4, 2)
    curve = [{"step": 9, "seconds": 90.0}]
    runs = {
        quickstart: {"seconds": 40.0, "curve": curve},
        time_to_quality.point_name("cai", 2.4e-4, 2): {"seconds": 30.0, "curve": curve},
        time_to_quality.point_name("TRL", 1.2e-4, 2): {"seconds": None, "curve": curve},
        time_to_quality.point_name("TRL", 2.4e-4, 2): {"seconds": 120.0, "curve": curve},
    }
    assert time_to_quality.ratios_of(runs, quickstart) == {
        time_to_quality.BEST: 4.0,
        time_to_quality.AS_IT_IS: 3.0,
    }
    # Where TRL never got there, the shortest of its trainings is a lower bound.
    runs[time_to_quality.point_name("TRL", 2.4e-4, 2)]["seconds"] = None
    assert time_to_quality.ratios_of(runs, quickstart)[time_to_quality.BEST] == 3.0
    for run in runs.values():
        run["seconds"] = None
    with pytest.raises(SystemExit, match="never was good enough"):
        time_to_quality.ratios_of(runs, quickstart)


def guard_result(*, alarms, last, kept, baseline_alarms=0):
    """A result of the guard's experiment, as far as its verdict reads it."""

    def rates(value):
        return {"helpful_rate": {"value": value}, "harmful_rate": {"value": 0.0}}

    evaluation = {"sl-cai": rates(0.6), "rl-cai": rates(kept)}
    runs = {name: {"evaluation": evaluation} for name in playground_guard.GUARDED}
    runs["unguarded"] = {"evaluation": {"sl-cai": rates(0.6), "rl-cai": rates(last)}}
    guard = {
        name: {"checks": [{"guard/alarms": 0}, {"guard/alarms": count}]}
        for name, count in (("unguarded", alarms), ("baseline", baseline_alarms))
    }
    return {"runs": runs, "guard": guard}


def test_the_guards_experiment_fails_where_nothing_collapsed_or_nothing_was_noticed():
    def met(**changes):
        result = guard_result(**{"alarms": 2, "last": 0.1, "kept": 0.8, **changes})
        return all(playground_guard.checks(result).values())

    assert met()
    assert not met(alarms=0)
    assert not met(last=0.7)
    assert not met(kept=0.15)
    assert not met(baseline_alarms=1)
