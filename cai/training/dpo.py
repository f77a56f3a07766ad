"""Direct preference optimisation on soft labels: a policy from comparisons, without a reward model.

Rafailov et al. 2023. The reference is the model that the training starts from.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from cai.settings import LogRatioSettings, ModelSettings
from cai.training.arguments import OnStep
from cai.training.dpo_losses import PAIR_LOSSES, expected_loss
from cai.training.preference_data import read_pairs
from cai.training.ratios import log_likelihoods, train_on_ratios


def train_dpo(
    settings: LogRatioSettings,
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
    return train_on_ratios(
        settings,
        data=data,
        base=base,
        out=out,
        seed=seed,
        log_dir=log_dir,
        on_step=on_step,
        read=lambda chat, longest: read_pairs(data, chat, settings, longest),
        loss=partial(dpo_loss, settings=settings),
        measure=measures,
    )


def dpo_loss(model: nn.Module, batch: dict[str, Tensor], settings: LogRatioSettings) -> Tensor:
    """Return each pair's expected loss under its label, weighted, `(B,)`."""
    probability, weight = batch.pop("probability"), batch.pop("weight")
    reference, tokens = batch.pop("reference"), batch.pop("tokens")
    ratios = log_likelihoods(model, batch) - reference
    if settings.normalises_length:
        ratios = ratios / tokens
    first, second = ratios.chunk(2)
    loss = PAIR_LOSSES[settings.loss]
    return weight * expected_loss(loss, first, second, probability, settings.beta)


def measures(ratios: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what `train_dpo` says of log-ratios `(N, 2)` and labels `(N,)`."""
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
