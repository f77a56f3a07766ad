"""The one training loop: fine-tuning, preference model and harmfulness model are fitted by it.

A training brings its rows, a way to make a batch of them, and a loss for each row. Here is what
they share: order, micro-batches, processes, LoRA, checkpoints, logs.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, set_seed
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from cai.errors import CaiError
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.arguments import training_arguments
from cai.training.checkpoints import open_checkpoints, training_identity

T = TypeVar("T")

Row = Mapping[str, Any]
Batch = dict[str, Tensor]

Collate = Callable[[Sequence[Row]], Batch]
"""Makes a batch of B rows. Its `count`, `(B,)`, says over how many items each row's loss is summed:
tokens, pairs or ratings."""

Loss = Callable[[nn.Module, Batch], Tensor]
"""Returns the summed loss of each row, `(B,)`, from the model (as wrapped for several devices) and
a batch without its `count`."""

Finish = Callable[[PreTrainedModel, dict[str, Tensor]], Mapping[str, float]]
"""Measures and saves the trained model (in eval mode, LoRA merged), in the first process alone. It
gets the LoRA matrices as they were before the merge, too: `LAYER.lora_A` and `LAYER.lora_B` by the
layer's name in the backbone; none without LoRA."""

OnStep = Callable[[Mapping[str, float]], None]
"""Gets `step`, `steps` (how many there will be) and, once one is logged, `loss`."""

_FILLER = -1
_TIMEOUT = timedelta(minutes=30)
"""A process that the others have waited for so long ends the run. Measuring may take minutes."""


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    collate: Collate,
    loss: Loss,
    settings: OptimizerSettings,
    checkpoints: Path,
    *,
    base: ModelSettings,
    data: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None,
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
        checkpoints: The folder of the checkpoints; removed at the end.
        base: The model that `model` was made of; says on which device to train.
        data: The file that the rows are from; a checkpoint of other data is not resumed.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (below a thousand, at all).
        finish: Measures and saves.

    Returns:
        `steps`, `first_loss` and `final_loss` (the mean over the last tenth of the logged steps),
        and what `finish` returns; the same in all processes.

    Raises:
        CaiError: The loss or a weight is no longer finite, or the processes were launched in a way
            that is not supported.
    """
    check_launcher(os.environ)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT)

    def newest() -> Path | None:
        identity = training_identity(settings, data=data, base=base, seed=seed)
        return open_checkpoints(checkpoints, identity)

    resume_from = _from_main(state, newest)
    # Trainers change both.
    names = [name for name in ("config", "generation_config") if hasattr(model, name)]
    configs = {name: copy.deepcopy(getattr(model, name)) for name in names}
    arguments = training_arguments(
        settings,
        base=base,
        rows=len(rows),
        checkpoints=checkpoints,
        seed=seed,
        processes=state.num_processes,
    )
    trainer = FitTrainer(_with_lora(model, settings, arguments), arguments, rows, collate, loss)
    if state.is_main_process:
        trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(log_dir))))
        if on_step is not None:
            trainer.add_callback(_StepCallback(on_step))
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    adapter, trained = _merged(trainer.model)

    def finished() -> dict[str, float]:
        for name, value in configs.items():
            setattr(trained, name, value)
        if not all(torch.isfinite(parameter).all() for parameter in trained.parameters()):
            raise CaiError(
                "The last steps of the training left weights that are not finite. Lower "
                f"`learning_rate` (now {settings.learning_rate:g}) and run again."
            )
        measures = finish(trained.eval(), adapter)
        shutil.rmtree(checkpoints)
        return {"steps": trainer.state.global_step, **_loss_metrics(trainer), **measures}

    return _from_main(state, finished)


def check_launcher(variables: Mapping[str, str]) -> None:
    """Raise a CaiError if a launcher asks for what a training does not do.

    Args:
        variables: What Accelerate puts into the environment of the processes it starts.
    """
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if variables.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise CaiError(
                f"The launcher's configuration is for {kind}, which only PPO supports. Launch "
                "`sft`, `preference` and `harmfulness` with `ddp`; `lora_rank` and a small "
                "`micro_batch_size` save memory there."
            )
    precision = variables.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise CaiError(
            f"The launcher's configuration has `mixed_precision: {precision}`, but the arithmetic "
            'goes by the `dtype` of the model that is trained. Set `mixed_precision: "no"` there.'
        )


def _from_main(state: PartialState, make: Callable[[], T]) -> T:
    """Let the main process alone make something, and return it everywhere."""
    made = [make() if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(made)
    return cast("T", made[0])


class FitTrainer(Trainer):
    """transformers' trainer with the mean loss over a whole batch, on any number of processes."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: Sequence[Row],
        collate: Collate,
        loss: Loss,
    ) -> None:
        def collate_with_fillers(drawn: Sequence[tuple[Row, float]]) -> Batch:
            real = torch.tensor([share for _, share in drawn])
            return {**collate([row for row, _ in drawn]), "real": real}

        super().__init__(
            model=cast("Any", model),
            args=arguments,
            data_collator=cast("Any", collate_with_fillers),
            train_dataset=_Rows(rows),
        )
        self.remove_callback(PrinterCallback)
        self._loss = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ANN401, ARG002
        rows, args = len(cast("Any", self.train_dataset)), self.args
        together = args.per_device_train_batch_size * args.world_size
        fillers = -rows % together if args.world_size > 1 else 0
        return _Order(rows, fillers, args.seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the micro-batches of one step and how many items they hold, on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = sum((batch["count"] * batch["real"]).sum() for batch in batches)
        return batches, cast("Tensor", self.accelerator.gather(cast("Tensor", items))).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 (Trainer's contract)
        """Return this micro-batch's part of the mean; gradients are averaged over processes."""
        assert not return_outputs, "there is no evaluation"
        assert num_items_in_batch is not None, "`get_batch_samples` counts them"
        real, _ = inputs.pop("real"), inputs.pop("count")
        losses = self._loss(model, inputs) * real
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Run one forward and backward pass.

        Raises:
            CaiError: The loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise CaiError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}. Lower `learning_rate` (now {self.args.learning_rate:g}) "
                "and run again."
            )
        return loss


