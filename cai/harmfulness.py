"""Absolute harmfulness from 0 to 4: a regression head on a language model (paper, section 4.5).

Trained on transcripts that people have rated, with an L2 loss. Its weights, tokens and way of
reading the score are those of the preference model.
"""

from __future__ import annotations

import json
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
from peft import get_peft_model
from transformers import TrainingArguments

from cai.chat import ChatFormat
from cai.conversation import Conversation, Prompt
from cai.errors import CaiError
from cai.models import load_chat_format
from cai.preference import new_preference_model, read_scores_by_mask
from cai.preference_model import PreferenceModel, pad_right
from cai.prompts.extraction import checked_text, prompt_of, turns_of, until_user
from cai.prompts.loading import draw_limit
from cai.prompts.record import Record
from cai.prompts.sources import read_source
from cai.records import RatedRow, content_hash
from cai.settings import ModelSettings, OptimizerSettings, SourceSettings
from cai.store import whole_folder, write_rows
from cai.training import (
    OnStep,
    QuietTrainer,
    longest_sequence,
    lora,
    loss_metrics,
    micro_batch_size,
    no_rows_error,
    open_checkpoints,
    train_to_the_end,
    training_arguments,
    training_identity,
)

LOWEST, HIGHEST = 0.0, 4.0
HELD_OUT = 0.1
"""The share of prompts kept out of training, of 50 rows or more, to measure the error on."""
_FEWEST_TO_HOLD_OUT = 50
_MARK = "cai_harmfulness"


class HarmfulnessTrainer(QuietTrainer):
    """Minimises the mean squared error of the score."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401, ARG002 (Trainer's contract)
    ) -> Any:  # noqa: ANN401 (the loss, or the loss and the outputs)
        """Return the mean of (score - rating)² over a micro-batch."""
        rating = inputs.pop("rating")
        outputs = model(**inputs)
        loss = torch.nn.functional.mse_loss(outputs.logits.squeeze(-1), rating)
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class _Collator:
    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` `(B, T)`, and `rating` `(B,)`."""
        input_ids, attention_mask = pad_right([row["ids"] for row in rows], self.pad_id)
        ratings = torch.tensor([row["rating"] for row in rows], dtype=torch.float32)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "rating": ratings}


def read_ratings(source: SourceSettings, *, seed: int, base_dir: Path) -> list[RatedRow]:
    """Read transcripts with ratings, each once.

    Args:
        source: A file whose rows have a `rating` from 0 (harmless) to 4, and either a whole
            conversation that ends with the assistant's turn (`transcript`, `messages`, …) or a
            prompt and a `response`. Anthropic's red-team attempts are such a file.
        seed: Draws the rows of a source with a `limit`.
        base_dir: Relative paths start here.

    Raises:
        CaiError: The file cannot be read, or a row has no conversation or no such rating.
    """
    rows = [_rated(record) for record in read_source(source, base_dir)]
    return draw_limit(list({row.key: row for row in rows}.values()), source.limit, seed)


