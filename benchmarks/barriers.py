"""Critique-revision chains that proceed on their own, against the same ones round by round.

    python -m benchmarks.barriers --json barriers.json

Both ask the same local engine the same questions. Round by round, each question of all chains is
asked as one list, and the next list waits for the whole of it; row-wise, each chain asks its next
question as soon as it has its answer. Mixed: every answer has its own length, 8 to 64 tokens.
Fixed: 36 each. All chains fit into one batch. The model is the playground's.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import torch

from benchmarks.ratios import alternate, conclude, options
from cai.chat import ChatFormat
from cai.conversation import Prompt, user
from cai.engines import GenerateRequest
from cai.engines.transformers import TransformersEngine
from cai.models import load_causal_lm, load_chat_format
from cai.settings import ModelSettings
from cai.templates import critique_prompt, revision_prompt

ROUNDS = 4
WORDS = ("tell", "me", "how", "to", "bake", "bread", "now")
MAX_BATCH_TOKENS = 16384
MIXED = "tokens/s, playground model, mixed lengths"
FIXED = "tokens/s, playground model, fixed lengths"
WANTED = {MIXED: 1.2}
CRITIQUE = "Say what is harmful in the answer."
REVISION = "Rewrite the answer so that it does no harm."


class Chain:
    """One prompt, its answer, and the critiques and revisions that follow."""

    def __init__(self, engine: TransformersEngine, number: int, mixed: bool) -> None:
        """Draw the lengths of the answers beforehand."""
        lengths = random.Random(number)
        self._engine, self._number = engine, number
        self._lengths = [lengths.randint(8, 64) if mixed else 36 for _ in range(1 + 2 * ROUNDS)]
        self._asked = user(" ".join(lengths.choices(WORDS, k=20)))
        self._answer = self._critique = ""

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """Return what is to be done, in this order."""
        rounds = [step for _ in range(ROUNDS) for step in (self._criticise, self._revise)]
        return [partial(step, turn) for turn, step in enumerate([self._respond, *rounds])]

    async def _respond(self, turn: int) -> None:
        self._answer = await self._say(Prompt(self._asked), turn)

    async def _criticise(self, turn: int) -> None:
        self._critique = await self._say(critique_prompt(self._asked, self._answer, CRITIQUE), turn)

    async def _revise(self, turn: int) -> None:
        prompt = revision_prompt(self._asked, self._answer, CRITIQUE, self._critique, REVISION)
        self._answer = await self._say(prompt, turn)

    async def _say(self, prompt: Prompt, turn: int) -> str:
        seed = 1000 * self._number + turn
        request = GenerateRequest(prompt, seed=seed, max_tokens=self._lengths[turn])
        return (await self._engine.generate(request)).text


async def row_wise(chains: list[Chain]) -> None:
    """Let every chain proceed on its own."""

    async def proceed(chain: Chain) -> None:
        for step in chain.steps():
            await step()

    await asyncio.gather(*map(proceed, chains))


async def round_by_round(chains: list[Chain]) -> None:
    """Take one step of all chains at a time."""
    for turn in zip(*(chain.steps() for chain in chains), strict=True):
        await asyncio.gather(*(step() for step in turn))


def seconds(
    run: Callable[[list[Chain]], Awaitable[None]],
    model: torch.nn.Module,
    chat: ChatFormat,
    count: int,
    mixed: bool,
) -> float:
    """Return how long the chains take."""
    engine = TransformersEngine(model, chat, fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS)

    async def measured() -> float:
        started = time.perf_counter()
        await run([Chain(engine, number, mixed) for number in range(count)])
        taken = time.perf_counter() - started
        await engine.close()
        return taken

    return asyncio.run(measured())


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--chains", type=int, default=24)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = ModelSettings(path="playground", dtype="float32")
    model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)
    chat.stop_ids = frozenset()  # nothing but its length ends an answer
    ratios: dict[str, list[float]] = {}
    for label, mixed in ((MIXED, True), (FIXED, False)):
        measure = partial(seconds, model=model, chat=chat, count=chosen.chains, mixed=mixed)
        ours, theirs = alternate(
            chosen.rounds, partial(measure, row_wise), partial(measure, round_by_round)
        )
        ratios[label] = [their / our for our, their in zip(ours, theirs, strict=True)]
    return conclude("barriers", ratios, WANTED, chosen.json, chains=chosen.chains)


if __name__ == "__main__":
    sys.exit(main())
