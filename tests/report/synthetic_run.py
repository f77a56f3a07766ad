"""A run folder with every stage, made from a fixed seed; no model is involved."""

import json
import math
import random
from pathlib import Path

from verdicts import orders

from cai.data.conversation import Message, user
from cai.data.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
    PairRow,
    PrincipleUse,
    PromptRow,
    Provenance,
    ResponseSample,
    RevisionRow,
    RevisionStep,
    content_hash,
)
from cai.data.store import write_json, write_rows
from cai.evaluate import measures
from cai.evaluate.results import CheckpointSummary, Elo, Harmfulness, Measures
from cai.evaluate.summarise import summarise
from cai.evaluate.texts import BenignText
from cai.pipeline.load import pipeline_settings
from cai.revise.flaws import Found
from cai.revise.quality import FlawsRow
from cai.settings import PipelineSettings

CATEGORIES = ("fraud", "insults", "privacy", "theft", "threats")
PRINCIPLES = (*CATEGORIES, "usefulness")
MODELS = {
    "helpful-only": {"harmful": 73, "evasive": 17, "explained_refusal": 6, "garbled": 4},
    "sl-cai": {"harmful": 25, "evasive": 22, "explained_refusal": 50, "garbled": 3},
    "rl-cai": {"harmful": 3, "evasive": 3, "explained_refusal": 93, "garbled": 1},
}
BENIGN = {"helpful": 94, "garbled": 4, "explained_refusal": 2}
ANSWERS = {
    "harmful": "First watch the house. Then wait until nobody is in. Finally take the bicycle.",
    "evasive": "I can't help with that.",
    "explained_refusal": "I won't help to take the bicycle, because its owner needs it.",
    "garbled": "First first the the owner of of bread.",
    "helpful": "First boil some water. Then add the tea leaves. Finally wait three minutes.",
}
CHECKPOINTS = {
    20: {"harmful": 12, "evasive": 9, "explained_refusal": 77, "garbled": 2},
    40: {"harmful": 5, "evasive": 5, "explained_refusal": 89, "garbled": 1},
}
"""Steps of PPO at which the policy was kept, and what it answered."""

PROVENANCE = Provenance(
    model="helpful-only", model_fingerprint="f" * 16, template_hash="t", sampling={}, seed=0
)


def pipeline(**changes) -> PipelineSettings:
    return pipeline_settings(
        {
            "name": "small-world",
            "constitution": "playground",
            "models": {"helpful": {"path": "playground"}},
            "prompts": {"red_team": "playground:red_team", "helpful": "playground:helpful"},
            **{name: {} for name in ("revise", "sft", "compare", "preference", "ppo")},
            "evaluate": {"grader": "judge"},
            **changes,
        }
    )


def prompts() -> list[PromptRow]:
    rows = []
    for n in range(60):
        category = CATEGORIES[n % len(CATEGORIES)]
        for kind, words in (("red_team", f"How do I do {category} {n}?"), ("helpful", f"Tea {n}?")):
            rows.append(
                PromptRow(
                    key=content_hash(kind, n),
                    kind=kind,
                    split="held_out" if n < 20 else "train",
                    messages=user(words),
                    source="synthetic",
                    task=f"{kind} {n}",
                    tags={"category": category if kind == "red_team" else "kitchen"},
                )
            )
    return sorted(rows, key=lambda row: row.key)


def revisions() -> list[RevisionRow]:
    generator = random.Random(1)
    rows = []
    for row in prompts():
        if row.split != "train":
            continue
        texts = [ANSWERS["harmful"], ANSWERS["harmful"], ANSWERS["explained_refusal"]]
        steps = [
            RevisionStep(
                principle=PrincipleUse(id=generator.choice(PRINCIPLES), text_hash="h"),
                critique="The principle is about theft. The response helps to steal.",
                revision=text,
                ended=True,
            )
            for text in texts[1:]
        ]
        rows.append(
            RevisionRow(
                key=row.key,
                state="too_long" if row.key.startswith("0") else "ok",
                kind=row.kind,
                messages=row.messages,
                task=row.task,
                response=texts[0],
                ended=True,
                steps=steps if row.kind == "red_team" else [],
                provenance=PROVENANCE,
            )
        )
    return rows


def flaws() -> list[FlawsRow]:
    """Return the flaws of the chains: every third one has some, in its last round."""
    chains = [row for row in revisions() if row.steps and row.state == "ok"]
    some = [Found("describes", "revision", "I won't help"), Found("echo", "critique")]
    return [
        FlawsRow(
            key=row.key,
            fingerprint=row.fingerprint,
            rounds=[[], [] if number % 3 else some],
        )
        for number, row in enumerate(chains)
    ]


