"""The row functions of four stages, run with a store on disk against a server that misbehaves.

Three rows are made one after the other. What the server does wrong concerns the second of them.
"""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scripted_server import ScriptedServer, chat

from cai.compare import FeedbackJudge, Responder, label_all
from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import (
    AnswerRow,
    JudgementRow,
    PairRow,
    PromptRow,
    Provenance,
    ResponseSample,
    RevisionRow,
)
from cai.data.rows import run_rows
from cai.data.store import RowStore
from cai.engines.openai import ONE_OF
from cai.engines.opening import open_engine
from cai.errors import CaiError
from cai.evaluate.answer import Answerer
from cai.evaluate.judge import RUBRIC, AnswerJudge
from cai.revise import Reviser
from cai.settings import CompareSettings, EvaluateSettings, ReviseSettings

PRINCIPLE = Principle(
    id="good", critique="Say what is bad.", revision="Make it good.", comparison="Which is good?"
)
CONSTITUTION = Constitution(name="test", principles=(PRINCIPLE,))
COMPARE = CompareSettings(few_shot=0)
NOWHERE = Provenance(model="", model_fingerprint="", template_hash="", sampling={}, seed=0)
ROWS = (1, 2, 3)
BAD_ROW = 2


def prompt(number, split="train"):
    return PromptRow(
        key=f"p{number}",
        kind="red_team",
        split=split,
        messages=user(f"Tell me about row-{number}."),
        source="s",
        task=f"t{number}",
    )


def is_score(body):
    return body["messages"][-1]["content"].startswith(ONE_OF.split("{")[0])


def row_of(asked):
    return int(re.search(r"row-(\d)", str(asked))[1])


def options_of(body):
    """Return the letter of the option that is right, and of one that is not."""
    text = "\n".join(message["content"] for message in body["messages"])
    shown = re.findall(r"^ ?\((\w)\) (.*)$", text, re.M)
    right = [letter for letter, line in shown if "good answer" in line or line == RUBRIC["helpful"]]
    return right[-1], next(letter for letter, _ in shown if letter != right[-1])


class Misbehaving:
    """What a server answers: what is right, but for one row and one kind of request.

    Attributes:
        wrong: The answer to those requests, or a function of body, right and wrong option.
        kind: `say` or `score`.
        times: How often it is given; None for always.
        asked: (row, kind) of every request.
    """

    def __init__(self, wrong, kind, times=None):
        self.wrong, self.kind, self.times = wrong, kind, times
        self.asked = []
        self.said = 0

    def __call__(self, body):
        kind = "score" if is_score(body) else "say"
        self.asked.append((row_of(body["messages"]), kind))
        if self.asked[-1] == (BAD_ROW, self.kind) and self.times != 0:
            self.times = None if self.times is None else self.times - 1
            good, bad = options_of(body) if kind == "score" else ("", "")
            return self.wrong(body, good, bad) if callable(self.wrong) else self.wrong
        return self.well(body)

    def well(self, body):
        if is_score(body):
            good, bad = options_of(body)
            texts = [f"({good})"] * body.get("n", 1)
            places = [("(", {"(": -0.01}), (good, {good: -0.2, bad: -2.3}), (")", {")": 0.0})]
            return chat(*texts, listed=places if body.get("logprobs") else None)
        self.said += 1
        return chat(f"A {'good' if self.said % 2 else 'bad'} answer {self.said}.")


@dataclass
class Ran:
    """What a run left: by row its state, its label if it has one, and its message."""

    rows: dict = field(default_factory=dict)
    error: str | None = None
    asked: Counter = field(default_factory=Counter)


async def revise(engine, folder):
    reviser = Reviser(CONSTITUTION, ReviseSettings(rounds=1))
    result = await run_rows(
        reviser.items(map(prompt, ROWS), engine),
        partial(reviser.row, engine=engine),
        store=RowStore(folder, RevisionRow),
        concurrency=1,
    )
    return {
        row_of(row.messages): (row.state, row.steps[-1].revision if row.steps else None, row.error)
        for row in result.rows
    }


