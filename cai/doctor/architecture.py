"""What a model's config and its classes in transformers tell: engines, trainings and memory.

Models are made on the `meta` device, so that they have shapes and no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from cai.doctor.findings import Area, Finding, State
from cai.engines.forward import attention_problem
from cai.engines.vllm_arguments import INSTALL
from cai.errors import CaiError
from cai.models.loading import device_and_dtype
from cai.ppo.batch import rows_of_length
from cai.ppo.memory import FULL, Shape, estimate, free_memory, needed
from cai.settings import ModelSettings, PPOSettings, SftSettings

Fact = tuple[Area, str, State, str]
_MAX_LENGTH = SftSettings().max_length


def examine_architecture(
    config: Any,  # noqa: ANN401 (any transformers config)
    settings: ModelSettings,
    vocabulary: int | None,
) -> list[Finding]:
    """Return the findings on a config: engines, trainings and memory.

    `vocabulary` is the number of the tokenizer's tokens; None if it has not been read.

    Raises:
        CaiError: transformers has no causal language model of this kind.
    """
    model = on_meta(config)
    facts = [
        *_engines(config, model, vocabulary),
        *_training(config, model),
        *_memory(config, settings),
    ]
    return [Finding(area=area, name=n, state=s, detail=d) for area, n, s, d in facts]


def on_meta(config: Any) -> Any:  # noqa: ANN401
    """Return a causal language model without weights.

    Raises:
        CaiError: transformers has none with such a config.
    """
    if config.is_encoder_decoder:
        raise CaiError(
            f"A model of type `{config.model_type}` reads prompts with an encoder. Give a causal "
            "language model."
        )
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever transformers meets in a foreign config
        raise CaiError(
            f"transformers has no causal language model for this config of type "
            f"`{config.model_type}` ({str(error).strip().splitlines()[0]}). Give a model that it "
            "has, or a newer version of transformers."
        ) from error


def context_of(config: Any) -> int | None:  # noqa: ANN401
    """Return the most tokens that a model reads; None without a limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _engines(config: Any, model: Any, vocabulary: int | None) -> Iterator[Fact]:  # noqa: ANN401
    embeddings = model.get_input_embeddings().num_embeddings
    if vocabulary is not None and vocabulary > embeddings:
        yield (
            "engines",
            "vocabulary",
            "no",
            f"the tokenizer has {vocabulary} tokens, the model {embeddings}: they do not match",
        )
    problem = attention_problem(config, model)
    if problem:
        yield (
            "engines",
            "transformers",
            "limited",
            f"the model {problem}: one request at a time, by transformers' own `generate`",
        )
    else:
        yield "engines", "transformers", "ok", "continuous batching; exact scores"
    kind = type(model).__name__
    if find_spec("vllm"):
        yield "engines", "vllm", "not tried", f"installed; not tried with a {kind}"
    else:
        yield "engines", "vllm", "no", f"not installed ({INSTALL}); not tried with a {kind}"
    yield "engines", "openai", "not tried", "any server that has the model: NAME@URL"


def _training(config: Any, model: Any) -> Iterator[Fact]:  # noqa: ANN401
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear):
        yield (
            "training",
            "output layer",
            "ok",
            f"linear, {head.in_features} to {head.out_features}, which runs on answers only; that "
            "it gives the model's logits was not tried, and is checked when PPO starts",
        )
    else:
        yield "training", "output layer", "no", f"a {type(head).__name__}, which is not linear"
    yield "training", "score head", *_score_head(config)
    yield "training", "LoRA", *_lora(model)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if model.supports_gradient_checkpointing and layers:
        yield "training", "gradient checkpointing", "ok", f"{len(layers)} layers can be recomputed"
    else:
        yield "training", "gradient checkpointing", "no", "the layers cannot be recomputed"
    context = context_of(config)
    if context is not None and context < _MAX_LENGTH:
        yield (
            "training",
            "context",
            "limited",
            f"{context} tokens, less than `max_length` {_MAX_LENGTH} of the trainings: longer "
            "rows are left out and counted",
        )
    else:
        shown = "no limit" if context is None else f"{context} tokens"
        yield "training", "context", "ok", f"{shown}; `max_length` of the trainings: {_MAX_LENGTH}"


