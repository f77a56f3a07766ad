"""Critique-revision chains through cai, against the bare engine fed the same prompts at once.

    python -m benchmarks.engine_overhead --json engine_overhead.json
    .venv-vllm/bin/python -m benchmarks.engine_overhead --engine vllm --chains 32

cai runs `revise` with 4 rounds: rows, templates, tokenizer, scheduler and rows on disk included,
and every prompt waits for the answer before it. The bare engine then gets the token ids of all
these prompts in one list, with the same seeds: `DecodeLoop.run`, or vLLM's own `LLM.generate`. Both
have their default sizes: 64 chains are under way at once, and the bare engine takes more rows than
that together. Every round has prompts of its own. A ratio of 1 means that cai costs nothing. The
model is a Llama of 26 million random parameters; that of the playground is reported beside it.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.constitution import load_constitution
from cai.data.records import PromptRow, RevisionRow
from cai.data.rows import run_rows
from cai.data.store import RowStore
from cai.engines import Engine, GenerateRequest
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.engines.opening import open_engine
from cai.engines.transformers import TransformersEngine
from cai.models.loading import load_causal_lm, load_chat_format, model_folder
from cai.playground.sources import playground_prompts
from cai.revise import Reviser
from cai.settings import ModelSettings, ReviseSettings
from cai.workbench.witness import Exchange, Witness

MAX_BATCH_TOKENS = 16384
LABEL = "tokens/s through cai over bare engine, {engine}, {model} model"
WANTED = 0.95
LARGE = "26M-parameter"
SETTINGS = ReviseSettings(rounds=4, max_new_tokens=32)


@dataclass(frozen=True)
class Sides:
    """What is compared on one model.

    Attributes:
        start: Starts the engine that cai asks.
        bare: Answers all requests without cai; returns how many tokens it sampled.
    """

    start: Callable[[], Engine]
    bare: Callable[[Sequence[GenerateRequest]], int]


async def through_cai(
    engine: Engine, prompts: Sequence[PromptRow], asked: list[GenerateRequest]
) -> None:
    """Run the chains as the stage does."""
    said: list[Exchange] = []
    constitution = load_constitution("playground")
    reviser, witness = Reviser(constitution, SETTINGS), Witness(engine, said.append)
    items = [reviser.item(prompt, witness) for prompt in prompts]
    make = partial(reviser.row, engine=witness)
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(Path(folder), RevisionRow)
        await run_rows(items, make, store=store, concurrency=SETTINGS.concurrency)
    requests = (exchange.request for exchange in said)
    asked[:] = [request for request in requests if isinstance(request, GenerateRequest)]


def transformers_sides(settings: ModelSettings) -> Sides:
    """Return the local engine and its loop."""
    model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)

    def bare(asked: Sequence[GenerateRequest]) -> int:
        loop = DecodeLoop(
            model,
            stop_ids=chat.stop_ids,
            max_batch_tokens=MAX_BATCH_TOKENS,
            prefix_tokens=MAX_BATCH_TOKENS // 2,
        )
        requests = [
            TokenRequest(tuple(chat.prompt_ids(request.prompt)), request.seed, request.max_tokens)
            for request in asked
        ]
        return sum(len(said.token_ids) for said in loop.run(requests))

    start = partial(
        TransformersEngine, model, chat, name="", fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS
    )
    return Sides(start, bare)


def vllm_sides(settings: ModelSettings) -> Sides:
    """Return cai's engine on vLLM, and vLLM's own."""
    from cai.engines.vllm_arguments import engine_arguments, import_vllm

    vllm, chat = import_vllm(), load_chat_format(settings)
    llm = vllm.LLM(**engine_arguments(settings, model_folder(settings)))

    def bare(asked: Sequence[GenerateRequest]) -> int:
        prompts = [{"prompt_token_ids": chat.prompt_ids(request.prompt)} for request in asked]
        parameters = [
            vllm.SamplingParams(
                max_tokens=request.max_tokens,
                seed=request.seed % 2**63,
                stop_token_ids=sorted(chat.stop_ids),
                logprobs=0,
                detokenize=False,
            )
            for request in asked
        ]
        said = llm.generate(prompts, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in said)

    return Sides(partial(open_engine, settings), bare)


SIDES = {"transformers": transformers_sides, "vllm": vllm_sides}


def measure(sides: Sides, prompts: Sequence[PromptRow], chains: int) -> list[float]:
    """Return the ratios of tokens per second; the first `chains` prompts do not count."""
    portions = iter([prompts[n : n + chains] for n in range(0, len(prompts), chains)])
    asked: list[GenerateRequest] = []

    async def ours() -> float:
        before, started = engine.usage.tokens_out, time.perf_counter()
        await through_cai(engine, next(portions), asked)
        return (engine.usage.tokens_out - before) / (time.perf_counter() - started)

    def theirs() -> float:
        started = time.perf_counter()
        sampled = sides.bare(asked)
        return sampled / (time.perf_counter() - started)

    with asyncio.Runner() as runner:
        engine = sides.start()
        rounds = len(prompts) // chains - 1
        speeds = alternate(rounds, lambda: runner.run(ours()), theirs)
        runner.run(engine.close())
    return [our / their for our, their in zip(*speeds, strict=True)]


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--engine", choices=SIDES, default="transformers")
    parser.add_argument("--chains", type=int, default=64)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    prompts = playground_prompts("red_team", seed=0, limit=chosen.chains * (chosen.rounds + 1))
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, path in ((LARGE, str(random_llama(Path(folder)))), ("playground", "playground")):
            label = LABEL.format(engine=chosen.engine, model=model)
            settings = ModelSettings(path=path, dtype="float32", engine=chosen.engine)
            sides = SIDES[chosen.engine](settings)
            ratios[label] = measure(sides, prompts, chosen.chains)
    wanted = {label: WANTED for label in ratios if LARGE in label}
    return conclude("engine_overhead", ratios, wanted, chosen.json, chains=chosen.chains)


if __name__ == "__main__":
    sys.exit(main())
