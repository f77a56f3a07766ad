"""Current families of language models, each from its own config in transformers, at toy size.

All have the tokenizer and the chat template of the tiny Llama: what differs is the architecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import CONTEXT, make_tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MIXED_LAYERS = ["linear_attention", "full_attention"]
_DELTA_NET: dict[str, Any] = {
    "layer_types": _MIXED_LAYERS,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_STATE_SPACE: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
    "gemma3_text": {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
    "qwen3": {},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "deepseek_v3": {
        **_EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "qwen3_next": {
        **_EXPERTS,
        **_DELTA_NET,
        "num_experts": 4,
        "shared_expert_intermediate_size": 16,
    },
    "falcon_h1": _STATE_SPACE,
    "granitemoehybrid": {
        **_STATE_SPACE,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
    },
    "mamba": {"state_size": 8},
}
"""transformers' name of a model's type to what its config has besides the usual sizes."""


def make_family(kind: str, folder: Path) -> Path:
    """Save a freshly initialised model of this type, with a tokenizer, and return the folder."""
    tokenizer = make_tiny_tokenizer("llama")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {**_SHAPE, "vocab_size": len(tokenizer), "pad_token_id": 0, **ids}
    config = AutoConfig.for_model(kind, **{**shape, **FAMILIES[kind]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
