"""Fine-tune on revisions and helpful samples (paper, section 3.2).

One epoch of next-token prediction; only the answer's tokens and the turn end carry loss.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PretrainedConfig
from trl.trainer.utils import add_fused_lm_head

from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import ModelSettings, SftSettings
from cai.training.arguments import OnStep, Run
from cai.training.data import longest_sequence, no_rows_error, read_rows
from cai.training.fit import fit
from cai.training.policies import save_policy, snapshots_of
from cai.training.sft_data import COLUMNS, collate_completions, completion_rows, mixture


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

    See `train_preference` for `settings`, `out`, `seed`, `log_dir` and `on_step`, and for killed
    trainings.

    Args:
        settings: How to train.
        data: Parquet with `key`, `kind`, `prompt` (messages), `completion` (one assistant message)
            and `ended` (False where the completion was cut off: no turn end is trained there).
        base: The model to start from.
        out: The folder of the new model.
        seed: Sets the order of the rows and the initial adapters.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.

    Returns:
        `steps`, `rows`, `rows_too_long` and `rows_unmixed` (left out: longer than the limit, and
        helpful rows beyond `helpful_ratio`), `tokens` (with prompts, over all epochs), `seconds`,
        `first_loss` and `final_loss` (nats per token).

    Raises:
        CaiError: The settings, data or base cannot be used, or the loss is no longer finite.
    """
    start = time.monotonic()
    settings.checked()
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
        Run(
            base,
            data,
            seed,
            out.parent / "checkpoints",
            log_dir,
            on_step,
            snapshots_of(settings, chat, out.parent),
        ),
        lambda trained, _: save_policy(trained, out, chat),
    )
    return {
        "rows": len(rows),
        "rows_too_long": too_long,
        "rows_unmixed": unmixed,
        "tokens": settings.epochs * sum(len(row["input_ids"]) for row in rows),
        "seconds": time.monotonic() - start,
        **metrics,
    }


def completion_loss(model: nn.Module, batch: dict[str, Tensor], experts: float) -> Tensor:
    """Return minus the log-likelihood of each row's completion, `(B,)`, in nats.

    TRL's fused head runs the output layer only where a token carries loss. Models with a mixture
    of experts add their load-balancing loss, with the weight `experts`.
    """
    more = {"output_router_logits": True} if experts else {}
    outputs = model(**batch, **more, fused_lm_head=True)
    losses = -outputs.log_probs.sum(1)
    if experts:
        losses = losses + experts * outputs.aux_loss * outputs.label_mask.sum(1)
    return losses


def _weight_of_balance(config: PretrainedConfig) -> float:
    """Return the weight of a mixture of experts' load-balancing loss; 0 for other models."""
    text = config.get_text_config()
    if not hasattr(text, "output_router_logits"):
        return 0.0
    if not hasattr(text, "num_experts") and hasattr(text, "num_local_experts"):
        # Of Granite: TRL's loss reads the number under the name that most configs have.
        cast("Any", type(text)).attribute_map = {
            **text.attribute_map,
            "num_experts": "num_local_experts",
        }
    return getattr(text, "router_aux_loss_coef", 0.0)