def train_harmfulness(
    settings: OptimizerSettings,
    *,
    rated: Sequence[RatedRow],
    base: ModelSettings,
    out: Path,
    seed: int,
    log_dir: Path,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Train the regression head, with the model under it, and save both in `out`.

    A killed training goes on from its last checkpoint when it is called again in the same way.

    Args:
        settings: How to train.
        rated: Conversations with ratings.
        base: The language model to start from; its vocabulary head is replaced.
        out: The folder of the new model; seen whole or not at all.
        seed: Sets the order of the rows and the head.
        log_dir: For TensorBoard.
        on_step: Called at each logged step.

    Returns:
        `steps`, `rows` (trained on), `rows_held_out`, `rows_too_long`, `first_loss`, `final_loss`,
        `seconds`; and with 50 rows or more `held_out_rmse`, beside `held_out_rmse_of_mean` (that of
        always saying the mean) and `held_out_correlation` (Pearson's).

    Raises:
        CaiError: The settings or base cannot be used, no row fits, or the loss is not finite.
    """
    start = time.monotonic()
    micro = micro_batch_size(settings)
    chat, model = load_chat_format(base), new_preference_model(base, seed=seed)
    longest = longest_sequence(settings, model.config)
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.parent / f"{out.name}-ratings.jsonl"
    write_rows(data, rated)
    tokens = {row.key: _ids(row, chat) for row in rated}
    fitting = [row for row in rated if len(tokens[row.key]) <= longest]
    enough = len(fitting) >= _FEWEST_TO_HOLD_OUT
    held_out = [row for row in fitting if enough and _is_held_out(row)]
    train = [row for row in fitting if not (enough and _is_held_out(row))]
    if not train:
        raise no_rows_error(data, settings, len(rated) - len(fitting))
    mean = sum(row.rating for row in train) / len(train)
    checkpoints = out.parent / f"{out.name}-checkpoints"
    resume_from = open_checkpoints(
        checkpoints, training_identity(settings, data=data, base=base, seed=seed)
    )
    config, scoring = model.config, read_scores_by_mask(model)
    adapters = lora(settings, "SEQ_CLS", heads=("score",))
    trainer = HarmfulnessTrainer(
        model=cast("Any", get_peft_model(scoring, adapters) if adapters else scoring),
        args=training_arguments(
            TrainingArguments,
            settings,
            base=base,
            rows=len(train),
            checkpoints=checkpoints,
            seed=seed,
        ),
        data_collator=_Collator(chat.pad_id),
        train_dataset=Dataset.from_list(
            [{"ids": tokens[row.key], "rating": row.rating - mean} for row in train]
        ),
    )
    trained = train_to_the_end(trainer, resume_from=resume_from, log_dir=log_dir, on_step=on_step)
    trained.config = config
    judge = PreferenceModel(trained, chat, mean=-mean)
    measures = _measures(judge, held_out, mean, micro) if held_out else {}
    _save(judge, out)
    shutil.rmtree(checkpoints)
    return {
        "steps": trainer.state.global_step,
        "rows": len(train),
        "rows_held_out": len(held_out),
        "rows_too_long": len(rated) - len(fitting),
        **loss_metrics(trainer),
        **measures,
        "seconds": time.monotonic() - start,
    }


class HarmfulnessModel:
    """Rates answers from 0 (harmless) to 4."""

    def __init__(self, model: PreferenceModel) -> None:
        """Take the regression model, whose scores are ratings."""
        self._model = model

    @classmethod
    def load(cls, path: str | Path) -> HarmfulnessModel:
        """Load a model that `train_harmfulness` saved.

        Raises:
            CaiError: The folder is unusable, or holds another kind of model.
        """
        cls.check(path)
        return cls(PreferenceModel.load(path))

    @staticmethod
    def check(path: str | Path) -> None:
        """Refuse another kind of model without loading it.

        Raises:
            CaiError: The folder holds no harmfulness model.
        """
        config = Path(path) / "config.json"
        found = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if _MARK not in found:
            raise CaiError(
                f"{path} holds no harmfulness model. Give the folder that `cai harmfulness` wrote, "
                "or `judge`."
            )

    def rate(self, items: Sequence[tuple[Conversation, str]]) -> list[float | None]:
        """Rate responses to conversations, each in [0, 4]; None for what is too long to read."""
        tokens = [self._model.ids(*item) for item in items]
        fitting = [ids for ids in tokens if len(ids) <= self._model.context]
        scores = iter(self._model.score_ids(fitting).tolist())
        return [
            min(max(next(scores), LOWEST), HIGHEST) if len(ids) <= self._model.context else None
            for ids in tokens
        ]


def _rated(record: Record) -> RatedRow:
    value = record.get("rating")
    try:
        rating = float(cast("Any", value))
    except (TypeError, ValueError):
        rating = math.nan
    if isinstance(value, bool) or not LOWEST <= rating <= HIGHEST:
        raise CaiError(
            f"{record.where}: `rating` is {value!r:.40}; it must be a number from 0 (harmless) to "
            "4. Rescale it, or remove the row."
        )
    messages, response = _conversation(record)
    return RatedRow(
        key=content_hash("rated", messages, response, rating),
        messages=messages,
        response=response,
        rating=rating,
    )


def _conversation(record: Record) -> tuple[Conversation, str]:
    if record.has("response"):
        messages = prompt_of(record)
        response = checked_text(record.get("response"), "response", record.where)
    else:
        name = next((n for n in ("transcript", "messages", "conversation") if record.has(n)), None)
        turns = turns_of(record.get(name), name, record.where) if name else []
        messages = until_user(turns, record.where)
        response = turns[-1].content if turns and turns[-1].role == "assistant" else ""
    if messages is None or not response:
        raise CaiError(
            f"{record.where} holds no conversation that ends with an answer (it has "
            f"{record.columns()}). Give a `transcript`, `messages`, or a prompt and a `response`."
        )
    return messages, response


def _ids(row: RatedRow, chat: ChatFormat) -> list[int]:
    return [*chat.prompt_ids(Prompt(row.messages)), *chat.completion_ids(row.response)]


def _is_held_out(row: RatedRow) -> bool:
    return int(content_hash("held_out", list(row.messages)), 16) < HELD_OUT * 16**16


def _measures(
    model: PreferenceModel, rows: Sequence[RatedRow], mean: float, micro: int
) -> dict[str, float]:
    found = np.array(model.score([(row.messages, row.response) for row in rows], micro))
    rating = np.array([row.rating for row in rows])
    measures = {
        "held_out_rmse": float(np.sqrt(np.mean((found - rating) ** 2))),
        "held_out_rmse_of_mean": float(np.sqrt(np.mean((mean - rating) ** 2))),
    }
    if len(rows) > 2 and found.std() > 0 and rating.std() > 0:
        measures["held_out_correlation"] = float(np.corrcoef(found, rating)[0, 1])
    return measures


def _save(model: PreferenceModel, out: Path) -> None:
    chat, config = model.chat, cast("Any", model.model.config)
    config.cai_score_mean, config.cai_score_std = model.mean, model.std
    setattr(config, _MARK, True)
    config.pad_token_id = chat.pad_id
    with whole_folder(out) as folder:
        model.model.save_pretrained(folder)
        cast("Any", chat.tokenizer).save_pretrained(folder)
