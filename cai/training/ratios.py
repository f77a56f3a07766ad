"""Train a policy on log-ratios to the policy at the start: DPO and KTO.

Rows are pairs of sequences with one prompt. The log-likelihoods of the reference, which is the
model that the training starts from, are computed once, before the first step. So no second model is
in memory, with LoRA or without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from cai.models.chat import ChatFormat
from cai.models.loading import device_and_dtype, load_causal_lm, load_chat_format
from cai.settings import ModelSettings, OptimizerSettings
from cai.training.arguments import OnStep, Run, micro_batch_size
from cai.training.data import longest_sequence, no_rows_error
from cai.training.fit import fit
from cai.training.policies import save_policy, snapshots_of
from cai.training.preference_data import Pairs, collate_pairs, training_rows
from cai.training.processes import Processes
from cai.training.sft_data import NO_LOSS
from cai.training.trainer import Collate, Loss

MEASURED = 256
"""Pairs, at most, on which log-ratios are measured at the end."""

Row = dict[str, Any]
Read = Callable[[ChatFormat, int], Pairs]
"""Gets how conversations are written, and the longest sequence."""
Measure = Callable[[Tensor, Tensor], dict[str, float]]
"""Gets the log-ratios of pairs, `(N, 2)` nats, and the labels, `(N,)`."""


def train_on_ratios(
    settings: OptimizerSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None,
    read: Read,
    loss: Loss,
    measure: Measure,
) -> dict[str, float]:
    """Train a policy and save it, in float32, in `out`.

    Args:
        settings: How to train.
        data: The file of the rows.
        base: The policy to start from, which is the reference too.
        out: The folder of the new policy.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.
        read: Reads the rows.
        loss: Of a batch of `collate_with_labels`, one number for each pair.
        measure: Of log-ratios at the end, on at most `MEASURED` rows that were trained on
            (`train_…`) and on those held out (`held_out_…`).

    Raises:
        CaiError: The settings, data or base cannot be used, or the loss is no longer finite.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat = load_chat_format(base)
    model = load_causal_lm(base.model_copy(update={"dtype": "float32"}), device="cpu")
    pairs = read(chat, longest_sequence(settings, model.config))
    if not pairs.train:
        raise no_rows_error(data, settings, pairs.too_long)
    add_fused_lm_head(model)
    rows = training_rows(pairs.train)
    measured = {"train": rows[:MEASURED], "held_out": training_rows(pairs.held_out)}
    collate = partial(collate_with_labels, pad_id=chat.pad_id)
    _add_references(model, base, (rows, measured["held_out"]), collate, micro)

    def finish(trained: PreTrainedModel, _: Mapping[str, Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, some in measured.items():
            if some:
                now = torch.stack(list(_likelihoods(trained, some, collate, micro)))
                ratios = now - torch.stack([row["reference"] for row in some])
                labels = torch.tensor([row["probability"] for row in some])
                found |= {f"{name}_{key}": x for key, x in measure(ratios, labels).items()}
        save_policy(trained, out, chat)
        return found

    metrics = fit(
        model,
        rows,
        collate,
        loss,
        settings,
        Run(
            base,
            data,
            seed,
            out.parent / "checkpoints",
            log_dir,
            on_step,
            snapshots_of(settings, chat, out.parent),
        ),
        finish,
    )
    return {**pairs.counts(settings.epochs), **metrics, "seconds": time.monotonic() - start}


def _add_references(
    model: PreTrainedModel,
    base: ModelSettings,
    groups: Sequence[Sequence[Row]],
    collate: Collate,
    micro: int,
) -> None:
    """Add to each row the `reference`: the log-likelihoods of its responses now, `(2,)` nats."""

    def found() -> list[list[Tensor]]:
        nn.Module.to(model, device_and_dtype(base)[0])
        likelihoods = [list(_likelihoods(model, rows, collate, micro)) for rows in groups]
        nn.Module.to(model, "cpu")
        return likelihoods

    for rows, likelihoods in zip(groups, Processes.for_trainer().from_main(found), strict=True):
        for row, likelihood in zip(rows, likelihoods, strict=True):
            row["reference"] = likelihood


def log_likelihoods(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the log-likelihood of each row's response, `(2B,)` nats, turn end included."""
    return model(**batch, fused_lm_head=True).log_probs.sum(1)


def collate_with_labels(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """Do as `collate_pairs`, with what the likelihood of responses needs.

    Returns:
        Besides, `labels` `(2B, T)` (`NO_LOSS` on prompts and padding), `tokens` `(2B,)` (of the
        responses), and `reference` `(2B,)` (log-likelihoods in nats, where the rows have them).
    """
    batch = collate_pairs(rows, pad_id)
    sides = [(row, side) for side in ("chosen_ids", "rejected_ids") for row in rows]
    labels: list[Tensor] = []
    for row, side in sides:
        own = torch.tensor(row[side], dtype=torch.long)
        own[: row["prompt_tokens"]] = NO_LOSS
        labels.append(own)
    batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=NO_LOSS)
    batch["tokens"] = torch.tensor([len(row[side]) - row["prompt_tokens"] for row, side in sides])
    if "reference" in rows[0]:
        batch["reference"] = torch.stack([row["reference"] for row in rows]).T.flatten()
    return batch


def _likelihoods(
    model: nn.Module,
    rows: Sequence[Row],
    collate: Collate,
    micro: int,
) -> Iterator[Tensor]:
    """Yield the log-likelihoods of each row's two responses, `(2,)`, without gradients."""
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), micro):
            batch = collate(rows[start : start + micro])
            inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask", "labels")}
            yield from log_likelihoods(model, inputs).float().cpu().view(2, -1).T
