"""Tiny models whose tokenizers and templates set the traps that the real families set.

- llama: BOS in the template and once more from the tokenizer; turns end in `<|eot_id|>`, which is
  not EOS; no pad token.
- qwen3: ChatML; thinking is dropped from earlier turns, and an empty block closes it when it is
  switched off; no BOS; pad differs from EOS.
- gemma: no system role and strict alternation (both raise); `<end_of_turn>` is not EOS; BOS;
  sliding-window attention in every other layer.
- qwen3_thinking, deepseek_r1: their generation prompts open a thinking block; answers are written
  after an empty one, or without any. The second one writes today's date.
- gpt2: a base model: no chat template, one token for BOS and EOS, no pad, learned positions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Family = Literal["llama", "qwen3", "gemma", "gpt2", "qwen3_thinking", "deepseek_r1"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen3", "gemma", "gpt2")
THINKING_FAMILIES: tuple[Family, ...] = ("qwen3_thinking", "deepseek_r1")
"""Models like those of qwen3 and llama, whose templates are of interest alone."""
CONTEXT = 2048

_CORPUS = (
    "Human: How do I bake a loaf of bread for my neighbour?",
    "Assistant: Mix the flour with water and yeast, wait an hour, and bake the loaf.",
    "Which of the two responses is better? The answer is: (A) or (B).",
    "Please write about what was wrong with the answer, and how it could be put right.",
    "I will not help with that, because it could harm other people; here is what I can do.",
    "Critique Request: say what is harmful. Critique: the answer is rude and of no help.",
    "Revision Request: rewrite the answer. Revision: I am sorry to hear that you are angry.",
    "system user assistant model\n\nThe kind gardener plants the seeds in the spring.\n",
)

_LLAMA = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% set answer = message['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.last and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}{{ answer }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
_QWEN3_THINKING = (
    _QWEN3.partition("{% if add_generation_prompt %}")[0]
    + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
_DEEPSEEK_R1 = (
    "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' %}<|User|>{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "<|Assistant|>{{ message['content'].split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant.') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class _Family:
    specials: tuple[str, ...]
    eos: str
    bos: str | None
    pad: str | None
    template: str | None
    generation_eos: tuple[str, ...]
    adds_bos: bool
    model: Callable[[int, dict[str, Any]], torch.nn.Module]


def _llama(vocab_size: int, ids: dict[str, Any]) -> torch.nn.Module:
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **_shape(), **ids))


def _qwen3(vocab_size: int, ids: dict[str, Any]) -> torch.nn.Module:
    shape = {**_shape(), "head_dim": 16, "tie_word_embeddings": True}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab_size, **shape, **ids))


def _gemma(vocab_size: int, ids: dict[str, Any]) -> torch.nn.Module:
    layers = ["sliding_attention", "full_attention"]
    shape = {**_shape(), "head_dim": 16, "sliding_window": 16, "layer_types": layers}
    return Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=vocab_size, query_pre_attn_scalar=16, **shape, **ids)
    )


def _gpt2(vocab_size: int, ids: dict[str, Any]) -> torch.nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, **ids
        )
    )


def _shape() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }


_FAMILIES: dict[Family, _Family] = {
    "llama": _Family(
        specials=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        eos="<|end_of_text|>",
        bos="<|begin_of_text|>",
        pad=None,
        template=_LLAMA,
        generation_eos=("<|end_of_text|>", "<|eot_id|>"),
        adds_bos=True,
        model=_llama,
    ),
    "qwen3": _Family(
        specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        bos=None,
        pad="<|endoftext|>",
        template=_QWEN3,
        generation_eos=("<|im_end|>", "<|endoftext|>"),
        adds_bos=False,
        model=_qwen3,
    ),
    "qwen3_thinking": _Family(
        specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        eos="<|im_end|>",
        bos=None,
        pad="<|endoftext|>",
        template=_QWEN3_THINKING,
        generation_eos=("<|im_end|>", "<|endoftext|>"),
        adds_bos=False,
        model=_qwen3,
    ),
    "deepseek_r1": _Family(
        specials=("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>", "<think>", "</think>"),
        eos="<|end|>",
        bos="<|begin|>",
        pad="<|end|>",
        template=_DEEPSEEK_R1,
        generation_eos=("<|end|>",),
        adds_bos=True,
        model=_llama,
    ),
    "gemma": _Family(
        specials=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
        template=_GEMMA,
        generation_eos=("<eos>", "<end_of_turn>"),
        adds_bos=True,
        model=_gemma,
    ),
    "gpt2": _Family(
        specials=("<|endoftext|>",),
        eos="<|endoftext|>",
        bos="<|endoftext|>",
        pad=None,
        template=None,
        generation_eos=("<|endoftext|>",),
        adds_bos=False,
        model=_gpt2,
    ),
}


def make_tiny_model(family: Family, folder: str | Path, *, seed: int = 0) -> Path:
    """Save a freshly initialised tiny model and its tokenizer in `folder`, and return the folder.

    Context 2048 tokens, 2 layers, width 32, a byte-level vocabulary of a few hundred tokens. Equal
    seeds give equal weights. The weights are larger than usual, so that the distributions are far
    from uniform and positions matter.
    """
    traits = _FAMILIES[family]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tiny_tokenizer(family)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = traits.model(len(tokenizer), {**ids, "initializer_range": 0.3})
    eos = [tokenizer.convert_tokens_to_ids(token) for token in traits.generation_eos]
    model.generation_config = GenerationConfig(**{**ids, "eos_token_id": eos})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy_of(model: Path, folder: Path) -> Path:
    """Copy a model folder, to be damaged by a test."""
    return Path(shutil.copytree(model, folder))


def make_tiny_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Return the family's byte-level tokenizer, trained on a few sentences."""
    traits = _FAMILIES[family]
    fast = Tokenizer.from_str(_trained(traits.specials))
    if traits.adds_bos:
        fast.post_processor = processors.TemplateProcessing(
            single=f"{traits.bos} $A",
            special_tokens=[(traits.bos, fast.token_to_id(traits.bos))],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=traits.bos,
        eos_token=traits.eos,
        pad_token=traits.pad,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = traits.template
    return tokenizer


@cache
def _trained(specials: tuple[str, ...]) -> str:
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(_CORPUS, trainer)
    return fast.to_str()