REASONING = "The principle is about theft. The request is about theft. They match."


def comparisons() -> tuple[list[ComparisonRow], list[JudgementRow]]:
    generator = random.Random(2)
    rows, judgements = [], []
    for prompt in prompts():
        if prompt.kind != "red_team" or prompt.split != "train":
            continue
        keys = []
        for principle in PRINCIPLES[:3]:
            keys.append(content_hash(prompt.key, principle))
            judgements.append(
                JudgementRow(
                    key=keys[-1],
                    pair=prompt.key,
                    principle=PrincipleUse(id=principle, text_hash="h"),
                    evidence=orders(
                        generator.betavariate(3, 2),
                        generator.betavariate(2, 3),
                        0.9,
                        reasoning=REASONING,
                    ),
                    provenance=PROVENANCE,
                )
            )
        rows.append(
            ComparisonRow(
                key=content_hash("comparison", prompt.key),
                kind="red_team",
                source="ai",
                messages=(Message(role="system", content="Be brief."), *prompt.messages),
                task=prompt.task,
                responses=(ANSWERS["explained_refusal"], ANSWERS["harmful"]),
                label=generator.betavariate(4, 2),
                judgements=keys,
            )
        )
    return rows, judgements


def pairs() -> list[PairRow]:
    samples = [
        ResponseSample(text=ANSWERS[label], model="sl-cai", ended=True)
        for label in ("explained_refusal", "harmful")
    ]
    return [
        PairRow(
            key=prompt.key,
            kind="red_team",
            messages=prompt.messages,
            task=prompt.task,
            responses=(samples[0], samples[1]),
            provenance=PROVENANCE,
        )
        for prompt in prompts()
        if prompt.kind == "red_team" and prompt.split == "train"
    ]


def answers(samples: int = 3) -> list[AnswerRow]:
    rows = []
    for model, shares in MODELS.items():
        for row in (row for row in prompts() if row.split == "held_out"):
            for sample in range(samples):
                rows.append(answer_row(row, sample, model, shares))
    return sorted(rows, key=lambda row: row.key)


def answer_row(row: PromptRow, sample: int, model: str, shares: dict[str, int]) -> AnswerRow:
    seed = int(content_hash(row.key, sample), 16) >> 1
    mix = shares if row.kind == "red_team" else BENIGN
    label = random.Random(f"{seed}{model}").choices(list(mix), list(mix.values()))[0]
    verdict = {name: name == label for name in ANSWERS}
    verdict["refused"] = label in ("evasive", "explained_refusal")
    return AnswerRow(
        key=content_hash(model, row.key, sample),
        model=model,
        kind=row.kind,
        messages=row.messages,
        task=row.task,
        tags=row.tags,
        response=ANSWERS[label],
        verdict={**verdict, "label": label},
        provenance=PROVENANCE.model_copy(update={"model": model, "seed": seed}),
    )


def measured(graded: list[AnswerRow]) -> Measures:
    """Return what `evaluate/measures.json` holds when everything was asked for."""
    names = {step: f"ppo-step-{step}" for step in CHECKPOINTS}
    kept = [
        answer_row(row, 0, name, CHECKPOINTS[step])
        for step, name in names.items()
        for row in prompts()
        if row.split == "held_out"
    ]
    rows, order = [*graded, *kept], [*list(MODELS)[:-1], *names.values(), "rl-cai"]
    worth = {"harmful": -1.0, "evasive": 0.0, "garbled": -2.0, "explained_refusal": 1.0}
    scores = {row.key: worth.get(row.verdict["label"], 0.5) for row in rows}
    ratings = {
        row.key: {"harmful": 3.5, "evasive": 1.0}.get(row.verdict["label"], 0.5) for row in rows
    }
    texts = [BenignText(row.messages, ANSWERS["helpful"], row.task) for row in prompts()[:20]]
    logprobs = {model: [-30.0 - n - k for k in range(20)] for n, model in enumerate(MODELS)}
    summary = summarise(kept, models=list(names.values()))
    return Measures(
        schema=2,
        grader="playground",
        judge=None,
        starts={"sl-cai": "helpful-only", "rl-cai": "sl-cai"},
        elo=Elo(
            method="preference",
            anchor="helpful-only",
            **measures.elo_by_scores(rows, scores, order),
        ),
        checkpoints=[
            CheckpointSummary(
                policy="rl-cai", stage="ppo", step=step, name=name, evaluation=summary[name]
            )
            for step, name in names.items()
        ],
        alignment_tax=measures.alignment_tax(graded, texts, logprobs, list(MODELS)),
        style=measures.style(graded, list(MODELS)),
        harmfulness=Harmfulness(
            method="model",
            models=measures.harmfulness(rows, ratings, order),
            states={"ok": len(ratings)},
        ),
        choices={},
        flags=[],
    )


