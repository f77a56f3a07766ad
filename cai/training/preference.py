"""Train a preference model on soft labels: AI harmlessness and human helpfulness comparisons.

Paper, section 4.2: the targets are the feedback model's probabilities, not its verdicts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.models.loading import fingerprint_model, load_chat_format
from cai.settings import ModelSettings, PreferenceSettings
from cai.training.arguments import OnStep, Run, micro_batch_size
from cai.training.data import longest_sequence, no_rows_error
from cai.training.fit import fit
from cai.training.preference_data import collate_pairs, read_pairs, training_rows
from cai.training.preference_measures import (
    measures_of,
    normalised,
    reference,
    soft_bradley_terry_loss,
)
from cai.training.scorer import new_preference_model, read_scores_by_mask, save_scorer


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

    A killed training goes on from its last checkpoint when it is called again in the same way.
    With 100 rows or more, 5% of the prompts are held out and measured.

    Args:
        settings: How to train.
        data: Parquet with `key`, `source` (`ai` or `human`), `prompt` (messages), `chosen` and
            `rejected` (one assistant message each) and `chosen_probability`.
        base: The language model to start from; its head is replaced.
        out: The folder of the new model, written whole or not at all; checkpoints are beside it.
        seed: Sets the order of the rows, the score head and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step (at most about a thousand) with `step`, `steps`, `loss`.

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
    chat, model = load_chat_format(base), new_preference_model(base, seed=seed)
    pairs = read_pairs(data, chat, settings, longest_sequence(settings, model.config))
    if not pairs.train:
        raise no_rows_error(data, settings, pairs.too_long)

    def finish(trained: PreTrainedModel, adapter: Mapping[str, Tensor]) -> dict[str, float]:
        scorer = normalised(trained, chat, reference(pairs.train), micro)
        measures = measures_of(scorer, pairs, micro)
        save_scorer(scorer, out, adapter=adapter, base=fingerprint_model(base))
        return {"score_mean": scorer.mean, "score_std": scorer.std, **measures}

    metrics = fit(
        read_scores_by_mask(model),
        training_rows(pairs.train),
        partial(collate_pairs, pad_id=chat.pad_id),
        preference_loss,
        settings,
        Run(base, data, seed, out.parent / "checkpoints", log_dir, on_step),
        finish,
    )
    return {**pairs.counts(settings.epochs), **metrics, "seconds": time.monotonic() - start}


def preference_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return each pair's cross-entropy between soft label and model, weighted, `(B,)` nats."""
    probability, weight = batch.pop("probability"), batch.pop("weight")
    chosen, rejected = model(**batch).logits.squeeze(-1).chunk(2)
    return soft_bradley_terry_loss(chosen - rejected, probability, weight)
