"""Critique-revision chains that proceed on their own, against the same ones round by round.

    python -m benchmarks.barriers --json barriers.json
    python -m benchmarks.barriers --model 26M-parameter --lists 3

Both ask the same local engine the same questions, and have the same number of chains under way.
Round by round, each question of a list of chains is asked at once, and the next waits for all of
its answers; the next list begins after the last answer of the one before. Row-wise, each chain asks
its next question as soon as it has its answer, and the next chain begins when one has ended. Mixed:
every answer has its own length, 8 to 64 tokens. Fixed: 36 each. With one list alone, no chain takes
the place of one that has ended. One model is the playground's, whose steps cost what their rows
do; the other a Llama of 26 million random parameters, whose weights are read anew at every step.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.ratios import alternate, conclude, options, random_llama
from cai.data.conversation import Prompt, user
from cai.engines import GenerateRequest
from cai.engines.transformers import TransformersEngine
from cai.models.chat import ChatFormat
from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import ModelSettings
from cai.templates import critique_prompt, revision_prompt

ROUNDS = 4
WORDS = ("tell", "me", "how", "to", "bake", "bread", "now")
MAX_BATCH_TOKENS = 16384
MODELS = ("playground", "26M-parameter")
LABEL = "tokens/s, {model} model, {what}"
MIXED, ONE_LIST, FIXED = "mixed lengths", "mixed lengths, one list alone", "fixed lengths"
WANTED = 1.2
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


async def row_wise(chains: Sequence[Chain], at_once: int) -> None:
    """Let every chain proceed on its own."""
    queue = iter(chains)

    async def worker() -> None:
        for chain in queue:
            for step in chain.steps():
                await step()

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def round_by_round(chains: Sequence[Chain], at_once: int) -> None:
    """Take one step of all chains of a list at a time."""
    for first in range(0, len(chains), at_once):
        steps = (chain.steps() for chain in chains[first : first + at_once])
        for turn in zip(*steps, strict=True):
            await asyncio.gather(*(step() for step in turn))


def seconds(
    run: Callable[[Sequence[Chain], int], Awaitable[None]],
    *,
    model: torch.nn.Module,
    chat: ChatFormat,
    at_once: int,
    lists: int,
    mixed: bool,
) -> float:
    """Return how long the chains take."""
    engine = TransformersEngine(
        model, chat, name="", fingerprint="", max_batch_tokens=MAX_BATCH_TOKENS
    )

    async def measured() -> float:
        started = time.perf_counter()
        await run([Chain(engine, number, mixed) for number in range(lists * at_once)], at_once)
        taken = time.perf_counter() - started
        await engine.close()
        return taken

    return asyncio.run(measured())


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--at-once", type=int, default=24, help="chains under way")
    parser.add_argument("--lists", type=int, default=6)
    parser.add_argument("--model", choices=MODELS, default="playground")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    ratios: dict[str, list[float]] = {}
    at_once: int = chosen.at_once
    name: str = chosen.model
    with tempfile.TemporaryDirectory() as folder:
        path = name if name == "playground" else str(random_llama(Path(folder)))
        settings = ModelSettings(path=path, dtype="float32")
        model, chat = load_causal_lm(settings, device="cpu"), load_chat_format(settings)
    chat.stop_ids = frozenset()  # nothing but its length ends an answer
    for what, lists in ((MIXED, chosen.lists), (ONE_LIST, 1), (FIXED, chosen.lists)):
        measure = partial(
            seconds, model=model, chat=chat, at_once=at_once, lists=lists, mixed=what != FIXED
        )
        ours, theirs = alternate(
            chosen.rounds, partial(measure, row_wise), partial(measure, round_by_round)
        )
        ratios[LABEL.format(model=name, what=what)] = [
            their / our for our, their in zip(ours, theirs, strict=True)
        ]
    size = {"at_once": at_once, "lists": chosen.lists}
    wanted = {LABEL.format(model=name, what=MIXED): WANTED}
    return conclude("barriers", ratios, wanted, chosen.json, **size)


if __name__ == "__main__":
    sys.exit(main())
