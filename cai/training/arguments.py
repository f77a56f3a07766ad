"""Our settings as transformers' Trainer takes them: batches, learning rate, precision."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainingArguments

from cai.errors import CaiError
from cai.models.loading import device_and_dtype
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.processes import ALONE, ProcessGroup
from cai.training.zero import SAID_BY_TRAINING, zero_config

_WARMUP_SHARE = 0.03
_MOST_WARMUP_STEPS = 100
_MOST_LOGGED_STEPS = 1000


def training_arguments(
    settings: OptimizerSettings,
    *,
    base: ModelSettings,
    rows: int,
    checkpoints: Path,
    seed: int,
    group: ProcessGroup = ALONE,
    layers: Sequence[str] = (),
) -> TrainingArguments:
    """Translate our settings into those of transformers.

    The learning rate comes after a warm-up of 3% of the steps and is constant, as in the paper
    (section 3.5), unless `final_learning_rate` says otherwise. Weights and optimiser are float32;
    on a GPU the arithmetic is bfloat16 by autocast.

    Args:
        settings: Ours.
        base: Says on which device to train, and how precisely to compute.
        rows: How many there are.
        checkpoints: Their folder.
        seed: Sets the order of the rows.
        group: Who shares the training.
        layers: The classes of layers, for FSDP2 to gather one at a time.
    """
    micro = micro_batch_size(settings, group.count)
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    on_cpu = device_and_dtype(base)[0].type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * group.count),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        **_schedule(settings, steps),
        optim="adamw_torch",
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        bf16=computes_in_bfloat16(base) and not group.splits,
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
        **_splitting(group, layers),
    )
    if group.sharded and on_cpu:
        _let_accelerate_shard()
    # With several GPUs, Trainer would take DataParallel, which averages other losses.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    return arguments


def computes_in_bfloat16(base: ModelSettings) -> bool:
    """Return whether forward and backward passes run under autocast."""
    device, dtype = device_and_dtype(base)
    return device.type != "cpu" and dtype == torch.bfloat16


def micro_batch_size(settings: OptimizerSettings, processes: int = 1) -> int:
    """Return the sequences (or pairs) per forward pass of one process.

    Raises:
        CaiError: The batch does not divide into such micro-batches.
    """
    if settings.batch_size % processes:
        raise CaiError(
            f"`batch_size` {settings.batch_size} does not divide among {processes} processes. "
            f"Make it a multiple of {processes}."
        )
    each = settings.batch_size // processes
    micro = settings.micro_batch_size or each
    if each % micro:
        of_each = f", that each of {processes} processes has," if processes > 1 else ""
        raise CaiError(
            f"`batch_size` {each}{of_each} is not a multiple of `micro_batch_size` {micro}. "
            "Choose a `micro_batch_size` that divides it."
        )
    return micro


def _let_accelerate_shard() -> None:
    """Accelerate takes FSDP for processes on GPUs alone; on a CPU it would go on by DDP."""
    PartialState().distributed_type = DistributedType.MULTI_GPU


def _splitting(group: ProcessGroup, layers: Sequence[str]) -> dict[str, Any]:
    """Return what transformers is told of FSDP2 or DeepSpeed, rather than by the environment."""
    if group.sharded:
        shards = {
            "version": 2,
            "reshard_after_forward": group.reshard,
            "transformer_layer_cls_to_wrap": list(layers),
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
