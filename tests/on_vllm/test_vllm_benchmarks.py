"""The side of the GPU benchmark that compares with bare vLLM, on a tiny shape."""

import torch

from benchmarks import gpu


def test_the_gpu_benchmark_reaches_vllm_on_a_tiny_shape():
    tiny = gpu.Shape(
        hidden=128,
        inner=96,
        layers=2,
        heads=2,
        key_value_heads=1,
        vocabulary=1200,
        context=128,
        rows=4,
        prompt_words=12,
        new_tokens=4,
        square=64,
    )
    ratios, facts = gpu.measure(tiny, torch.device("cpu"), torch.float32, rounds=1, vllm=True)
    assert facts["new tokens/s"] > 0
    assert list(ratios) == ["tokens/s, cai's vllm engine over bare vLLM"]
