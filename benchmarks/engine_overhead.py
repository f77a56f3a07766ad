"""Critique-revision chains through cai, against the bare engine fed the same prompts at once.

    python -m benchmarks.engine_overhead --json engine_overhead.json

cai runs `revise` with 4 rounds: rows, prompts, scheduler and rows on disk included, and every
prompt waits for the answer before it. The bare engine then gets all these prompts in one list, with
the same seeds, and says the same texts. Both have more rows than fit into `max_batch_tokens`. A
ratio of 1 means that cai costs nothing. The model is a Llama of 26 million random parameters; the
playground's figure is reported beside it. Where vLLM is installed (`.venv-vllm/bin/python -m
benchmarks.engine_overhead`), the same is measured on it; each side starts an engine of its own.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.constitution import load_constitution
from cai.engines import Engine, GenerateRequest, Usage
from cai.engines.opening import open_engine
from cai.engines.transformers import TransformersEngine
from cai.models import load_causal_lm, load_chat_format
from cai.playground.sources import playground_prompts
from cai.records import PromptRow, RevisionRow
from cai.revise import critique_and_revise, revise_item
from cai.rows import run_rows
from cai.settings import ModelSettings, ReviseSettings
from cai.store import RowStore
from cai.workbench.witness import Exchange, Witness

MAX_BATCH_TOKENS = 4096
LABEL = "tokens/s through cai over bare engine, {engine}, {model} model"
WANTED = 0.95
LARGE = "26M-parameter"
SETTINGS = ReviseSettings(rounds=4, max_new_tokens=48)


def timed(
    body: Callable[[Engine], Awaitable[None]], start: Callable[[], Engine]
) -> tuple[float, Usage]:
    """Return how long a body takes with an engine of its own, and what the engine did."""

    async def run() -> tuple[float, Usage]:
        engine = start()
        started = time.perf_counter()
        await body(engine)
        seconds = time.perf_counter() - started
        await engine.close()
        return seconds, engine.usage

    return asyncio.run(run())


async def through_cai(
    engine: Engine, prompts: Sequence[PromptRow], asked: list[GenerateRequest]
) -> None:
    """Run the chains as the stage does."""
    said: list[Exchange] = []
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
        engine=Witness(engine, said.append),
        model="",
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(Path(folder), RevisionRow)
        await run_rows(items, make, store=store, concurrency=SETTINGS.concurrency)
    requests = (exchange.request for exchange in said)
    asked[:] = [request for request in requests if isinstance(request, GenerateRequest)]


async def bare(engine: Engine, asked: Sequence[GenerateRequest]) -> None:
    """Ask everything at once."""
    await asyncio.gather(*map(engine.generate, asked))


def starters(path: str) -> dict[str, Callable[[], Engine]]:
    """Return what starts each engine on a model: vLLM as well where it is installed."""
    settings = ModelSettings(path=path, dtype="float32")
    model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)

    def local() -> Engine:
        return TransformersEngine(model, chat, fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS)

    if find_spec("vllm") is None:
        return {"transformers": local}
    on_vllm = settings.model_copy(update={"engine": "vllm"})
    return {"transformers": local, "vLLM": lambda: open_engine(on_vllm)}


def measure(
    start: Callable[[], Engine], prompts: Sequence[PromptRow], rounds: int
) -> tuple[list[float], str]:
    """Return the ratios for one engine and model, and what was asked and said."""
    asked: list[GenerateRequest] = []
    done: dict[str, Usage] = {}

    def side(name: str, body: Callable[[Engine], Awaitable[None]]) -> float:
        seconds, done[name] = timed(body, start)
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
    ratios: dict[str, list[float]] = {}
    usage: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, path in ((LARGE, str(random_llama(Path(folder)))), ("playground", "playground")):
            for engine, start in starters(path).items():
                label = LABEL.format(engine=engine, model=model)
                ratios[label], usage[label] = measure(start, prompts, chosen.rounds)
    wanted = {label: WANTED for label in ratios if LARGE in label}
    return conclude(
        "engine_overhead", ratios, wanted, chosen.json, chains=len(prompts), tokens=usage
    )


if __name__ == "__main__":
    sys.exit(main())
