"""Kahneman-Tversky optimisation: a policy from single responses that are labelled good or bad.

Ethayarajh et al. 2024 (arXiv 2402.01306). The labels are probabilities of being good, and each row
counts by its expected loss, as in DPO.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cai.data.conversation import Prompt
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.settings import KtoSettings, ModelSettings
from cai.training.arguments import OnStep
from cai.training.data import answer, conversation, is_held_out, read_rows
from cai.training.preference_data import HELD_OUT, Pair, Pairs, hold_out
from cai.training.ratios import log_likelihoods, train_on_ratios

COLUMNS = ("key", "prompt", "completion", "desirable")


def train_kto(
    settings: KtoSettings,
    *,
    data: Path,
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train a policy on labelled responses and save it, in float32, in `out`.

    Args:
        settings: How to train.
        data: Parquet with `key`, `prompt` (messages), `completion` (one assistant message) and
            `desirable` (the probability that the response is good).
        base: The policy to start from, which is the reference too.
        out: The folder of the new policy.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.

    Returns:
        The counts of `train_preference`, `first_loss` and `final_loss`, `seconds`, and on rows that
        were trained on (`train_…`) and on those held out (`held_out_…`): `accuracy` (the share of
        rows whose label is not one half with a log-ratio on the right side of `kl`), the mean
        log-ratios `desirable_log_ratio` and `undesirable_log_ratio`, and `kl` (of responses to
        other prompts: the reference point), in nats.

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
        read=lambda chat, longest: read_labelled(data, chat, longest),
        loss=partial(kto_loss, settings=settings),
        measure=measures,
    )


def kto_loss(model: nn.Module, batch: dict[str, Tensor], settings: KtoSettings) -> Tensor:
    """Return each response's expected loss under its label, `(B,)` (equations 7 and 8).

    A good response has the loss λ_D (1 - σ(β(r - z))), a bad one λ_U (1 - σ(β(z - r))). r is its
    log-ratio, and z, without a gradient, that of responses to other prompts: their mean over the
    forward pass, at least 0.
    """
    probability, reference = batch.pop("probability"), batch.pop("reference")
    del batch["weight"], batch["tokens"]
    count = len(probability)
    own = {name: values[:count] for name, values in batch.items()}
    other = {name: values[count:] for name, values in batch.items()}
    with torch.no_grad():
        kl = (log_likelihoods(model, other) - reference[count:]).mean().clamp(min=0)
    gain = settings.beta * (log_likelihoods(model, own) - reference[:count] - kl)
    good = settings.desirable_weight * torch.sigmoid(-gain)
    bad = settings.undesirable_weight * torch.sigmoid(gain)
    return probability * good + (1 - probability) * bad


def measures(ratios: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what `train_kto` says of the log-ratios of own and other responses, `(N, 2)`."""
    own, kl = ratios[:, 0], ratios[:, 1].mean().clamp(min=0)
    good, bad = labels > 0.5, labels < 0.5
    found = {"kl": kl.item()}
    if (good | bad).any():
        found["accuracy"] = ((own > kl) == good)[good | bad].float().mean().item()
    if good.any():
        found["desirable_log_ratio"] = own[good].mean().item()
    if bad.any():
        found["undesirable_log_ratio"] = own[bad].mean().item()
    return found


def read_labelled(data: Path, chat: ChatFormat, max_length: int) -> Pairs:
    """Tokenise labelled responses, each with the response to another prompt in its place.

    The latter belongs to the next row with another prompt. Of 100 rows or more, those of 5% of the
    prompts are held out.

    Raises:
        CaiError: The file is no such data, or all rows have one prompt.
    """
    rows = list(read_rows(data, COLUMNS))
    prompts = [conversation(row, "prompt", data) for row in rows]
    completions = [chat.completion_ids(answer(row, "completion", data)) for row in rows]
    prompt_ids = [chat.prompt_ids(Prompt(prompt)) for prompt in prompts]
    pairs = Pairs()
    for number, row in enumerate(rows):
        label = row["desirable"]
        if label is None or not 0 <= label <= 1:
            raise CaiError(
                f"Row {row['key']} of {data}: `desirable` is {label}, which is not a probability. "
                "Fix or remove the row."
            )
        places = (place % len(rows) for place in range(number + 1, number + len(rows)))
        other = next((place for place in places if prompts[place] != prompts[number]), None)
        if other is None:
            raise CaiError(
                f"All rows of {data} have the same prompt. KTO compares with responses to other "
                "prompts: give more."
            )
        own, foreign = (
            np.array([*prompt_ids[number], *completions[place]], dtype=np.int32)
            for place in (number, other)
        )
        if max(len(own), len(foreign)) > max_length:
            pairs.too_long += 1
            continue
        held_out = is_held_out(prompts[number], HELD_OUT)
        pair = Pair(own, foreign, len(prompt_ids[number]), label, 1.0, held_out)
        (pairs.held_out if held_out else pairs.train).append(pair)
    return hold_out(pairs)
