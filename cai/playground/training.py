"""Pretraining of the tiny model, from scratch, on a CPU."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.chat import ChatFormat
from cai.constitution import load_constitution
from cai.playground.documents import DocumentWriter
from cai.playground.tokens import Example, encode, plain_text, train_tokenizer
from cai.playground.world import build_world

CONTEXT = 512
DOCUMENTS_PER_STEP = 48
MICRO_BATCHES = 3
"""A step's documents are sorted by length and split, so that little of a batch is padding."""
TOKENIZER_DOCUMENTS = 6000
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
DECAY = 0.25
"""The share of the steps, at the end, over which the learning rate falls to zero."""
LOG_STEPS = 20
CHECKPOINT_STEPS = 200


@dataclass(frozen=True)
class Batch:
    """Padded examples as tensors, (B, T) each; see `Example` for what they mean."""

    ids: torch.Tensor
    targets: torch.Tensor
    others: torch.Tensor
    weights: torch.Tensor


def train(out: Path, *, steps: int, seed: int = 0, minutes: float | None = None) -> None:
    """Pretrain the tiny model and save it as a plain transformers folder.

    The result depends on `seed` and the number of steps alone (on one machine, with one number of
    threads). A checkpoint beside `out` is kept until the learning rate begins to fall; a run that
    finds it goes on from there, so a finished run can be made longer with more `steps`.

    Args:
        out: The folder to write.
        steps: How many optimizer steps.
        seed: Draws the initial weights and the documents.
        minutes: Choose `steps` so that the run takes about so long; the log says how many.
    """
    writer = DocumentWriter(build_world(), load_constitution("playground"))
    chat = ChatFormat(make_tokenizer(writer, seed))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config(chat.tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    checkpoint = out.with_name(f"{out.name}.checkpoint.pt")
    log = _resume(checkpoint, model, optimizer)
    first = len(log) * LOG_STEPS
    start, tokens, loss_sum = time.monotonic(), 0, 0.0
    step = first
    while step < steps:
        seconds = time.monotonic() - start
        if minutes is not None and seconds > (1 - DECAY) * 60 * minutes:
            steps, minutes = round(step / (1 - DECAY)), None
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss, count = train_step(model, optimizer, examples_of_step(writer, chat, seed, step), chat)
        tokens, loss_sum, step = tokens + count, loss_sum + loss, step + 1
        if step % LOG_STEPS == 0:
            log.append({"step": step, "loss": round(loss_sum / LOG_STEPS, 4)})
            rate = tokens / (time.monotonic() - start)
            print(
                f"step {step}/{steps} loss {loss_sum / LOG_STEPS:.4f} {rate:.0f} tokens/s",
                flush=True,
            )  # noqa: T201
            loss_sum = 0.0
        if step % CHECKPOINT_STEPS == 0 and (minutes is not None or step <= (1 - DECAY) * steps):
            _save_checkpoint(checkpoint, model, optimizer, log)
    save(out, model, chat, log)


def make_tokenizer(writer: DocumentWriter, seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents that `seed` draws."""
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


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a warm-up, a plateau, and a linear fall at the end."""
    fall = (steps - step) / max(1.0, DECAY * steps)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS, fall)


def examples_of_step(
    writer: DocumentWriter, chat: ChatFormat, seed: int, step: int
) -> list[Example]:
    """Return the examples of one step; they depend on nothing but the seed and the step."""
    rng = random.Random(f"{seed}-{step}")
    return [encode(writer.write(rng), chat) for _ in range(DOCUMENTS_PER_STEP)]


def train_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    examples: list[Example],
    chat: ChatFormat,
) -> tuple[float, int]:
    """Take one optimizer step; return its loss (nats, weighted mean) and its number of tokens."""
    examples = sorted(examples, key=lambda example: len(example.ids))
    size = len(examples) // MICRO_BATCHES
    total = sum(sum(example.weights) for example in examples)
    loss_sum = 0.0
    for place in range(0, len(examples), size):
        loss = batch_loss(model, collate(examples[place : place + size], chat.pad_id)) / total
        loss.backward()
        loss_sum += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum, sum(len(example.ids) for example in examples)


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Pad examples on the right; padding has no weight, and nothing attends to what follows it."""
    length = max(len(example.ids) for example in examples)

    def padded(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])

    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        weights[row, : len(example.weights)] = torch.tensor(example.weights)
    return Batch(
        ids=padded([example.ids for example in examples]),
        targets=padded([example.targets for example in examples]),
        others=padded([example.others for example in examples]),
        weights=weights,
    )


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the weighted sum of cross-entropies over the positions that have weight."""
    where = batch.weights > 0
    hidden = model.model(batch.ids, use_cache=False).last_hidden_state[where]
    logp = torch.log_softmax(model.lm_head(hidden), dim=-1)
    both = torch.stack((batch.targets[where], batch.others[where]), dim=-1)
    return -(logp.gather(-1, both).mean(-1) * batch.weights[where]).sum()


def save(out: Path, model: LlamaForCausalLM, chat: ChatFormat, log: list[dict[str, float]]) -> None:
    """Write model, tokenizer and training log."""
    tokenizer: Any = chat.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def _save_checkpoint(
    path: Path,
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, float]],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)


def _resume(
    path: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    if not path.exists():
        return []
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["log"]
