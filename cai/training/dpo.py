"""Direct preference optimisation on soft labels: a policy from comparisons, without a reward model.

Rafailov et al. 2023. The reference is the model that the training starts from. Its log-likelihoods
are computed once, before the first step, so no second model is in memory, with LoRA or without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from cai.models.loading import device_and_dtype, load_causal_lm, load_chat_format
from cai.settings import DpoSettings, ModelSettings
from cai.training.arguments import OnStep, Run, micro_batch_size
from cai.training.data import longest_sequence, no_rows_error
from cai.training.dpo_losses import PAIR_LOSSES, expected_loss
from cai.training.fit import fit
from cai.training.preference_data import collate_pairs, read_pairs, training_rows
from cai.training.processes import Processes
from cai.training.sft import save_policy
from cai.training.sft_data import NO_LOSS
from cai.training.trainer import Collate

MEASURED = 256
"""Pairs, at most, on which log-ratios are measured at the end."""

Row = dict[str, Any]


def train_dpo(
    settings: DpoSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train a policy on comparisons and save it, in float32, in `out`.

    Args:
        settings: How to train.
        data: See `train_preference`.
        base: The policy to start from, which is the reference too.
        out: The folder of the new policy.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.

    Returns:
        The counts of `train_preference`, `first_loss` and `final_loss` (per pair), `seconds`, and
        on up to 256 pairs that were trained on (`train_…`) and on those held out (`held_out_…`):
        `accuracy` (the share of pairs whose label is not one half in which the likelier response
        has the larger log-ratio), `chosen_log_ratio` and `rejected_log_ratio` (means in nats; both
        can fall, and then probability moves to other responses), and `margin`, their difference.

    Raises:
        CaiError: The settings, data or base cannot be used, or the loss is no longer finite.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat = load_chat_format(base)
    model = load_causal_lm(base.model_copy(update={"dtype": "float32"}), device="cpu")
    pairs = read_pairs(data, chat, settings, longest_sequence(settings, model.config))
    if not pairs.train:
        raise no_rows_error(data, settings, pairs.too_long)
    add_fused_lm_head(model)
    rows = training_rows(pairs.train)
    measured = {"train": rows[:MEASURED], "held_out": training_rows(pairs.held_out)}
    groups = (rows, measured["held_out"])
    collate = partial(collate_with_labels, pad_id=chat.pad_id)
    device = device_and_dtype(base)[0]

    def references() -> list[list[Tensor]]:
        nn.Module.to(model, device)
        found = [list(_likelihoods(model, some, collate, micro)) for some in groups]
        nn.Module.to(model, "cpu")
        return found

    known = Processes.for_trainer().from_main(references)
    for some, likelihoods in zip(groups, known, strict=True):
        for row, likelihood in zip(some, likelihoods, strict=True):
            row["reference"] = likelihood

    def finish(trained: PreTrainedModel, _: Mapping[str, Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, some in measured.items():
            now = list(_likelihoods(trained, some, collate, micro))
            found |= {f"{name}_{key}": value for key, value in _measures(some, now).items()}
        save_policy(trained, chat, out)
        return found

    metrics = fit(
        model,
        rows,
        collate,
        partial(dpo_loss, settings=settings),
        settings,
        Run(base, data, seed, out.parent / "checkpoints", log_dir, on_step),
        finish,
    )
    return {**pairs.counts(settings.epochs), **metrics, "seconds": time.monotonic() - start}


def dpo_loss(model: nn.Module, batch: dict[str, Tensor], settings: DpoSettings) -> Tensor:
    """Return each pair's expected loss under its label, weighted, `(B,)`."""
    probability, weight = batch.pop("probability"), batch.pop("weight")
    reference, tokens = batch.pop("reference"), batch.pop("tokens")
    ratios = log_likelihoods(model, batch) - reference
    if settings.normalises_length:
        ratios = ratios / tokens
    first, second = ratios.chunk(2)
    loss = PAIR_LOSSES[settings.loss]
    return weight * expected_loss(loss, first, second, probability, settings.beta)


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


def _measures(rows: Sequence[Row], now: Sequence[Tensor]) -> dict[str, float]:
    if not rows:
        return {}
    ratios = torch.stack(list(now)) - torch.stack([row["reference"] for row in rows])
    labels = torch.tensor([row["probability"] for row in rows])
    told = labels != 0.5
    margins = ratios[:, 0] - ratios[:, 1]
    right = ((margins > 0) == (labels > 0.5))[told]
    accuracy = {"accuracy": right.float().mean().item()} if told.any() else {}
    return {
        **accuracy,
        "chosen_log_ratio": ratios[:, 0].mean().item(),
        "rejected_log_ratio": ratios[:, 1].mean().item(),
        "margin": margins.mean().item(),
    }
