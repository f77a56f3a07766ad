"""What both sides train: a folder with policy, preference model, prompts and settings."""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.ratios import llama_config
from cai.models.loading import PLAYGROUND, load_chat_format, load_tokenizer
from cai.playground.sources import playground_prompts
from cai.ppo.prompts import tokenize_prompts
from cai.settings import ModelSettings

STOP = 1 / 48
"""Probability with which the random model of workload `llama` stops at each token."""
VOCABULARY, EOS, PAD = 32_000, 0, 1
VALUE_HEAD = 0.5
"""Of the score head: the critic of the agreement's runs, so that values are not scores."""
SNAPSHOT = "snapshot-"
"""Begins the names of the policies that are saved on the way, the step's number follows."""


@dataclass(frozen=True)
class Workload:
    """One setting of the comparison, the same for both sides."""

    name: str
    batch_size: int
    epochs: int
    max_new_tokens: int
    steps: int
    """Measured; one more comes before them and is not."""
    minibatches: int = 1
    learning_rate: float = 1e-6
    """So small that lengths stay what they are from the first step to the last."""
    critic_learning_rate: float | None = None
    """Ours alone, like `final_learning_rate`: TRL has one optimizer; None for the policy's."""
    final_learning_rate: float = 1.0
    kl_coef: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    seed: int = 0
    snapshot_every: int = 0
    """Save the policy every so many steps, the first included (0: never), off the clock."""
    method: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further settings of ours under `ppo`, for methods without a critic."""
    scores_ids: bool = False
    """Score by the ids of responses, which costs nothing, not by the preference model."""


PLAYGROUND_WORKLOAD = Workload("playground", 64, epochs=4, max_new_tokens=64, steps=3)
LLAMA_WORKLOAD = Workload("llama", 32, epochs=4, max_new_tokens=128, steps=1)


def write(workload: Workload, folder: Path) -> Path:
    """Write a workload's models, prompts and settings; return the folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(workload.seed)
    count = workload.batch_size * (workload.steps + 1)
    make = _playground if workload.name == "playground" else _llama
    prompts = make(folder, count, random.Random(workload.seed))
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "workload.json").write_text(json.dumps(asdict(workload)))
    return folder


def _playground(folder: Path, count: int, rng: random.Random) -> list[list[int]]:
    """Write the shipped tiny model, and a preference model with its backbone and a random head."""
    settings = ModelSettings(path="playground")
    tokenizer = load_tokenizer(settings)
    AutoModelForCausalLM.from_pretrained(PLAYGROUND).save_pretrained(folder / "policy")
    preference = AutoModelForSequenceClassification.from_pretrained(PLAYGROUND, num_labels=1)
    preference.save_pretrained(folder / "preference")
    tokenizer.save_pretrained(folder / "policy")
    rows = [row for kind in ("red_team", "helpful") for row in playground_prompts(kind, seed=0)]
    prompts = tokenize_prompts(rows, load_chat_format(settings), context=512, max_new_tokens=64)
    return [list(prompt.ids) for prompt in rng.sample(prompts, count)]


def _llama(folder: Path, count: int, rng: random.Random) -> list[list[int]]:
    """Write a random Llama that stops with probability `STOP` at each token, whatever it read.

    The first coordinate of every embedding is large, so it is about √256 = 16 in every normalised
    state: a constant that the EOS row of the head, and it alone, reads.
    """
    config = llama_config(
        vocabulary=VOCABULARY,
        hidden=256,
        inner=688,
        layers=4,
        heads=4,
        context=512,
        end=EOS,
        pad=PAD,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 10.0
        head = model.get_output_embeddings().weight
        head[:, 0] = 0
        head[EOS] = 0
        ids = torch.tensor([[rng.randrange(2, VOCABULARY) for _ in range(100)]])
        constant = model.base_model(ids).last_hidden_state[0, :, 0].mean()
        others = model(ids).logits[0].logsumexp(-1).mean()
        head[EOS, 0] = (others + torch.tensor(STOP / (1 - STOP)).log()) / constant
    model.save_pretrained(folder / "policy")
    # Written and read back so that the backbone is the same and only the score head is random.
    preference = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1)
    preference.save_pretrained(folder / "preference")
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w2")),
        eos_token=f"w{EOS}",
        pad_token=f"w{PAD}",
        unk_token="w2",
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "policy")
    lengths = [rng.randint(80, 120) for _ in range(count)]
    return [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length in lengths]
