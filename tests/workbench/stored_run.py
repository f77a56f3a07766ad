"""A small run folder, made by the row functions with a scripted model."""

import asyncio
import hashlib
import math

import yaml

from cai.compare import FeedbackJudge, label_pair
from cai.constitution import Constitution, Principle
from cai.constitution.schema import ComparisonExample, FewShot
from cai.data.conversation import user
from cai.data.records import PairRow, PromptRow, Provenance, ResponseSample
from cai.data.store import write_rows
from cai.engines.scripted import ScriptedEngine
from cai.pipeline.load import pipeline_settings
from cai.revise import Reviser
from cai.settings import CompareSettings, ReviseSettings

PRINCIPLES = tuple(
    Principle(
        id=f"p{n}",
        critique=f"What does rule {n} find?",
        revision=f"Mend it by rule {n}.",
        comparison=f"Which is better by rule {n}?",
    )
    for n in range(16)
)
EXAMPLES = [
    ComparisonExample(messages=user(f"Hi {n}"), responses=("yes", "no"), answer="B")
    for n in range(5)
]
CONSTITUTION = Constitution(
    name="sixteen", principles=PRINCIPLES, few_shot=FewShot(comparison=EXAMPLES)
)


def settings(**compare):
    return pipeline_settings(
        {
            "name": "stored",
            "constitution": "sixteen.yaml",
            "models": {"helpful": {"path": "scripted"}},
            "prompts": {"red_team": "r.jsonl", "helpful": "h.jsonl"},
            "revise": {"rounds": 2, "helpful_samples": 2},
            "compare": compare,
        }
    )


def said(request):
    """Say something that depends on all that was asked."""
    asked = request.prompt.messages[-1].content + request.prompt.speaker
    return f"{request.prompt.speaker} {digest(asked)}"


def scored(request):
    """Prefer an option that depends on all that was asked."""
    odds = int(digest(request.prompt.messages[-1].content), 16) / 16**8
    probability = 0.1 + 0.8 * odds
    others = len(request.options) - 1
    return [math.log(probability), *[math.log((1 - probability) / others)] * others]


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def engine():
    return ScriptedEngine(said, scored)


def write_run(folder, number=160, *, constitution=CONSTITUTION, **compare):
    """Write a finished run over `number` red-team prompts and a few others; returns settings."""
    chosen = settings(**compare)
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    (folder / "constitution.yaml").write_text(
        yaml.safe_dump({"schema": 1, **constitution.model_dump(mode="json", exclude_none=True)})
    )
    prompts = [prompt(n) for n in range(number)]
    prompts += [prompt(n, kind="helpful") for n in range(number, number + 3)]
    prompts += [prompt(n, split="held_out") for n in range(number + 3, number + 6)]
    reviser = Reviser(constitution, chosen.of(ReviseSettings), seed=0)
    judge = FeedbackJudge(constitution, chosen.of(CompareSettings), seed=0)
    model = engine()
    chains = made(reviser, reviser.items(prompts, model), model)
    pairs = [pair(n) for n in range(number)]
    pairs[0].state = "tie"
    judgements = made(judge, judge.items(pairs, model), model)
    weights = {p.id: p.weight for p in constitution.principles}
    labels = [
        label_pair(
            row,
            [j for j in judgements if j.pair == row.key],
            weights=weights,
            policy=chosen.of(CompareSettings).labels,
        )
        for row in pairs
    ]
    stages = {"prompts/rows": prompts, "revise/rows": chains, "compare/pairs": pairs}
    stages |= {"compare/judgements": judgements, "compare/rows": labels}
    for name, rows in stages.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_rows(path, sorted(rows, key=lambda row: row.key))
    return chosen


def made(maker, items, model):
    """Make rows one after the other."""
    rows = [asyncio.run(maker.row(item, model)) for item in items]
    return [
        row.model_copy(update={"fingerprint": item.fingerprint})
        for row, item in zip(rows, items, strict=True)
    ]


def prompt(number, kind="red_team", split="train"):
    return PromptRow(
        key=f"prompt{number}",
        kind=kind,
        split=split,
        messages=user(f"Question {number}?"),
        source="test",
        task=f"task{number}",
    )


def pair(number):
    first, second = (
        ResponseSample(text=f"answer {number}{letter}", model="sl-cai", ended=True)
        for letter in "ab"
    )
    return PairRow(
        key=f"pair{number}",
        kind="red_team",
        messages=user(f"Question {number}?"),
        task=f"task{number}",
        responses=(first, second),
        provenance=Provenance(
            model="sl-cai", model_fingerprint="f", template_hash="t", sampling={}, seed=0
        ),
    )
