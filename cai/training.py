"""What fine-tuning and preference modelling share: data, checkpoints, trainer manners, saving."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
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

from cai.conversation import Conversation, Message
from cai.errors import CaiError
from cai.models import device_and_dtype, fingerprint_model
from cai.records import content_hash
from cai.settings import ModelSettings, OptimizerSettings

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=TrainingArguments)

_WARMUP_SHARE = 0.03
_MOST_WARMUP_STEPS = 100
_MOST_LOGGED_STEPS = 1000
_STATE = "trainer_state.json"
_IDENTITY = "identity.txt"


OnStep = Callable[[Mapping[str, float]], None]
"""Gets `step`, `steps` (how many there will be) and, once one is logged, `loss`."""


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


class QuietTrainer(Trainer):
    """Manners for TRL's trainers: no telemetry, no model cards, no going on after a broken loss."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
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

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Write none: a checkpoint is not a publication."""

    def _send_telemetry(self) -> None:
        """Send none: training runs offline and tells nobody."""


def micro_batch_size(settings: OptimizerSettings) -> int:
    """Return the sequences (or pairs) per forward pass.

    Raises:
        CaiError: The batch does not divide into such micro-batches.
    """
    micro = settings.micro_batch_size or settings.batch_size
    if settings.batch_size % micro:
        raise CaiError(
            f"`batch_size` {settings.batch_size} is not a multiple of `micro_batch_size` {micro}. "
            "Choose a `micro_batch_size` that divides it."
        )
    return micro


def read_rows(data: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file, these columns of them.

    Raises:
        CaiError: The file is missing, damaged, or lacks a column.
    """
    if not data.is_file():
        raise CaiError(
            f"The training data {data} does not exist. Run the stage that writes it first."
        )
    try:
        with pq.ParquetFile(data) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise CaiError(
                    f"{data} has no column `{missing[0]}`; its columns are "
                    f"{', '.join(file.schema_arrow.names)}. Training data needs "
                    f"{', '.join(columns)}."
                )
            for batch in file.iter_batches(columns=list(columns)):
                yield from cast("list[dict[str, Any]]", batch.to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise CaiError(
            f"{data} is not a whole parquet file ({error}). Delete it and run the stage "
            "that writes it again."
        ) from error


def conversation(row: dict[str, Any], column: str, data: Path) -> Conversation:
    """Return the messages in one column of a row.

    Raises:
        CaiError: They are no messages.
    """
    try:
        return tuple(Message.model_validate(message) for message in row[column])
    except (TypeError, ValidationError) as error:
        raise CaiError(
            f"Row {row['key']} of {data}: `{column}` is not a list of messages with `role` and "
            f"`content` ({str(error).splitlines()[0]}). Mend or remove the row."
        ) from error


def answer(row: dict[str, Any], column: str, data: Path) -> str:
    """Return the text of the one assistant message in a column of a row.

    Raises:
        CaiError: The column holds anything else.
    """
    messages = conversation(row, column, data)
    if [message.role for message in messages] != ["assistant"]:
        raise CaiError(
            f"Row {row['key']} of {data}: `{column}` must be one assistant message, and has the "
            f"roles {[message.role for message in messages]}. Earlier turns belong in `prompt`."
        )
    return messages[0].content


def longest_sequence(settings: OptimizerSettings, config: Any) -> int:  # noqa: ANN401
    """Return the tokens a row may have: `max_length`, or the model's context if that is shorter."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(settings.max_length, context or settings.max_length)


def no_rows_error(data: Path, settings: OptimizerSettings, too_long: int) -> CaiError:
    """Return the error for data of which nothing can be trained on."""
    if too_long:
        return CaiError(
            f"All {too_long} rows of {data} are longer than `max_length` {settings.max_length} or "
            "the model's context. Raise `max_length`, or take a model with a longer context."
        )
    return CaiError(
        f"{data} has no trainable rows. Look into the rows of the stage that writes it: their "
        "`state` says why each was left out."
    )


def training_identity(
    settings: OptimizerSettings, *, data: Path, base: ModelSettings, seed: int
) -> str:
    """Name everything that determines the weights a training ends with.

    Settings that change memory or safety only are not part of it, so a run that ran out of memory
    resumes with a smaller `micro_batch_size`.
    """
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    plain = settings.model_dump(exclude={"micro_batch_size", "checkpoint_steps"})
    kind = type(settings).__name__
    return content_hash(kind, plain, digest, fingerprint_model(base), base.dtype, seed)


def open_checkpoints(folder: Path, identity: str) -> Path | None:
    """Prepare the folder of checkpoints and return the newest one to resume from, if any.

    Checkpoints of another training (other data, settings, base model or seed) are removed, and so
    are torn ones, with a warning.
    """
    mark = folder / _IDENTITY
    ours = mark.is_file() and mark.read_text(encoding="utf-8") == identity
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    whole = [checkpoint for checkpoint in checkpoints if ours and _is_whole(checkpoint)]
    for checkpoint in checkpoints:
        if checkpoint not in whole:
            reason = "was not written to its end" if ours else "belongs to another training"
            logger.warning("Checkpoint %s %s; it is removed.", checkpoint, reason)
            shutil.rmtree(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity, encoding="utf-8")
    return whole[0] if whole else None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    """The trainer's state is written last, so a checkpoint that has it whole has everything."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step") == _step(checkpoint)


def _schedule(settings: OptimizerSettings) -> dict[str, Any]:
    """Return the learning rate's schedule as transformers names it; the warm-up comes first."""
    if settings.final_learning_rate == 1:
        return {"lr_scheduler_type": "constant_with_warmup"}
    end = settings.final_learning_rate * settings.learning_rate
    return {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": end, "power": 1.0}}


def training_arguments(
    kind: type[A],
    settings: OptimizerSettings,
    *,
    base: ModelSettings,
    rows: int,
    checkpoints: Path,
    seed: int,
    **more: Any,  # noqa: ANN401 (the arguments of one trainer alone)
) -> A:
    """Translate our settings into TRL's.

    The learning rate comes after a warm-up of 3% of the steps and is constant, as in the paper
    (section 3.5), unless `final_learning_rate` says otherwise. Weights and optimiser are float32;
    on a GPU the arithmetic is bfloat16 by autocast.
    """
    micro = micro_batch_size(settings)
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    device, dtype = device_and_dtype(base)
    on_cpu = device.type == "cpu"
    arguments = kind(
        output_dir=str(checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        **_schedule(settings),
        warmup_steps=min(_MOST_WARMUP_STEPS, int(_WARMUP_SHARE * steps)),
        optim="adamw_torch",
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        bf16=not on_cpu and dtype == torch.bfloat16,
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=math.ceil(steps / _MOST_LOGGED_STEPS),
        # Filtered, a loss that is not a number would be logged as the mean of the others.
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    # Trainer would spread over all visible GPUs with DataParallel, which TRL refuses.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # pyright: ignore[reportPrivateUsage]
    return arguments


def lora(settings: OptimizerSettings, task: str, heads: Sequence[str] = ()) -> LoraConfig | None:
    """Return LoRA on all linear layers, or None to train all weights.

    Args:
        settings: Their `lora_rank` is the rank; the scale (alpha over rank) is 2.
        task: PEFT's name of the task.
        heads: Modules to train whole, because they start from nothing.
    """
    if not settings.lora_rank:
        return None
    return LoraConfig(
        task_type=task,
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=list(heads) or None,
    )


def train_to_the_end(
    trainer: Trainer,
    *,
    resume_from: Path | None,
    log_dir: Path,
    on_step: OnStep | None = None,
    adapter: dict[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """Train silently, with TensorBoard logs, and return the model, LoRA merged.

    Args:
        trainer: Holds model and data.
        resume_from: A checkpoint, or None.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.
        adapter: Gets the LoRA matrices as they were before the merge, if there are any:
            `LAYER.lora_A` and `LAYER.lora_B` by the layer's name in the backbone.

    Raises:
        CaiError: The loss or a weight is no longer finite.
    """
    trainer.remove_callback(PrinterCallback)
    if on_step is not None:
        trainer.add_callback(_StepCallback(on_step))
    trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(log_dir))))
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    model = cast("Any", trainer.model)
    if hasattr(model, "merge_and_unload"):
        if adapter is not None:
            adapter.update(_lora_matrices(model.get_base_model().base_model))
        model = model.merge_and_unload()
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise CaiError(
            "The last steps of the training left weights that are not finite. Lower "
            f"`learning_rate` (now {trainer.args.learning_rate:g}) and run again."
        )
    return cast("PreTrainedModel", model.eval())


def _lora_matrices(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
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


def loss_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the first logged loss, and the mean over the last tenth of the logged ones."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-math.ceil(len(losses) / 10) :]
    return {"first_loss": losses[0], "final_loss": math.fsum(last) / len(last)}
