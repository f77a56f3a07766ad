"""Ways of asking for critiques and revisions, on the same first responses.

    python -m benchmarks.revision_prompts MODEL PROMPTS --out FOLDER [--format transcript]
        [--few-shot 0 1 2 5] [--limit 24] [--tokens 96] [--minutes 600]

MODEL answers the first PROMPTS (any file of docs/data.md). It then revises each answer once in each
way of `WAYS`: so many worked examples, as a dialogue or as a question, the examples of the drawn
principle first or not. The constitution is `harmless`, with only those principles that have a
worked example. Everything is kept in FOLDER, and made only once. When the minutes for the revisions
are over, only those prompts count that were revised in every way.

Prints the share of revisions with a flaw (`cai.revise.flaws`) for each way and for several ways
together, with 95% intervals clustered by prompt, and the shares of the commonest flaws.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.revision_flaws import shown
from benchmarks.show import markdown_table
from cai.constitution import Constitution, load_constitution
from cai.data.prompts import reader_of
from cai.data.records import PromptRow, RevisionRow
from cai.data.rows import run_rows
from cai.data.store import RowStore
from cai.engines import Engine
from cai.engines.opening import open_engine
from cai.evaluate.rates import rate
from cai.revise import Reviser
from cai.revise.quality import Assessed, Assessor
from cai.settings import ModelSettings, ReviseSettings, SourceSettings

COUNTED = ReviseSettings().flaws
IN_FLIGHT = 2
"""Chains of one way that are made at the same time."""
NAMED = ("copied", "describes", "echo", "dialogue", "off_topic", "repetitive", "refusal")
"""The flaws with a column of their own."""


@dataclass(frozen=True)
class Way:
    """A way of asking."""

    asking: str
    few_shot: int
    few_shot_order: str = "file"

    @property
    def name(self) -> str:
        """The name of its file of rows, and of its line in the table."""
        order = ", of the principle first" if self.few_shot_order == "principle" else ""
        return f"{self.asking}, {self.few_shot} examples{order}"


WAYS = [
    *(Way(asking, few) for few in (0, 1, 2, 5) for asking in ("dialogue", "question")),
    *(Way(asking, 1, "principle") for asking in ("dialogue", "question")),
]


def shortened(constitution: Constitution) -> Constitution:
    """Keep only the principles that have a worked example."""
    examples = constitution.few_shot.critique
    kept = tuple(
        p for p in constitution.supervised if any(example.is_of(p) for example in examples)
    )
    return constitution.model_copy(update={"principles": kept})


def first_prompts(path: str, limit: int) -> list[PromptRow]:
    """Return a random sample of the prompts of a file; larger samples contain smaller ones."""
    read = reader_of(SourceSettings(path=path), Path.cwd()).prompts("red_team", seed=0)
    rows = {
        row.key: row.model_copy(update={"split": "train"})
        for row in read
        if isinstance(row, PromptRow)
    }
    return [rows[key] for key in sorted(rows)[:limit]]  # keys are hashes


async def make(
    prompts: list[PromptRow],
    engine: Engine,
    folder: Path,
    base: Reviser,
    *,
    ways: Sequence[Way] = WAYS,
    minutes: float,
) -> dict[Way, list[RevisionRow]]:
    """Answer all prompts, and revise the answers in each way, all ways side by side.

    Earlier rows are kept. After so many minutes, those prompts are left out that were not yet
    revised in every way.
    """
    first = await run_rows(
        base.responder.items(prompts, engine),
        partial(base.responder.row, engine=engine),
        store=RowStore(folder, RevisionRow, "responses"),
        concurrency=len(prompts),
    )
    answered = {row.key: row for row in first.rows}
    stores = {way: RowStore(folder, RevisionRow, way.name) for way in ways}

    async def revise(way: Way, store: RowStore[RevisionRow]) -> None:
        reviser = replace(base, settings=base.settings.model_copy(update=vars(way)))
        items = reviser.items(prompts, engine, answered)
        make_row = partial(reviser.row, engine=engine)
        await run_rows(items, make_row, store=store, concurrency=IN_FLIGHT, last=False)

    with suppress(TimeoutError):
        async with asyncio.timeout(60 * minutes):
            await asyncio.gather(*(revise(way, store) for way, store in stores.items()))
    await engine.close()
    done = set.intersection(*({row.key for row in store.rows} for store in stores.values()))
    return {way: [row for row in s.rows if row.key in done] for way, s in stores.items()}


POOLED: dict[str, Callable[[Way], bool]] = {
    "all without examples": lambda way: not way.few_shot,
    "all with examples": lambda way: bool(way.few_shot),
    "all as a dialogue": lambda way: way.asking == "dialogue",
    "all as a question": lambda way: way.asking == "question",
}
"""The last lines of the table: several ways together."""


def table(made: Mapping[Way, Sequence[RevisionRow]], constitution: Constitution) -> str:
    """Lay out the shares of flawed revisions, by way and pooled."""
    assessor = Assessor(constitution, COUNTED)
    seen = {
        way: [one for row in rows if row.state == "ok" for one in assessor.rounds(row)]
        for way, rows in made.items()
    }
    lines = {way.name: rounds for way, rounds in seen.items()} | {
        name: [one for way, rounds in seen.items() if within(way) for one in rounds]
        for name, within in POOLED.items()
    }
    head = ("way", "flawed", *NAMED, "unchanged")
    return markdown_table(head, [_line(name, rounds) for name, rounds in lines.items()])


def _line(name: str, rounds: Sequence[Assessed]) -> list[str]:
    flawed = rate([one.flawed for one in rounds], [one.key for one in rounds])
    has = [set(one.flaws()) for one in rounds]
    counts = [sum(flaw in own for own in has) for flaw in NAMED]
    shares = [f"{n / max(len(rounds), 1):.2f}" for n in (*counts, sum(not r.new for r in rounds))]
    return [name, shown(flawed), *shares]


def main() -> None:
    """Make the chains and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("chat", "transcript"), default="chat")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--few-shot", type=int, nargs="+", default=[0, 1, 2, 5])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=600)
    options = parser.parse_args()
    prompts = first_prompts(options.prompts, options.limit)
    constitution = shortened(load_constitution("harmless"))
    settings = ReviseSettings(rounds=1, max_new_tokens=options.tokens)
    model = ModelSettings(path=options.model, format=options.format, dtype="float32")
    base = Reviser(constitution, settings)
    engine = open_engine(model)
    ways = [way for way in WAYS if way.few_shot in options.few_shot]
    work = make(prompts, engine, options.out, base, ways=ways, minutes=options.minutes)
    made = asyncio.run(work)
    print(table(made, constitution))


if __name__ == "__main__":
    main()
