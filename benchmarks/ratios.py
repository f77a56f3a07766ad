"""What the side-by-side measurements share: models, ratios, their table and their JSON."""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from benchmarks.machine import machine
from cai.models.loading import PLAYGROUND


def options(description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what every measurement takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser


def alternate(
    rounds: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Measure both sides in turn, after one of each that does not count."""
    ours()
    theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return [our for our, _ in pairs], [their for _, their in pairs]


def llama_config(
    *,
    vocabulary: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    context: int,
    end: int,
    pad: int | None = None,
    kv_heads: int | None = None,
    tied: bool = False,
) -> LlamaConfig:
    """Return the configuration of a Llama without BOS."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )


def random_llama(folder: Path) -> Path:
    """Save a Llama of 26 million random parameters that speaks the playground's tokens."""
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(PLAYGROUND)
    config = llama_config(
        vocabulary=len(tokenizer),
        hidden=512,
        inner=1408,
        layers=8,
        heads=8,
        context=2048,
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        tied=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conclude(
    name: str,
    ratios: dict[str, list[float]],
    wanted: dict[str, float],
    json_file: Path | None,
    **more: Any,  # noqa: ANN401 (whatever JSON can hold)
) -> int:
    """Print and save ratios; return the exit status, 1 if a median is below what is wanted.

    Args:
        name: Of the measurement.
        ratios: By label, what was measured; larger is better for us.
        wanted: By label, the least median. Labels without one are shown for comparison only.
        json_file: Where to write the result.
        more: Further facts for the JSON; single numbers and texts are printed, too.
    """
    summary = {
        label: {
            "min": round(min(values), 3),
            "median": round(statistics.median(values), 3),
            "max": round(max(values), 3),
        }
        for label, values in ratios.items()
    }
    met = all(summary[label]["median"] >= least for label, least in wanted.items())
    table = Table(title=f"{name}: ratios, larger is better", box=None)
    table.add_column("what")
    for column in ("min", "median", "max", "wanted"):
        table.add_column(column, justify="right")
    for label, row in summary.items():
        least = f"{wanted[label]:.2f}" if label in wanted else ""
        table.add_row(label, *(f"{row[k]:.2f}" for k in ("min", "median", "max")), least)
    where = {**machine(), "threads": torch.get_num_threads()}
    result = {
        "name": name,
        "machine": where,
        "ratios": summary,
        "wanted": wanted,
        "met": met,
        **more,
    }
    console = Console(width=120)
    console.print(table)
    for fact, value in more.items():
        if isinstance(value, str | int | float):
            console.print(f"{fact}: {value}", markup=False)
    versions = ", ".join(f"{what} {which}" for what, which in where.items())
    console.print(f"machine: {versions}", markup=False)
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if met else 1
