"""Critique-revision chains through cai, against the bare engine fed the same prompts at once.

    python -m benchmarks.engine_overhead --json engine_overhead.json

cai runs `revise` with 4 rounds: rows, prompts, scheduler and rows on disk included, and every
prompt waits for the answer before it. The bare engine then gets all these prompts in one list, with
the same seeds, and says the same texts. Both have more rows than fit into `max_batch_tokens`. A
ratio of 1 means that cai costs nothing. The model is a Llama of 26 million random parameters; the
playground's figure is reported beside it.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.chat import ChatFormat
from cai.constitution import load_constitution
from cai.engines import Completion, Engine, GenerateRequest, ScoreRequest, Scores, Usage
from cai.engines.transformers import TransformersEngine
from cai.models import load_causal_lm, load_chat_format
from cai.playground.sources import playground_prompts
from cai.records import PromptRow, RevisionRow
from cai.revise import critique_and_revise, revise_item
from cai.rows import run_rows
from cai.settings import ModelSettings, ReviseSettings
from cai.store import RowStore

MAX_BATCH_TOKENS = 4096
LABEL = "tokens/s through cai over bare engine, 26M-parameter model"
WANTED = {LABEL: 0.95}
SETTINGS = ReviseSettings(rounds=4, max_new_tokens=48)


class Recording:
    """An engine that remembers what it was asked."""

    def __init__(self, engine: Engine) -> None:
        """Listen to an engine."""
        self._engine = engine
        self.asked: list[GenerateRequest] = []

    @property
    def usage(self) -> Usage:
        """The engine's."""
        return self._engine.usage

    @property
    def fingerprint(self) -> str:
        """The engine's."""
        return self._engine.fingerprint

    async def generate(self, request: GenerateRequest) -> Completion:
        """Pass on and remember."""
        self.asked.append(request)
        return await self._engine.generate(request)

    async def score(self, request: ScoreRequest) -> Scores:
        """Pass on."""
        return await self._engine.score(request)

    async def close(self) -> None:
        """Pass on."""
        await self._engine.close()


def timed(
    body: Callable[[Engine], Awaitable[None]], model: torch.nn.Module, chat: ChatFormat
) -> tuple[float, Usage]:
    """Return how long a body takes with an engine of its own, and what the engine did."""
    engine = TransformersEngine(model, chat, fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS)

    async def run() -> float:
        started = time.perf_counter()
        await body(engine)
        seconds = time.perf_counter() - started
        await engine.close()
        return seconds

    return asyncio.run(run()), engine.usage


async def through_cai(
    engine: Engine, prompts: Sequence[PromptRow], asked: list[GenerateRequest]
) -> None:
    """Run the chains as the stage does."""
    recording = Recording(engine)
    constitution = load_constitution("playground")
    items = [
        revise_item(
            prompt, 0, constitution=constitution, settings=SETTINGS, model_fingerprint="", seed=0
        )
        for prompt in prompts
    ]
    make = partial(
        critique_and_revise,
        constitution=constitution,
        settings=SETTINGS,
        engine=recording,
        model="",
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(Path(folder), RevisionRow)
        await run_rows(items, make, store=store, concurrency=SETTINGS.concurrency)
    asked[:] = recording.asked


async def bare(engine: Engine, asked: Sequence[GenerateRequest]) -> None:
    """Ask everything at once."""
    await asyncio.gather(*map(engine.generate, asked))


def measure(path: str, prompts: Sequence[PromptRow], rounds: int) -> tuple[list[float], str]:
    """Return the ratios for one model, and what was asked and said."""
    settings = ModelSettings(path=path, dtype="float32")
    model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)
    asked: list[GenerateRequest] = []
    done: dict[str, Usage] = {}

    def side(name: str, body: Callable[[Engine], Awaitable[None]]) -> float:
        seconds, done[name] = timed(body, model, chat)
        return seconds

    ours, theirs = alternate(
        rounds,
        lambda: side("cai", lambda engine: through_cai(engine, prompts, asked)),
        lambda: side("bare", lambda engine: bare(engine, asked)),
    )
    if done["cai"].tokens_out != done["bare"].tokens_out:
        raise SystemExit("the bare engine said other texts")
    return [their / our for our, their in zip(ours, theirs, strict=True)], str(done)


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--chains", type=int, default=64)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    prompts = playground_prompts("red_team", seed=0, limit=chosen.chains)
    with tempfile.TemporaryDirectory() as folder:
        large, usage = measure(str(random_llama(Path(folder))), prompts, chosen.rounds)
    small, small_usage = measure("playground", prompts, chosen.rounds)
    return conclude(
        "engine_overhead",
        {LABEL: large, "tokens/s through cai over bare engine, playground model": small},
        WANTED,
        chosen.json,
        chains=len(prompts),
        tokens=usage,
        tokens_playground=small_usage,
    )


if __name__ == "__main__":
    sys.exit(main())
