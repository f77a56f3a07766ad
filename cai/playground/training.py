"""Pretraining of the tiny model, from scratch, on a CPU."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.constitution import load_constitution
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.playground.documents import DocumentWriter
from cai.playground.tokens import Example, as_transformers, encode, plain_text, train_tokenizer
from cai.playground.world import build_world

CONTEXT = 512
DOCUMENTS_PER_STEP = 32
MICRO_BATCHES = 4
"""The documents of a step are sorted by length and split, to have little padding."""
TOKENIZER_DOCUMENTS = 6000
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
MAX_GRAD_NORM = 1.0
DECAY = 0.25
"""The share of the steps, at the end, in which the learning rate falls to zero."""
LOG_STEPS = 20
CHECKPOINT_STEPS = 200


@dataclass(frozen=True)
class Batch:
    """Padded examples as tensors, (B, T) each; the fields are those of `Example`."""

    ids: torch.Tensor
    targets: torch.Tensor
    others: torch.Tensor
    weights: torch.Tensor


@dataclass
class Trainer:
    """The state of a training: the writer of documents, the model, and the log."""

    writer: DocumentWriter
    chat: ChatFormat
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    seed: int
    log: list[dict[str, float]]
    step: int = 0
    tokens: int = 0


def train(
    out: Path,
    *,
    steps: int,
    minutes: float | None = None,
    seed: int = 0,
    on_log: Callable[[dict[str, float]], None],
) -> None:
    """Pretrain the tiny model and save it as a plain transformers folder.

    The result depends only on `seed` and the number of steps (on one machine, with one number of
    threads). A checkpoint beside `out` is written until the learning rate starts to fall, and the
    next run continues from it. So a finished run can be continued with more `steps`.

    Args:
        out: The folder to write.
        steps: The number of optimizer steps.
        minutes: Choose `steps` so that the run takes about this long.
        seed: Of the initial weights and the documents.
        on_log: Called with each line of the training log.
    """
    checkpoint = out.with_name(f"{out.name}.checkpoint.pt")
    trainer = resume(checkpoint, seed)
    start, losses = time.monotonic(), list[float]()
    while trainer.step < steps:
        elapsed = (time.monotonic() - start) / 60
        if minutes is not None and elapsed > (1 - DECAY) * minutes:
            steps, minutes = round(trainer.step / (1 - DECAY)), None
        falling = minutes is None and trainer.step > (1 - DECAY) * steps
        rate = learning_rate(trainer.step, steps if minutes is None else None)
        losses.append(train_step(trainer, rate))
        if trainer.step % LOG_STEPS == 0:
            loss = round(sum(losses) / len(losses), 4)
            trainer.log.append({"step": trainer.step, "tokens": trainer.tokens, "loss": loss})
            on_log(trainer.log[-1])
            losses.clear()
        if trainer.step % CHECKPOINT_STEPS == 0 and not falling:
            save_checkpoint(checkpoint, trainer)
    save(out, trainer)


def make_tokenizer(writer: DocumentWriter, seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents drawn with `seed`."""
    rng = random.Random(f"{seed}-tokenizer")
    return train_tokenizer(plain_text(writer.write(rng)) for _ in range(TOKENIZER_DOCUMENTS))


def model_config(tokenizer: Any) -> LlamaConfig:  # noqa: ANN401 (any transformers tokenizer)
    """Return the architecture: about 1.1 million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def learning_rate(step: int, steps: int | None) -> float:
    """Return the rate of a step: a warm-up, a plateau, and a linear fall at the end.

    Args:
        step: The number of the step, from 0.
        steps: The number of all steps; None if it is not known yet.
    """
    fall = 1.0 if steps is None else (steps - step) / (DECAY * steps)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS, fall)


def train_step(trainer: Trainer, rate: float) -> float:
    """Take one optimizer step on documents that depend only on the seed and the step.

    Returns:
        The weighted mean of the loss, nats.
    """
    rng = random.Random(f"{trainer.seed}-{trainer.step}")
    documents = [trainer.writer.write(rng) for _ in range(DOCUMENTS_PER_STEP)]
    examples = sorted((encode(d, trainer.chat) for d in documents), key=lambda e: len(e.ids))
    total, loss = sum(sum(example.weights) for example in examples), 0.0
    size = DOCUMENTS_PER_STEP // MICRO_BATCHES
    for place in range(0, DOCUMENTS_PER_STEP, size):
        batch = collate(examples[place : place + size], trainer.chat.pad_id)
        part = batch_loss(trainer.model, batch) / total
        part.backward()
        loss += part.item()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), MAX_GRAD_NORM)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    trainer.step += 1
    trainer.tokens += sum(len(example.ids) for example in examples)
    return loss


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Pad examples on the right, where causal attention does not see it; padding has no weight."""

    def padded(rows: Iterable[Sequence[float]], value: float = pad_id) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], True, value)

    return Batch(
        ids=padded(example.ids for example in examples),
        targets=padded(example.targets for example in examples),
        others=padded(example.others for example in examples),
        weights=padded((example.weights for example in examples), 0.0),
    )


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted sum of cross-entropies over the positions that have weight."""
    where = batch.weights > 0
    hidden = model.model(batch.ids, use_cache=False).last_hidden_state[where]
    logp = torch.log_softmax(model.lm_head(hidden), dim=-1)
    both = torch.stack((batch.targets[where], batch.others[where]), dim=-1)
    return -(logp.gather(-1, both).mean(-1) * batch.weights[where]).sum()


def save(out: Path, trainer: Trainer) -> None:
    """Write model, tokenizer, training log and model card."""
    tokenizer: Any = trainer.chat.tokenizer
    trainer.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    trainer.model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trainer.log))
    (out / "README.md").write_text(model_card(trainer), encoding="utf-8")


def model_card(trainer: Trainer) -> str:
    """Describe the model."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return (
        resources.files("cai.playground")
        .joinpath("model_card.md")
        .read_text(encoding="utf-8")
        .format(
            parameters=f"{parameters:,}",
            vocabulary=f"{len(trainer.chat.tokenizer):,}",
            context=CONTEXT,
            steps=f"{trainer.step:,}",
            tokens=f"{trainer.tokens:,}",
            seed=trainer.seed,
            torch=torch.__version__,
            command=f"python -m cai.playground train --steps {trainer.step} --seed {trainer.seed}",
        )
    )


def save_checkpoint(path: Path, trainer: Trainer) -> None:
    """Write the file that `resume` reads."""
    tokenizer: Any = trainer.chat.tokenizer
    state = {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "seed": trainer.seed,
        "log": trainer.log,
        "step": trainer.step,
        "tokens": trainer.tokens,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def resume(path: Path, seed: int) -> Trainer:
    """Continue from a checkpoint, or start if there is none.

    Raises:
        CaiError: The checkpoint was made with another seed.
    """
    writer = DocumentWriter(build_world(), load_constitution("playground"))
    state: dict[str, Any] = torch.load(path) if path.exists() else {}
    if state and state["seed"] != seed:
        raise CaiError(
            f"The checkpoint {path} was made with seed {state['seed']}, not {seed}. Give "
            f"`--seed {state['seed']}`, another `--out`, or delete the checkpoint."
        )
    tokenizer = (
        as_transformers(Tokenizer.from_str(state["tokenizer"]))
        if state
        else make_tokenizer(writer, seed)
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config(tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    trainer = Trainer(writer, ChatFormat(tokenizer), model, optimizer, seed, log=[])
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        trainer.log, trainer.step, trainer.tokens = state["log"], state["step"], state["tokens"]
    return trainer
