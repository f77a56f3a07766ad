"""Preference modelling on soft labels: AI harmlessness and human helpfulness comparisons.

Paper, section 4.2: the targets are the feedback model's probabilities, not its verdicts.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from cai.chat import ChatFormat
from cai.errors import CaiError
from cai.models import fingerprint_model, load_chat_format, model_folder, without_dropout
from cai.preference_data import Pair, PairCollator, Pairs, read_pairs, training_rows
from cai.preference_model import (
    PreferenceModel,
    last_token_scores,
    reset_score_head,
    save_adapter,
    soft_bradley_terry_loss,
)
from cai.settings import ModelSettings, PreferenceSettings
from cai.store import whole_folder
from cai.training import (
    OnStep,
    QuietTrainer,
    longest_sequence,
    lora,
    loss_metrics,
    micro_batch_size,
    no_rows_error,
    open_checkpoints,
    quiet_transformers,
    train_to_the_end,
    training_arguments,
    training_identity,
)

CONFIDENT = 0.75
"""Labels from here on count when accuracy on the training data is measured."""

_MOST_MEASURED = 2048
_REFERENCE_PAIRS = 256


class SoftPreferenceTrainer(QuietTrainer, RewardTrainer):
    """TRL's reward trainer with probabilities for labels; its metrics are kept."""

    loss_is_scaled_for_ga = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the micro-batches of one step and how many pairs they hold, on all devices."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = torch.tensor(sum(len(batch["probability"]) for batch in batches), device=device)
        return batches, cast("Tensor", self.accelerator.gather(pairs)).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 (Trainer's contract: the loss, or the loss and the outputs)
        """Return the soft-label loss, averaged over the pairs of the whole step.

        So it does not depend on how a batch is split into micro-batches.
        """
        probability, weight = inputs.pop("probability"), inputs.pop("weight")
        _, outputs = cast("Any", super().compute_loss(model, inputs, return_outputs=True))
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        losses = soft_bradley_terry_loss(chosen - rejected, probability, weight)
        pairs = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() * self.accelerator.num_processes / pairs
        return (loss, outputs) if return_outputs else loss


def train_preference(
    settings: PreferenceSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train a preference model on comparisons and save it, in float32, in `out`.

    A killed training goes on from its last checkpoint when it is called again in the same way. From
    100 rows on, 5% of the prompts are held out and measured.

    Args:
        settings: How to train.
        data: Parquet with `key`, `source` (`ai` or `human`), `prompt` (messages), `chosen` and
            `rejected` (one assistant message each) and `chosen_probability`.
        base: The language model to start from; its head is replaced.
        out: The folder of the new model; seen whole or not at all. Checkpoints are beside it.
        seed: Sets the order of the rows, the score head and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (below a thousand, at all) with `step`, `steps`, `loss`.

    Returns:
        `steps`, `rows` (trained on), `rows_held_out`, `rows_too_long` (left out), `tokens` (of both
        responses with prompts, over all epochs), `seconds` (of this call), `first_loss` and
        `final_loss` (nats per pair; the mean over the last tenth of the logged steps),
        `score_mean` and `score_std` (of raw scores), and as far as there are such rows
        `train_accuracy` (on up to 256 pairs labelled 0.75 or more), `held_out_loss`,
        `held_out_accuracy` (over labels other than one half) and `held_out_calibration_error`.

    Raises:
        CaiError: The settings, data or base cannot be used, the loss is no longer finite, or all
            responses ended with the same score.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat = load_chat_format(base)
    model = new_preference_model(base, seed=seed)
    pairs = read_pairs(data, chat, settings, longest_sequence(settings, model.config))
    if not pairs.train:
        raise no_rows_error(data, settings, pairs.too_long)
    checkpoints = out.parent / "checkpoints"
    identity = training_identity(settings, data=data, base=base, seed=seed)
    resume_from = open_checkpoints(checkpoints, identity)
    config = copy.deepcopy(model.config)
    trainer = SoftPreferenceTrainer(
        model=read_scores_by_mask(model),
        args=training_arguments(
            RewardConfig,
            settings,
            base=base,
            rows=len(pairs.train),
            checkpoints=checkpoints,
            seed=seed,
            max_length=None,
        ),
        data_collator=PairCollator(chat.pad_id),
        train_dataset=Dataset.from_list(training_rows(pairs.train)),
        processing_class=_with_pad_token(chat),
        peft_config=lora(settings, "SEQ_CLS", heads=("score",)),
    )
    adapter: dict[str, Tensor] = {}
    trained = train_to_the_end(
        trainer, resume_from=resume_from, log_dir=log_dir, on_step=on_step, adapter=adapter
    )
    trained.config = config
    preference_model = normalised(trained, chat, _reference(pairs.train), micro)
    measures = _measures(preference_model, pairs, micro)
    _save(preference_model, out, adapter, fingerprint_model(base))
    shutil.rmtree(checkpoints)
    return {
        "steps": trainer.state.global_step,
        "rows": len(pairs.train),
        "rows_held_out": len(pairs.held_out),
        "rows_too_long": pairs.too_long,
        "tokens": settings.epochs * sum(len(p.chosen) + len(p.rejected) for p in pairs.train),
        **loss_metrics(trainer),
        "score_mean": preference_model.mean,
        "score_std": preference_model.std,
        **measures,
        "seconds": time.monotonic() - start,
    }


def new_preference_model(base: ModelSettings, *, seed: int) -> PreTrainedModel:
    """Load a language model with a new score head in place of its vocabulary head, in float32.

    Raises:
        CaiError: The folder is unusable, or the model cannot carry a score head.
    """
    folder = model_folder(base)
    config = without_dropout(AutoConfig.from_pretrained(folder, num_labels=1))
    with quiet_transformers():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    missing = [name for name in report["missing_keys"] if not name.startswith("score.")]
    if missing:
        raise CaiError(
            f"The weights in {folder} lack {len(missing)} tensors of a decoder model, {missing[0]} "
            "for one. Check that config.json and the weights belong together."
        )
    reset_score_head(model, seed=seed)
    return model


def read_scores_by_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model's own forward pass return `last_token_scores`, and return the model.

    Trainers, adapters and wrappers for several devices all go through the forward pass, so all of
    them score as `PreferenceModel` does.
    """

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:  # noqa: ANN401
        scores = last_token_scores(model, input_ids, attention_mask)
        return SequenceClassifierOutput(logits=cast("Any", scores[:, None]))

    model.forward = forward
    return model


def normalised(
    model: PreTrainedModel, chat: ChatFormat, reference: Sequence[Pair], micro_batch_size: int
) -> PreferenceModel:
    """Return the preference model whose scores have mean 0 and standard deviation 1 on a sample.

    Raises:
        CaiError: All scores of the sample are the same, or not finite.
    """
    raw = PreferenceModel(model, chat)
    sequences = [side.tolist() for pair in reference for side in (pair.chosen, pair.rejected)]
    scores = raw.raw_scores(sequences, micro_batch_size).double()
    mean, std = scores.mean().item(), scores.std(correction=0).item()
    if not (math.isfinite(mean) and std > 0):
        raise CaiError(
            f"The preference model gives its training responses no usable scores (mean {mean:g}, "
            f"standard deviation {std:g}). Check that chosen and rejected responses differ, and "
            "lower `preference.learning_rate`."
        )
    return PreferenceModel(model, chat, mean=mean, std=std)


def calibration_error(
    predicted: NDArray[np.float64], label: NDArray[np.float64], bins: int = 10
) -> float:
    """Return the expected calibration error of predicted preferences.

    Each pair counts in both orders: which response is called chosen was decided by the label, and
    a model that knows nothing must not be blamed for that.

    Args:
        predicted: `(N,)` in [0, 1], that the chosen response is better, by the model.
        label: `(N,)` in [0, 1], the same by the data.
        bins: Bins of equal width over [0, 1].

    Returns:
        The mean over pairs of |mean prediction − mean label| in the pair's bin, in [0, 1].
    """
    both = np.concatenate([predicted, 1 - predicted])
    target = np.concatenate([label, 1 - label])
    places = np.minimum((both * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=both - target, minlength=bins)
    return float(np.abs(gaps).sum() / len(both))


def _reference(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Take up to 256 pairs, evenly spread."""
    return pairs[:: math.ceil(len(pairs) / _REFERENCE_PAIRS)]


def _measures(model: PreferenceModel, pairs: Pairs, micro_batch_size: int) -> dict[str, float]:
    """Measure accuracy on confident training pairs, and everything on held-out ones."""
    measures: dict[str, float] = {}
    confident = [pair for pair in _reference(pairs.train) if pair.probability >= CONFIDENT]
    if confident:
        measures["train_accuracy"] = float((_deltas(model, confident, micro_batch_size) > 0).mean())
    held_out = pairs.held_out[:_MOST_MEASURED]
    if held_out:
        delta = _deltas(model, held_out, micro_batch_size)
        label = np.array([pair.probability for pair in held_out])
        told = label != 0.5
        loss = soft_bradley_terry_loss(
            torch.from_numpy(delta), torch.from_numpy(label), torch.ones(len(label))
        )
        measures["held_out_loss"] = loss.mean().item()
        measures["held_out_calibration_error"] = calibration_error(1 / (1 + np.exp(-delta)), label)
        if told.any():
            right = (delta > 0) == (label > 0.5)
            measures["held_out_accuracy"] = float(right[told].mean())
    return measures


def _deltas(
    model: PreferenceModel, pairs: Sequence[Pair], micro_batch_size: int
) -> NDArray[np.float64]:
    chosen = model.raw_scores([pair.chosen.tolist() for pair in pairs], micro_batch_size)
    rejected = model.raw_scores([pair.rejected.tolist() for pair in pairs], micro_batch_size)
    return (chosen - rejected).double().numpy()


def _with_pad_token(chat: ChatFormat) -> Any:  # noqa: ANN401
    """Return a copy of the tokenizer that has a pad token, which TRL insists on.

    It pads nothing with it, and the tokenizer that is saved stays as it was.
    """
    tokenizer = cast("Any", copy.deepcopy(chat.tokenizer))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chat.pad_id)
    return tokenizer


def _save(model: PreferenceModel, out: Path, adapter: Mapping[str, Tensor], base: str) -> None:
    """Save model, tokenizer and constants; and LoRA, so that PPO can share the base.

    transformers' own pooling takes the last id that is not `pad_token_id`: naming one that never
    ends a turn makes it read the same token as we do.
    """
    chat, config = model.chat, cast("Any", model.model.config)
    config.cai_score_mean, config.cai_score_std = model.mean, model.std
    config.pad_token_id = chat.pad_id if chat.pad_id != chat.turn_end else int(chat.turn_end == 0)
    with whole_folder(out) as folder:
        model.model.save_pretrained(folder)
        cast("Any", chat.tokenizer).save_pretrained(folder)
        if adapter:
            save_adapter(adapter, folder, base=base)
