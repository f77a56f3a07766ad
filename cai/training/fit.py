"""The one training loop: fine-tuning, preference model and harmfulness model are fitted by it.

A training brings its rows, a way to make a batch of them, and a loss for each row. Here is what
they share: order, micro-batches, processes, LoRA, checkpoints, logs.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from cai.errors import CaiError
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.arguments import computes_in_bfloat16, training_arguments
from cai.training.checkpoints import open_checkpoints, training_identity
from cai.training.lora import merged, with_lora
from cai.training.order import Row
from cai.training.processes import ProcessGroup
from cai.training.sharding import layer_classes, without_weights
from cai.training.split_trainer import under_autocast
from cai.training.trainer import Collate, FitTrainer, Loss, quiet_transformers

Finish = Callable[[PreTrainedModel, dict[str, Tensor]], Mapping[str, float]]
"""Measures and saves the trained model (in eval mode, LoRA merged), in the first process alone. It
gets the LoRA matrices as they were before the merge, too: `LAYER.lora_A` and `LAYER.lora_B` by the
layer's name in the backbone; none without LoRA."""

OnStep = Callable[[Mapping[str, float]], None]
"""Gets `step`, `steps` (how many there will be) and, once one is logged, `loss`."""


@dataclass(frozen=True)
class Run:
    """From what a training is made, and where it writes.

    Attributes:
        base: The model that is trained, as it was; says on which device to train.
        data: The file that the rows are from; a checkpoint of other data is not resumed.
        seed: Sets the order of the rows and the initial adapters.
        checkpoints: The folder of the checkpoints; removed at the end.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (below a thousand, at all).
    """

    base: ModelSettings
    data: Path
    seed: int
    checkpoints: Path
    log_dir: Path
    on_step: OnStep | None


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    collate: Collate,
    loss: Loss,
    settings: OptimizerSettings,
    run: Run,
    finish: Finish,
) -> dict[str, float]:
    """Minimise the mean loss over the items of each batch; measure and save what comes out.

    The mean is over the whole batch: it does not depend on micro-batches or processes. A killed
    training goes on from its last checkpoint when it is called again in the same way.

    Args:
        model: What to train, in float32.
        rows: What to train on.
        collate: Makes a batch of rows.
        loss: The loss of each row of a batch.
        settings: How to train.
        run: From what, and where.
        finish: Measures and saves.

    Returns:
        `steps`, `first_loss` and `final_loss` (the mean over the last tenth of the logged steps),
        and what `finish` returns; the same in all processes.

    Raises:
        CaiError: The loss or a weight is no longer finite, or the processes were launched in a way
            that is not supported.
    """
    group = ProcessGroup.for_trainer()
    resume_from = group.from_main(lambda: _newest(settings, run))
    configs = _configs(model)
    arguments = _arguments(model, len(rows), settings, run, group)
    adapted = with_lora(model, settings, arguments)
    hollow = without_weights(adapted) if group.sharded and group.is_main else None
    if group.splits and computes_in_bfloat16(run.base):
        under_autocast(adapted, arguments.device.type)
    trainer = FitTrainer(adapted, arguments, rows, collate, loss)
    if group.is_main:
        _add_callbacks(trainer, run)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    whole = trainer.whole_model(hollow)

    def finished() -> dict[str, float]:
        adapter, trained = merged(whole)
        for name, value in configs.items():
            setattr(trained, name, value)
        _check_finite(trained, settings)
        measures = finish(trained.eval(), adapter)
        shutil.rmtree(run.checkpoints)
        return {"steps": trainer.state.global_step, **_loss_metrics(trainer), **measures}

    return group.from_main(finished)


def _arguments(
    model: PreTrainedModel,
    rows: int,
    settings: OptimizerSettings,
    run: Run,
    group: ProcessGroup,
) -> TrainingArguments:
    return training_arguments(
        settings,
        base=run.base,
        rows=rows,
        checkpoints=run.checkpoints,
        seed=run.seed,
        group=group,
        layers=layer_classes(model),
    )


def _newest(settings: OptimizerSettings, run: Run) -> Path | None:
    """Return the newest checkpoint of this training, if there is one."""
    identity = training_identity(settings, data=run.data, base=run.base, seed=run.seed)
    return open_checkpoints(run.checkpoints, identity)


def _configs(model: PreTrainedModel) -> dict[str, Any]:
    """Copy the model's configurations: Trainers change them."""
    names = [name for name in ("config", "generation_config") if hasattr(model, name)]
    return {name: copy.deepcopy(getattr(model, name)) for name in names}


def _check_finite(model: PreTrainedModel, settings: OptimizerSettings) -> None:
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise CaiError(
            "The last steps of the training left weights that are not finite. Lower "
            f"`learning_rate` (now {settings.learning_rate:g}) and run again."
        )


def _loss_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the first logged loss, and the mean over the last tenth of the logged ones."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-math.ceil(len(losses) / 10) :]
    return {"first_loss": losses[0], "final_loss": math.fsum(last) / len(last)}


def _add_callbacks(trainer: Trainer, run: Run) -> None:
    trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(run.log_dir))))
    if run.on_step is not None:
        trainer.add_callback(_StepCallback(run.on_step))


class _StepCallback(TrainerCallback):
    """Tells somebody how far the training is."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002 (the base class's signature)
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        loss = {"loss": logs["loss"]} if logs and "loss" in logs else {}
        self._on_step({"step": state.global_step, "steps": state.max_steps, **loss})