class _Rows(Dataset[tuple[Row, float]]):
    """Rows with weight 1, and the first row with weight 0 for those that only fill a batch."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Row, float]:
        return (self._rows[0], 0.0) if index == _FILLER else (self._rows[index], 1.0)


class _Order(Sampler[int]):
    """Each epoch's order, by the seed alone; fillers at the end give every process as many rows.

    Accelerate would fill up with rows that have been seen, and count them twice.
    """

    def __init__(self, rows: int, fillers: int, seed: int) -> None:
        self._rows, self._fillers, self._seed, self._epoch = rows, fillers, seed, 0

    def __len__(self) -> int:
        return self._rows + self._fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from [_FILLER] * self._fillers

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the loader calls it."""
        self._epoch = epoch


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


def _with_lora(
    model: PreTrainedModel, settings: OptimizerSettings, arguments: TrainingArguments
) -> nn.Module:
    """Return the model with LoRA on all linear layers, its scale (alpha over rank) 2, if asked.

    A score head is trained whole, because it starts from nothing.
    """
    if not settings.lora_rank:
        return model
    scores = hasattr(model, "score")
    adapters = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=["score"] if scores else None,
    )
    set_seed(arguments.seed)
    adapted = get_peft_model(model, adapters)
    if arguments.gradient_checkpointing:
        cast("Any", adapted).enable_input_require_grads()
    return adapted


def _merged(model: Any) -> tuple[dict[str, Tensor], PreTrainedModel]:  # noqa: ANN401
    """Return the LoRA matrices, if there are any, and the model with LoRA merged."""
    if not hasattr(model, "merge_and_unload"):
        return {}, model
    return _lora_matrices(model.get_base_model().base_model), model.merge_and_unload()


def _lora_matrices(backbone: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(layer, part)["default"].weight.detach().clone()
        for name, layer in backbone.named_modules()
        if isinstance(layer, LoraLayer)
        for part in ("lora_A", "lora_B")
    }


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """Silence what transformers says about choices that are made on purpose here."""
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _loss_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the first logged loss, and the mean over the last tenth of the logged ones."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-math.ceil(len(losses) / 10) :]
    return {"first_loss": losses[0], "final_loss": math.fsum(last) / len(last)}
