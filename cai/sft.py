"""Fine-tuning on revisions and helpful samples: the last step of the supervised stage.

The paper's section 3.5: one epoch of next-token prediction on prompt → revision at a constant
learning rate. Only the answer's tokens and the turn end carry loss.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from cai.chat import ChatFormat
from cai.conversation import Prompt
from cai.models import load_causal_lm, load_chat_format
from cai.records import content_hash
from cai.settings import ModelSettings, SftSettings
from cai.store import whole_folder
from cai.training import (
    OnStep,
    QuietTrainer,
    answer,
    conversation,
    longest_sequence,
    lora,
    loss_metrics,
    micro_batch_size,
    no_rows_error,
    open_checkpoints,
    read_rows,
    train_to_the_end,
    training_arguments,
    training_identity,
)

COLUMNS = ("key", "kind", "prompt", "completion", "ended")
NO_LOSS = -100
"""The label of tokens that carry no loss: prompts and padding."""


class CompletionTrainer(QuietTrainer, SFTTrainer):
    """TRL's trainer for supervised fine-tuning, without its telemetry."""


def train_sft(
    settings: SftSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Fine-tune `base` on prompts and completions and save the model, in float32, in `out`.

    A killed training goes on from its last checkpoint when it is called again in the same way.

    Args:
        settings: How to train.
        data: Parquet with `key`, `kind`, `prompt` (messages), `completion` (one assistant message)
            and `ended` (False where the completion was cut off: no turn end is trained there).
        base: The model to start from.
        out: The folder of the new model; seen whole or not at all. Checkpoints are beside it.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (below a thousand, at all) with `step`, `steps`, `loss`.

    Returns:
        `steps`, `rows`, `rows_too_long` and `rows_unmixed` (left out: longer than the limit, and
        helpful rows beyond `helpful_ratio`), `tokens` (with prompts, over all epochs),
        `seconds` (of this call), `first_loss` and `final_loss` (nats per token; the mean over the
        last tenth of the logged steps).

    Raises:
        CaiError: The settings, data or base cannot be used, or the loss is no longer finite.
    """
    start = time.monotonic()
    micro_batch_size(settings)
    chat = load_chat_format(base)
    model = load_causal_lm(base.model_copy(update={"dtype": "float32"}), device="cpu")
    mixed, unmixed = mixture(list(read_rows(data, COLUMNS)), settings.helpful_ratio, seed)
    rows, too_long = completion_rows(mixed, data, chat, longest_sequence(settings, model.config))
    if not rows:
        raise no_rows_error(data, settings, too_long)
    checkpoints = out.parent / "checkpoints"
    identity = training_identity(settings, data=data, base=base, seed=seed)
    resume_from = open_checkpoints(checkpoints, identity)
    configs = copy.deepcopy((model.config, model.generation_config))
    trainer = CompletionTrainer(
        model=model,
        args=training_arguments(
            SFTConfig,
            settings,
            base=base,
            rows=len(rows),
            checkpoints=checkpoints,
            seed=seed,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        data_collator=CompletionCollator(chat.pad_id),
        train_dataset=Dataset.from_list(rows),
        processing_class=cast("Any", copy.deepcopy(chat.tokenizer)),
        peft_config=lora(settings, "CAUSAL_LM"),
    )
    trained = train_to_the_end(trainer, resume_from=resume_from, log_dir=log_dir, on_step=on_step)
    # Trainers align the EOS and pad ids with the tokenizer; the base model's stay ours.
    trained.config, trained.generation_config = configs
    _save(trained, chat, out)
    shutil.rmtree(checkpoints)
    return {
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "rows_too_long": too_long,
        "rows_unmixed": unmixed,
        "tokens": settings.epochs * sum(len(row["input_ids"]) for row in rows),
        "seconds": time.monotonic() - start,
        **loss_metrics(trainer),
    }


def mixture(
    rows: Sequence[dict[str, Any]], helpful_ratio: float, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Keep at most `helpful_ratio` helpful rows per revision (all, where there are no revisions).

    The paper mixed 27 helpful samples with 73 revisions (section 3.2). Which ones are kept is a
    ranking by hash, so that a few rows more or less change few of them.

    Returns:
        The rows in their order, and how many helpful ones were left out.
    """
    helpful = [row["key"] for row in rows if row["kind"] == "helpful"]
    revisions = len(rows) - len(helpful)
    most = math.floor(helpful_ratio * revisions) if revisions else len(helpful)
    kept = set(sorted(helpful, key=lambda key: content_hash("mixture", seed, key))[:most])
    mixed = [row for row in rows if row["kind"] != "helpful" or row["key"] in kept]
    return mixed, len(rows) - len(mixed)


def completion_rows(
    rows: Sequence[dict[str, Any]], data: Path, chat: ChatFormat, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Tokenise training data.

    Args:
        rows: See `train_sft`.
        data: The file they are from, for error messages.
        chat: How the model writes conversations.
        max_length: Longer rows are left out.

    Returns:
        Rows of `input_ids` and `labels` (`(T,)` int32; labels are `NO_LOSS` on the prompt), and how
        many rows were too long.

    Raises:
        CaiError: The file is no training data.
    """
    tokenised: list[dict[str, Any]] = []
    too_long = 0
    for row in rows:
        prompt = chat.prompt_ids(Prompt(conversation(row, "prompt", data)))
        completion = chat.completion_ids(answer(row, "completion", data), end=row["ended"])
        if len(prompt) + len(completion) > max_length:
            too_long += 1
            continue
        tokenised.append(
            {
                "input_ids": np.array([*prompt, *completion], dtype=np.int32),
                "labels": np.array([NO_LOSS] * len(prompt) + completion, dtype=np.int32),
            }
        )
    return tokenised, too_long


@dataclass(frozen=True)
class CompletionCollator:
    """Pads rows on the right; what is padding is said by mask and labels, never by the pad id."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, each `(B, T)` int64."""
        ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
        labels = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
        masks = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence(masks, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=NO_LOSS),
        }


def _save(model: PreTrainedModel, chat: ChatFormat, out: Path) -> None:
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        cast("Any", chat.tokenizer).save_pretrained(folder)
