"""The GPU benchmark on a tiny shape, on a CPU: everything but the kernels and the numbers."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks import decode_steps, gpu

TINY = gpu.Shape(
    hidden=64,
    inner=96,
    layers=2,
    heads=2,
    key_value_heads=1,
    vocabulary=1200,
    context=128,
    rows=6,
    prompt_words=12,
    new_tokens=5,
    square=64,
)


def test_both_sides_say_as_many_tokens_and_the_fractions_are_fractions():
    ratios, facts = gpu.measure(TINY, torch.device("cpu"), torch.float32, rounds=1, vllm=False)
    (values,) = ratios.values()
    assert len(values) == 1
    assert values[0] > 0
    assert facts["new tokens/s"] > 0
    for name in ("fraction of memory bandwidth", "fraction of arithmetic"):
        assert facts[name] >= 0


def test_the_counted_weights_are_those_that_tokens_pass_through():
    model = LlamaForCausalLM(TINY.config())
    counted = sum(w.numel() for name, w in model.named_parameters() if "norm" not in name)
    assert gpu._parameters(TINY) == counted - model.get_input_embeddings().weight.numel()
    assert gpu._parameters(replace(TINY, layers=1)) < gpu._parameters(TINY)
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert TINY.bytes_of_states(4) == held // 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["gpu", "--json", str(tmp_path / "gpu.json")])
    assert gpu.main() == 0
    assert "nothing was measured" in capsys.readouterr().out
    assert not (tmp_path / "gpu.json").exists()


def test_the_least_time_of_a_step_counts_what_it_reads():
    found = decode_steps.measure(TINY, torch.device("cpu"), torch.float32, before=1, steps=2)
    least, copied = found["least, by reading"] / 1e3, found["bytes/s of a copy"]
    model = LlamaForCausalLM(TINY.config())
    weights = 4 * (
        sum(w.numel() for w in model.parameters()) - model.get_input_embeddings().weight.numel()
    )
    states = least * copied - weights
    rows = TINY.rows * TINY.bytes_of_states(4)
    assert TINY.prompt_words * 3 / 4 * rows < states < TINY.context * rows
    assert "least, by reading" in decode_steps.table(found)
