"""Models of transformers that differ in what surrounds attention: the same samples as one by one.

Sliding windows, attention sinks, soft caps, mixtures of experts, shared or many key-value heads,
rotary positions in a part of the head, learned ones, norms in other places.
"""

import numpy as np
import pytest
import torch
from test_decode_loop import assert_same, naive
from transformers import AutoConfig, AutoModelForCausalLM

from cai.engines.decode import DecodeLoop, TokenRequest

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
SHARED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS = {
    "mistral": {**SHARED, "sliding_window": 16},
    "gemma2": {**SHARED, "head_dim": 8, "sliding_window": 16},
    "phi3": SHARED,
    "olmo2": SHARED,
    "cohere2": {**SHARED, "sliding_window": 16},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "mixtral": {**SHARED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**SHARED, **EXPERTS, "num_experts": 4, "head_dim": 8},
    "gpt_oss": {**SHARED, "head_dim": 8, "num_local_experts": 4, "sliding_window": 16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_kind_samples_as_the_naive_loop_does(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **KINDS[kind])
    model = AutoModelForCausalLM.from_config(config).float().eval()
    rng = np.random.default_rng(0)
    requests = [
        TokenRequest(
            prompt_ids=tuple(rng.integers(5, 390, int(rng.integers(1, 150))).tolist()),
            seed=int(rng.integers(2**60)),
            max_tokens=int(rng.integers(2, 16)),
        )
        for _ in range(8)
    ]
    decode = DecodeLoop(model, stop_ids={1, 7, 30, 60, 90}, max_batch_tokens=800)
    assert_same(decode.run(requests), [naive(model, request) for request in requests])