async def judged(engine, folder, pairs):
    judge = FeedbackJudge(CONSTITUTION, COMPARE, 0)
    result = await run_rows(
        judge.items(sorted(pairs, key=lambda pair: row_of(pair.messages)), engine),
        partial(judge.row, engine=engine),
        store=RowStore(folder, JudgementRow, "judgements"),
        concurrency=1,
    )
    found = {}
    for pair in pairs:
        own = [row for row in result.rows if row.pair == pair.key]
        (row,) = label_all(pair, own, weights={"good": 1.0}, policy=COMPARE.labels)
        right = (
            None
            if row.label is None
            else row.label
            if "good" in row.responses[0]
            else 1 - row.label
        )
        found[row_of(row.messages)] = (row.state, right, row.error)
    return found


async def compare(engine, folder):
    responder = Responder(COMPARE, 0)
    pairs = await run_rows(
        responder.items(map(prompt, ROWS), engine, engine),
        partial(responder.row, policy=engine, helpful=engine),
        store=RowStore(folder, PairRow, "pairs"),
        concurrency=1,
    )
    return await judged(engine, folder, pairs.rows)


async def feedback(engine, folder):
    def sample(text):
        return ResponseSample(text=text, model="", ended=True)

    known = [
        PairRow(
            key=f"gold{number}",
            kind="helpful",
            messages=prompt(number).messages,
            task="t",
            responses=(sample("A good answer."), sample("A bad one.")),
            provenance=NOWHERE,
        )
        for number in ROWS
    ]
    return await judged(engine, folder, known)


async def evaluate(engine, folder):
    settings = EvaluateSettings(samples_per_side=3)
    answerer, grader = Answerer("m", settings, 0), AnswerJudge(engine, settings.judge_min_mass)
    store = RowStore(folder, AnswerRow)
    result = await run_rows(
        [answerer.item((prompt(n, "held_out"), 0), engine, grader) for n in ROWS],
        lambda item: answerer.row(item, engine, grader, store.earlier(item.key)),
        store=store,
        concurrency=1,
    )
    return {
        row_of(row.messages): (
            row.state,
            row.verdict["probability"] if row.verdict.get("helpful") else row.verdict or None,
            row.error,
        )
        for row in result.rows
    }


@dataclass(frozen=True)
class Part:
    """A stage, and the kind of request in it that goes wrong.

    Attributes:
        stage: Makes all rows; returns by row its state, its label and its message.
        kind: Of the requests that go wrong.
        owed_if_failed: Kinds of requests that the second run makes for a row that failed.
        owed_if_ended: Rows and kinds of requests that are owed when the first run ended at the row.
    """

    stage: object
    kind: str
    owed_if_failed: tuple
    owed_if_ended: tuple


SAY, SCORE, BOTH = ("say",), ("score",), ("say", "score")
PARTS = {
    "revise": Part(revise, "say", SAY, ((2, "say"), (3, "say"))),
    "compare-pairs": Part(
        compare, "say", BOTH, ((2, "say"), (3, "say"), *((n, "score") for n in ROWS))
    ),
    "compare-labels": Part(compare, "score", SCORE, ((2, "score"), (3, "score"))),
    "feedback": Part(feedback, "score", SCORE, ((2, "score"), (3, "score"))),
    "evaluate-answers": Part(evaluate, "say", BOTH, tuple((n, k) for n in (2, 3) for k in BOTH)),
    "evaluate-grades": Part(evaluate, "score", SCORE, tuple((n, k) for n in (2, 3) for k in BOTH)),
}


def run(part: Part, server: ScriptedServer, answer: Misbehaving, folder: Path, **settings) -> Ran:
    """Run a stage once; what was there in the folder is gone on with."""
    server.answer = answer
    ran = Ran()

    async def stage():
        engine = open_engine(server.settings(samples=4, **settings))
        try:
            ran.rows = await part.stage(engine, folder)
        finally:
            await engine.close()

    try:
        asyncio.run(stage())
    except CaiError as error:
        ran.error = str(error)
    ran.asked = Counter(answer.asked)
    return ran
