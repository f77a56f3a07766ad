"""Labelling pairs under 16 principles at once, against 16 separate passes.

    python -m benchmarks.ensemble_labels --json ensemble_labels.json
    .venv-vllm/bin/python -m benchmarks.ensemble_labels --engine vllm

Conversation and responses of 400 tokens, principles of about 40, the recommended layout, the
verdict without reasoning, one order; every round has pairs of its own. A separate pass scores all
pairs under one principle and finds nothing of the passes before it: with a fresh local engine, or
on a vLLM without prefix cache. The probabilities must be the same to 1e-4. The model is a Llama of
26 million random parameters in float32.
"""

import asyncio
import itertools
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.data.conversation import user
from cai.engines import Engine, ScoreRequest
from cai.engines.opening import open_engine
from cai.engines.transformers import TransformersEngine
from cai.models.chat import ChatFormat
from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import ModelSettings
from cai.templates import OPTIONS, comparison_prompt

PRINCIPLES = 16
MAX_BATCH_TOKENS = 16384
ALIKE = 1e-4
LABEL = "cost of 16 passes over cost of one ensemble, {engine}, 26M-parameter model"
WANTED = 4.0
WORDS = ("which", "answer", "is", "kind", "honest", "clear", "short", "and", "safe", "at", "home")


def text(words: random.Random, chat: ChatFormat, tokens: int) -> str:
    """Return words that make up about so many tokens."""
    some: list[str] = []
    while len(chat.option_ids(" ".join(some))) < tokens:
        some.append(words.choice(WORDS))
    return " ".join(some)


def questions(chat: ChatFormat, pairs: int, number: int) -> list[list[ScoreRequest]]:
    """Return one list per principle, one request per pair; other ones for every number."""
    words = random.Random(number)
    principles = [text(words, chat, 40) for _ in range(PRINCIPLES)]
    texts = [[text(words, chat, 120) for _ in range(3)] for _ in range(pairs)]
    return [
        [
            ScoreRequest(comparison_prompt(user(asked), (first, second), principle), OPTIONS)
            for asked, first, second in texts
        ]
        for principle in principles
    ]


def preference(first: float, second: float) -> float:
    """Return the probability of the first option over that of both."""
    return 1 / (1 + math.exp(second - first))


async def probabilities(engine: Engine, asked: Sequence[ScoreRequest]) -> list[float]:
    """Ask everything at once."""
    scores = await asyncio.gather(*map(engine.score, asked))
    return [preference(*score.logprobs) for score in scores]


Asking = Callable[[Sequence[ScoreRequest]], Coroutine[Any, Any, list[float]]]


def transformers_asking(settings: ModelSettings) -> Asking:
    """Return what asks a local engine that has seen nothing before."""
    model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)

    async def ask(asked: Sequence[ScoreRequest]) -> list[float]:
        engine = TransformersEngine(
            model, chat, name="", fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS
        )
        try:
            return await probabilities(engine, asked)
        finally:
            await engine.close()

    return ask


def vllm(settings: ModelSettings, *, prefixes: bool) -> Engine:
    """Start vLLM, with its prefix cache or without."""
    options = {"enable_prefix_caching": prefixes}
    return open_engine(settings.model_copy(update={"engine": "vllm", "options": options}))


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--pairs", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    numbers = itertools.count()
    asked: list[list[ScoreRequest]] = []
    together: list[float] = []
    differences: list[float] = []
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        settings = ModelSettings(path=str(random_llama(Path(folder))), dtype="float32")
        chat = load_chat_format(settings)
        started = [vllm(settings, prefixes=p) for p in (True, False) if chosen.engine == "vllm"]
        if started:
            sharing, alone = (partial(probabilities, engine) for engine in started)
        else:
            sharing = alone = transformers_asking(settings)

        def ours() -> float:
            asked[:] = questions(chat, chosen.pairs, next(numbers))
            started = time.perf_counter()
            together[:] = runner.run(sharing([request for some in asked for request in some]))
            return time.perf_counter() - started

        def theirs() -> float:
            started = time.perf_counter()
            found = [p for requests in asked for p in runner.run(alone(requests))]
            seconds = time.perf_counter() - started
            differences.append(max(abs(a - b) for a, b in zip(together, found, strict=True)))
            return seconds

        our, their = alternate(chosen.rounds, ours, theirs)
        for engine in started:
            runner.run(engine.close())
    label = LABEL.format(engine=chosen.engine)
    status = conclude(
        "ensemble_labels",
        {label: [apart / at_once for at_once, apart in zip(our, their, strict=True)]},
        {label: WANTED},
        chosen.json,
        pairs=chosen.pairs,
        probabilities=f"{min(together):.3f} to {max(together):.3f}",
        largest_difference_of_probability=max(differences),
    )
    return status if max(differences) <= ALIKE else 1


if __name__ == "__main__":
    sys.exit(main())
