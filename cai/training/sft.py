"""Fine-tuning on revisions and helpful samples: the last step of the supervised stage.

The paper's section 3.5: one epoch of next-token prediction on prompt → revision at a constant
learning rate. Only the answer's tokens and the turn end carry loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from cai.chat import ChatFormat
from cai.conversation import Prompt
from cai.models import load_causal_lm, load_chat_format
from cai.records import content_hash
from cai.settings import ModelSettings, SftSettings
from cai.store import whole_folder
from cai.training.arguments import micro_batch_size
from cai.training.data import answer, conversation, longest_sequence, no_rows_error, read_rows
from cai.training.fit import OnStep, fit
from cai.training.preference_model import pad_right

COLUMNS = ("key", "kind", "prompt", "completion", "ended")
NO_LOSS = -100
"""The label of tokens that carry no loss: prompts and padding."""


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
    experts = _weight_of_balance(model.config)
    add_fused_lm_head(model)
    metrics = fit(
        model,
        rows,
        partial(collate_completions, pad_id=chat.pad_id),
        partial(completion_loss, experts=experts),
        settings,
        out.parent / "checkpoints",
        base=base,
        data=data,
        seed=seed,
        log_dir=log_dir,
        on_step=on_step,
        finish=lambda trained, _: _save(trained, chat, out),
    )
    return {
        "rows": len(rows),
        "rows_too_long": too_long,
        "rows_unmixed": unmixed,
        "tokens": settings.epochs * sum(len(row["input_ids"]) for row in rows),
        "seconds": time.monotonic() - start,
        **metrics,
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


def collate_completions(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right; what is padding is said by mask and labels, never by the pad id.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each `(B, T)` int64; and `count`, `(B,)`: the
        tokens of each row that carry loss.
    """
    input_ids, attention_mask = pad_right([row["input_ids"] for row in rows], pad_id)
    targets = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
    labels = pad_sequence(targets, batch_first=True, padding_value=NO_LOSS)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "count": (labels[:, 1:] != NO_LOSS).sum(1),
    }


def completion_loss(model: nn.Module, batch: dict[str, Tensor], experts: float) -> Tensor:
    """Return minus the log-likelihood of each row's completion, `(B,)`, in nats.

    The output layer runs only where a token carries loss (TRL's fused head). Models with a mixture
    of experts add their own loss that balances the load, with the weight `experts`.
    """
    more = {"output_router_logits": True} if experts else {}
    outputs = model(**batch, **more, fused_lm_head=True)
    losses = -outputs.log_probs.sum(1)
    if experts:
        losses = losses + experts * outputs.aux_loss * outputs.label_mask.sum(1)
    return losses


def _weight_of_balance(config: PretrainedConfig) -> float:
    """Return the weight of the loss that balances a model's experts; 0 if it has none."""
    text = config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return 0.0
    return getattr(text, "router_aux_loss_coef", 0.0)


def _save(model: PreTrainedModel, chat: ChatFormat, out: Path) -> dict[str, float]:
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        cast("Any", chat.tokenizer).save_pretrained(folder)
    return {}
