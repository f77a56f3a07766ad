"""The training loop of fine-tuning, preference model and harmfulness model."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
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
from cai.settings import OptimizerSettings
from cai.training.arguments import (
    OnStep,
    Run,
    Snapshots,
    computes_in_bfloat16,
    training_arguments,
)
from cai.training.checkpoints import (
    open_checkpoints,
    training_identity,
)
from cai.training.lora import merged, with_lora
from cai.training.processes import Processes
from cai.training.sharding import without_weights
from cai.training.snapshots import snapshot_folder, tidy_snapshots
from cai.training.split_trainer import under_autocast
from cai.training.trainer import Collate, FitTrainer, Loss, Row, quiet_transformers

Finish = Callable[[PreTrainedModel, dict[str, Tensor]], Mapping[str, float]]
"""Measures and saves the trained model (in eval mode, LoRA merged), in the first process only. It
also gets the LoRA matrices before the merge, see `AdapterWeights`; none without LoRA."""


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    collate: Collate,
    loss: Loss,
    settings: OptimizerSettings,
    run: Run,
    finish: Finish,
) -> dict[str, float]:
    """Minimise the mean loss over the items of each batch; then measure and save the model.

    The mean is over the whole batch: it does not depend on micro-batches or processes. A killed
    training goes on from its last checkpoint when it is called again in the same way. The model
    is in float32.

    Returns:
        `steps`, `first_loss` and `final_loss` (the mean over the last tenth of the logged steps),
        and what `finish` returns; the same in all processes.

    Raises:
        CaiError: The loss or a weight is no longer finite, or the launcher is not supported.
    """
    group = Processes.for_trainer()
    resume_from = group.from_main(
        lambda: open_checkpoints(run.checkpoints, training_identity(settings, run))
    )
    # Trainers change the configurations.
    names = [name for name in ("config", "generation_config") if hasattr(model, name)]
    configs = {name: copy.deepcopy(getattr(model, name)) for name in names}
    arguments = training_arguments(
        settings, run, rows=len(rows), longest=max(map(_tokens, rows)), group=group, model=model
    )
    adapted = with_lora(model, settings, arguments)
    hollow = without_weights(adapted) if group.sharded and group.is_main else None
    if group.splits and computes_in_bfloat16(run.base):
        under_autocast(adapted, arguments.device.type)
    trainer = FitTrainer(adapted, arguments, rows, collate, loss)
    if group.is_main:
        trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(run.log_dir))))
        trainer.add_callback(_StepCallback(run.on_step or (lambda _: None)))
    if run.snapshots and run.snapshots.every:
        keep = partial(_keep, trainer, hollow, configs, run.snapshots)
        trainer.add_callback(_SnapshotCallback(run.snapshots.every, keep))
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    whole = trainer.whole_model(hollow)

    def finished() -> dict[str, float]:
        adapter, trained = merged(whole)
        vars(trained).update(configs)
        _check_finite(trained, settings)
        measures = finish(trained.eval(), adapter)
        shutil.rmtree(run.checkpoints)
        if kept := run.snapshots:
            tidy_snapshots(kept.stage, kept.every, last=trainer.state.global_step - 1)
        return {"steps": trainer.state.global_step, **_loss_metrics(trainer), **measures}

    return group.from_main(finished)


def _keep(
    trainer: FitTrainer,
    hollow: nn.Module | None,
    configs: Mapping[str, Any],
    snapshots: Snapshots,
    step: int,
) -> None:
    """Save the policy after some steps; all processes must call this."""
    whole: Any = trainer.whole_model(hollow)
    if not trainer.args.should_save:
        return
    # Merging LoRA changes the model, so a copy is merged.
    policy = merged(copy.deepcopy(whole))[1] if hasattr(whole, "merge_and_unload") else whole
    training = {name: getattr(policy, name) for name in configs}
    vars(policy).update(configs)
    snapshots.save(policy, snapshot_folder(snapshots.stage, step))
    vars(policy).update(training)


def _tokens(row: Row) -> int:
    """Return the tokens that a row takes in a batch, its sequences padded to the longest."""
    lengths = [len(value) for name, value in row.items() if name.endswith("ids")]
    return len(lengths) * max(lengths)


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


class _StepCallback(TrainerCallback):
    """Calls `on_step` at each logged step."""

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


class _SnapshotCallback(TrainerCallback):
    """Calls `keep` after every so many steps, in all processes; not after the last one."""

    def __init__(self, every: int, keep: Callable[[int], None]) -> None:
        self._every = every
        self._keep = keep

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002 (the base class's signature)
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        step = state.global_step
        if step % self._every == 0 and step < state.max_steps:
            self._keep(step)
