"""The inputs of a training, and our settings as arguments of transformers' Trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import PreTrainedModel, TrainingArguments

from cai.models.loading import device_and_dtype
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.activations import kept
from cai.training.processes import ALONE, Processes
from cai.training.sharding import layers
from cai.training.zero import SAID_BY_TRAINING, zero_config

_WARMUP_SHARE = 0.03
_MOST_WARMUP_STEPS = 100
_MOST_LOGGED_STEPS = 1000

MOST_KEPT = 2**30
"""Bytes that a forward pass on a CPU may keep for its backward pass, if `micro_batch_size` is not
set. A GPU recomputes layers instead (`gradient_checkpointing`)."""


OnStep = Callable[[Mapping[str, float]], None]
"""Gets `step`, `steps` (how many there will be) and, once one is logged, `loss`."""


@dataclass(frozen=True)
class Snapshots:
    """The policies to keep of a training."""

    stage: Path
    """The folder of the stage."""
    every: int | None
    """Optimizer steps from one to the next; None: none are kept."""
    save: Callable[[PreTrainedModel, Path], object]
    """Writes a model, LoRA merged, into a folder."""


@dataclass(frozen=True)
class Run:
    """The inputs of a training besides its rows and settings, and where it writes."""

    base: ModelSettings
    """The model to start from; its settings decide the device and the precision."""
    data: Path
    """The file of the rows; a checkpoint of other data is not resumed."""
    seed: int
    """Sets the order of the rows and the initial adapters."""
    checkpoints: Path
    """The folder of the checkpoints; removed at the end."""
    log_dir: Path
    """For TensorBoard."""
    on_step: OnStep | None
    """Called at each logged step: at all of them in runs of up to a thousand steps."""
    snapshots: Snapshots | None = None
    """Of trainings that make a policy."""


def training_arguments(
    settings: OptimizerSettings,
    run: Run,
    *,
    rows: int,
    longest: int = 0,
    group: Processes = ALONE,
    model: PreTrainedModel | None = None,
) -> TrainingArguments:
    """Translate our settings into those of transformers.

    The learning rate is constant (as in the paper, section 3.2) after a warm-up of 3% of the steps,
    unless `final_learning_rate` says otherwise. Weights and optimizer are float32; on a GPU passes
    compute in bfloat16 by autocast. Under FSDP2, the layers of `model` are gathered one at a time.
    `longest` are the tokens that the longest row takes in a batch.
    """
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    on_cpu = device_and_dtype(run.base)[0].type == "cpu"
    micro = micro_batch_size(settings, group.count)
    if on_cpu and settings.micro_batch_size is None and model is not None:
        micro = _fitting(micro, longest * _bytes_per_token(model.config, settings))
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * group.count),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        **_schedule(settings, steps),
        optim="adamw_torch",
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=run.seed,
        data_seed=run.seed,
        use_cpu=on_cpu,
        bf16=computes_in_bfloat16(run.base) and not group.splits,
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=math.ceil(steps / _MOST_LOGGED_STEPS),
        logging_nan_inf_filter=False,  # or a NaN would be logged as the mean of the others
        report_to="none",
        disable_tqdm=True,
        **_splitting(group, model),
    )
    if group.sharded and on_cpu:
        # Accelerate accepts FSDP on GPUs only; on a CPU it would silently take DDP.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    # With several GPUs, Trainer would take DataParallel, which averages other losses.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    return arguments


def computes_in_bfloat16(base: ModelSettings) -> bool:
    """Return whether forward and backward passes run under autocast."""
    device, dtype = device_and_dtype(base)
    return device.type != "cpu" and dtype == torch.bfloat16


def micro_batch_size(settings: OptimizerSettings, processes: int = 1) -> int:
    """Return the sequences (or pairs) per forward pass; raise a CaiError if they cannot be."""
    settings.checked(processes=processes)
    return settings.micro_batch_size or settings.batch_size // processes


def _bytes_per_token(config: Any, settings: OptimizerSettings) -> float:  # noqa: ANN401
    return kept(config, torch.float32, lora=bool(settings.lora_rank)).per_token


def _fitting(rows: int, size: float) -> int:
    """Return the largest divisor of a number of rows whose bytes, `size` each, fit; at least 1."""
    divisors = (n for n in range(rows, 1, -1) if rows % n == 0)
    return next((n for n in divisors if n * size <= MOST_KEPT), 1)


def _splitting(group: Processes, model: PreTrainedModel | None) -> dict[str, Any]:
    """Return the arguments for FSDP2 or DeepSpeed, which come before those of the environment."""
    if group.sharded and model is not None:
        shards = {
            "version": 2,
            "reshard_after_forward": group.reshard,
            "transformer_layer_cls_to_wrap": sorted({type(x).__name__ for x in layers(model)}),
            "activation_checkpointing": False,  # `gradient_checkpointing` is that
        }
        return {"fsdp": True, "fsdp_config": shards}
    if group.deepspeed:
        config = zero_config() | dict.fromkeys(SAID_BY_TRAINING, "auto")
        # The launcher's fields are in it by now; Accelerate refuses both.
        os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
        return {"deepspeed": config}
    return {}


def _schedule(settings: OptimizerSettings, steps: int) -> dict[str, Any]:
    """Return the learning rate's schedule as transformers names it; the warm-up comes first."""
    warmup = {"warmup_steps": min(_MOST_WARMUP_STEPS, int(_WARMUP_SHARE * steps))}
    if settings.final_learning_rate == 1:
        return {"lr_scheduler_type": "constant_with_warmup", **warmup}
    shape = {"lr_end": settings.final_learning_rate * settings.learning_rate, "power": 1.0}
    return {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": shape, **warmup}
