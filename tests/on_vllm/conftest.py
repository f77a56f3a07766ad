"""All of it needs vLLM, which has an environment of its own: `make test-vllm`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vllm)
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed (make test-vllm)"))


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """Return a function from a name to the folder of a small random model that vLLM can run.

    vLLM's attention on a CPU wants heads of 32 numbers or more, which the tiny models have not.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    from cai.models.loading import PLAYGROUND

    def make(name):
        plain = AutoConfig.from_pretrained(PLAYGROUND)
        torch.manual_seed(0)
        if name == "untied llama":
            plain.tie_word_embeddings = False
            return LlamaForCausalLM(plain)
        shape = {k: getattr(plain, k) for k in ("vocab_size", "hidden_size", "eos_token_id")}
        return Qwen3ForCausalLM(
            Qwen3Config(
                **shape,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=64,
                max_position_embeddings=512,
                tie_word_embeddings=True,
            )
        )

    folders = {"playground": PLAYGROUND}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("model")
            make(name).save_pretrained(folders[name])
            AutoTokenizer.from_pretrained(PLAYGROUND).save_pretrained(folders[name])
        return folders[name]

    return folder
