"""Labelling pairs under 16 principles at once, against 16 separate passes.

    python -m benchmarks.ensemble_labels --json ensemble_labels.json

Conversation and responses of 400 tokens, principles of about 40, the recommended layout, the
verdict without reasoning, one order. A separate pass scores all pairs under one principle with a
fresh engine. The probabilities must be the same to 1e-4. The model is a Llama of 26 million random
parameters in float32.
"""

import asyncio
import math
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.chat import ChatFormat
from cai.conversation import user
from cai.engines import ScoreRequest, Usage
from cai.engines.transformers import TransformersEngine
from cai.models import load_causal_lm, load_chat_format
from cai.settings import ModelSettings
from cai.templates import OPTIONS, comparison_prompt

PRINCIPLES = 16
MAX_BATCH_TOKENS = 16384
ALIKE = 1e-4
LABEL = "cost of 16 passes over cost of one ensemble, 26M-parameter model"
WANTED = {LABEL: 4.0}
WORDS = ("which", "answer", "is", "kind", "honest", "clear", "short", "and", "safe", "at", "home")


def text(words: random.Random, chat: ChatFormat, tokens: int) -> str:
    """Return words that make up about so many tokens."""
    some: list[str] = []
    while len(chat.option_ids(" ".join(some))) < tokens:
        some.append(words.choice(WORDS))
    return " ".join(some)


def questions(chat: ChatFormat, pairs: int) -> list[list[ScoreRequest]]:
    """Return one list per principle, one request per pair."""
    words = random.Random(0)
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


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--pairs", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = ModelSettings(path=str(random_llama(Path(folder))), dtype="float32")
        model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)
    asked = questions(chat, chosen.pairs)
    found_by: dict[str, list[float]] = {}
    usage = Usage()

    def label(name: str, passes: list[list[ScoreRequest]]) -> float:
        nonlocal usage
        started = time.perf_counter()
        found: list[float] = []
        for requests in passes:
            engine = TransformersEngine(
                model, chat, fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS
            )

            async def ask(
                engine: TransformersEngine = engine, some: list[ScoreRequest] = requests
            ) -> list[float]:
                try:
                    scores = await asyncio.gather(*map(engine.score, some))
                    return [preference(*score.logprobs) for score in scores]
                finally:
                    await engine.close()

            found += asyncio.run(ask())
            usage = engine.usage
        found_by[name] = found
        return time.perf_counter() - started

    together = [[request for requests in asked for request in requests]]
    ours, theirs = alternate(
        chosen.rounds, lambda: label("together", together), lambda: label("separate", asked)
    )
    label("together", together)
    apart = max(abs(a - b) for a, b in zip(found_by["together"], found_by["separate"], strict=True))
    ratios = {LABEL: [their / our for our, their in zip(ours, theirs, strict=True)]}
    status = conclude(
        "ensemble_labels",
        ratios,
        WANTED,
        chosen.json,
        passes=round(PRINCIPLES * min(ours) / min(theirs), 2),
        tokens=f"{usage.tokens_in} in, {usage.tokens_cached} of them cached",
        largest_difference_of_probability=apart,
    )
    return status if apart <= ALIKE else 1


if __name__ == "__main__":
    sys.exit(main())