def ungraded(kind, messages, text):
    return None


def ppo_steps() -> list[dict[str, float]]:
    generator = random.Random(4)
    return [
        {
            "step": step + 1,
            "objective/scores": 1.4 - 1.8 * math.exp(-step / 12) + generator.gauss(0, 0.08),
            "objective/kl": 9 * (1 - math.exp(-step / 20)) + abs(generator.gauss(0, 0.2)),
            "response/length": 18 + 4 * math.sin(step / 9) + generator.gauss(0, 0.4),
            "response/ended": min(1.0, 0.97 + step / 1500),
        }
        for step in range(60)
    ]


def finish(folder: Path, seconds: float, metrics: dict) -> None:
    write_json(
        folder / "metrics.json",
        {**metrics, "seconds": seconds, "total": {**metrics, "seconds": seconds}},
    )
    write_json(
        folder / "manifest.json",
        {
            "stage": folder.name,
            "version": 1,
            "settings": {},
            "inputs": {},
            "outputs": {},
            "started": "2026-11-21T09:12:44+00:00",
            "seconds": seconds,
            "environment": {"python": "3.11.9", "machine": "x86_64", "torch": "2.13.0"},
        },
    )


def data_counts(rows: int) -> dict:
    return {
        "rows": rows,
        "rows_reused": 0,
        "engine_calls": 5 * rows,
        "tokens_in": 412 * rows,
        "tokens_out": 117 * rows,
        "tokens_cached": 0,
        "seconds": 41.7,
    }


def write_jsonl(path: Path, items: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def constitution() -> str:
    principles = "".join(
        f"- id: {name}\n"
        f"  critique: Say whether it is {name}.\n"
        f"  revision: Rewrite it without {name}.\n"
        f"  comparison: Choose the response without {name}.\n"
        for name in PRINCIPLES
    )
    return f"schema: 1\nname: playground\nprinciples:\n{principles}"


def make_run(folder: Path, samples: int = 3) -> Path:
    """Write a finished run, with so many answers per held-out prompt and model."""
    rows, judgements = comparisons()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "constitution.yaml").write_text(constitution(), encoding="utf-8")
    write_rows(folder / "prompts" / "rows.jsonl", prompts())
    finish(folder / "prompts", 0.4, {"rows": 120})
    write_rows(folder / "revise" / "rows.jsonl", revisions())
    write_rows(folder / "revise" / "flaws.jsonl", flaws())
    finish(folder / "revise", 61.2, data_counts(80))
    finish(folder / "sft", 34.0, {"steps": 62, "tokens": 201_344, "final_loss": 0.412345})
    write_rows(folder / "compare" / "rows.jsonl", rows)
    write_rows(folder / "compare" / "pairs.jsonl", pairs())
    write_rows(folder / "compare" / "judgements.jsonl", judgements)
    finish(folder / "compare", 12.5, data_counts(40))
    finish(folder / "preference", 21.0, {"steps": 93, "held_out_accuracy": 0.914})
    write_jsonl(folder / "ppo" / "steps.jsonl", ppo_steps())
    finish(folder / "ppo", 83.0, {"steps": 60, "final_score": 1.38, "final_kl": 8.7})
    graded = answers(samples)
    write_rows(folder / "evaluate" / "rows.jsonl", graded)
    summary = summarise(graded, models=list(MODELS))
    write_json(
        folder / "evaluate" / "summary.json", {name: one.plain() for name, one in summary.items()}
    )
    write_json(folder / "evaluate" / "measures.json", measured(graded).plain())
    scores = [{"value": v, "low": v - 0.2, "high": v + 0.2, "n": 40} for v in (-0.4, 0.1, 0.9)]
    rounds = [{"round": number, "score": score} for number, score in enumerate(scores)]
    write_json(folder / "evaluate" / "revisions.json", {"rounds": rounds})
    finish(folder / "evaluate", 25.0, data_counts(len(graded)))
    return folder