def _score_head(config: Any) -> tuple[State, str]:  # noqa: ANN401
    kind = cast("Any", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING).get(type(config), None)
    if kind is None:
        return "no", (
            "transformers has no sequence classifier of this kind, so it cannot become a "
            "preference model or a harmfulness model"
        )
    with torch.device("meta"):
        scorer: Any = AutoModelForSequenceClassification.from_config(config)
    if not isinstance(getattr(scorer, "score", None), nn.Linear):
        return "no", f"{kind.__name__} has no linear head named `score`"
    return "ok", kind.__name__


def _lora(model: Any) -> tuple[State, str]:  # noqa: ANN401
    """Put adapters on a model without weights, as trainings do; tell how much they reach."""
    whole = sum(weight.numel() for weight in model.base_model.parameters())
    tables = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding)]
    embeddings = sum(table.weight.numel() for table in tables)
    adapters = LoraConfig(task_type="CAUSAL_LM", r=1, target_modules="all-linear")
    try:
        with torch.device("meta"):
            adapted = cast("Any", get_peft_model(model, adapters))
    except ValueError as error:
        return "no", f"no linear layer takes an adapter ({str(error).splitlines()[0]})"
    found = {name: m for name, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    reached = sum(_adapted(m).numel() for m in found.values())
    names = sorted({_name(name, m) for name, m in found.items()})
    share = reached / max(1, whole - embeddings)
    said = f"on {', '.join(names)}: {share:.0%} of the weights without embeddings"
    if share < 0.5:
        return "limited", f"{said}; the others (experts, perhaps) stay as they are"
    return "ok", said


def _adapted(layer: Any) -> torch.Tensor:  # noqa: ANN401 (a LoRA layer)
    """Return the weight that an adapter changes; those of experts are no layers of their own."""
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.base_layer.weight


def _name(path: str, layer: Any) -> str:  # noqa: ANN401
    return layer.parameter_name if isinstance(layer, ParamWrapper) else path.rpartition(".")[2]


def _memory(config: Any, settings: ModelSettings) -> Iterator[Fact]:  # noqa: ANN401
    device, precision = device_and_dtype(settings)
    shape, context = Shape.of(config, precision), context_of(config)
    free, bits = free_memory(device), precision.itemsize
    where = f"{_gigabytes(free)} are free on this {device.type}"

    def fact(name: str, amount: int, what: str) -> Fact:
        fits: State = "ok" if amount <= 0.9 * free else "no"
        return "memory", name, fits, f"{_gigabytes(amount)} ({what}); {where}"

    tokens = min(_MAX_LENGTH, context or _MAX_LENGTH)
    cache = bits * settings.max_batch_tokens * shape.layers * shape.cache
    yield fact("weights", bits * shape.weights, f"{shape.weights:,} numbers of {bits} bytes")
    yield fact(
        "generation",
        bits * shape.weights + cache,
        f"weights, and states of {settings.max_batch_tokens:,} tokens at most",
    )
    yield fact(
        "sft", 4 * FULL * shape.weights, "weights, gradients and Adam; activations not counted"
    )
    for name, ppo in {"ppo": PPOSettings(), "ppo, LoRA 16": PPOSettings(lora_rank=16)}.items():
        roles = estimate(
            shape,
            shape,
            ppo,
            precision=precision,
            longest=tokens,
            batch_tokens=min(settings.max_batch_tokens, ppo.batch_size * tokens),
            micro_batch_size=rows_of_length(tokens, device),
        )
        yield fact(name, needed(roles), f"the estimate of PPO, for {tokens} tokens a row")


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 5e7 else f"{n / 1e6:.1f} MB"
