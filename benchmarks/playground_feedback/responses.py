"""Responses that the world builds, so that the better one is known."""

import random
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.playground_feedback.asking import FORMS, MEASURED, Judge, cost, settings_of
from cai.compare import by_pair, label_pair, preference, twos_of
from cai.compare.quality import gold_pair
from cai.constitution import load_constitution
from cai.data.records import ComparisonRow, PairRow, PromptRow, content_hash
from cai.playground.documents import RANK, USEFULNESS, ResponseKind, response_of, verdict_of
from cai.playground.sources import playground_prompts
from cai.playground.world import build_world
from cai.settings import LabelPolicy

KINDS: tuple[ResponseKind, ...] = ("explains", "evades", "helps")
K_WISE: dict[str, dict[str, Any]] = {
    "comparison, reasoned": {"reasoning": True},
    "ranking": {"form": "ranking"},
    "ranking, reasoned": {"form": "ranking", "reasoning": True},
    "rating, reasoned": {"form": "rating", "reasoning": True},
}


def by_principle(judge: Judge, count: int) -> list[dict[str, Any]]:
    """Measure verdicts under each principle, where it applies and where it does not."""
    world, rng = build_world(), random.Random(judge.seed)
    tasks = world.select("task", harmful=True)
    prompts = [
        p
        for p in playground_prompts("red_team", seed=judge.seed)
        if p.tags["stratum"] == "task" and len(p.messages) == 1
    ]
    found: list[dict[str, Any]] = []
    for principle in load_constitution("playground").comparisons:
        topic = principle.tags[0]
        alone = load_constitution("playground").model_copy(update={"principles": (principle,)})
        truths: dict[str, str] = {}
        pairs: list[PairRow] = []
        for applies in (True, False):
            some = [
                p
                for p in prompts
                if (topic == USEFULNESS or p.tags["category"] == topic) == applies
            ]
            for prompt in rng.sample(some, min(count, len(some))):
                task = next(task for task in tasks if task.name == prompt.task)
                kinds = tuple(rng.sample(KINDS, 2))
                texts = [response_of(task, kind, world, rng) for kind in kinds]
                pair = built_pair(content_hash(topic, prompt.key), prompt, texts)
                truths[pair.key] = verdict_of(task, kinds, topic)  # type: ignore[arg-type]
                pairs.append(pair)
        rows, _, _ = judge.ask(pairs, alone, settings_of(FORMS[MEASURED]))
        told = [(truths[row.pair], preference(row, LabelPolicy())) for row in rows]
        decided = [
            (p > 0.5) == (truth == "A") for truth, p in told if truth != "either" and p is not None
        ]
        apart = [abs(p - 0.5) for truth, p in told if truth == "either" and p is not None]
        found.append(
            {
                "principle": principle.id,
                "accuracy": sum(decided) / len(decided),
                "n": len(decided),
                "from_half": statistics.fmean(apart) if apart else None,
                "n_not_applying": len(apart),
            }
        )
    return found


def k_wise(judge: Judge, count: int) -> dict[str, Any]:
    """Compare three responses to each prompt, in every way of asking that there is."""
    world, rng = build_world(), random.Random(judge.seed)
    prompts = [
        p
        for p in playground_prompts("red_team", seed=judge.seed)
        if p.split == "train" and len(p.messages) == 1
    ][:count]
    tasks = {task.name: task for task in world.tasks}
    constitution = load_constitution("playground")
    weights = {p.id: p.weight for p in constitution.principles}
    pairs: list[PairRow] = []
    order: dict[str, list[ResponseKind]] = {}
    for prompt in prompts:
        kinds: list[ResponseKind] = rng.sample(KINDS, len(KINDS))
        texts = [response_of(tasks[prompt.task], kind, world, rng) for kind in kinds]
        whole = built_pair(prompt.key, prompt, texts)
        third = whole.responses[0].model_copy(update={"text": texts[2]})
        pairs.append(whole.model_copy(update={"responses": (*whole.responses, third)}))
        order[prompt.key] = kinds
    found: dict[str, Any] = {}
    for name, form in K_WISE.items():
        settings = settings_of(form)
        rows, used, seconds = judge.ask(pairs, constitution, settings)
        judged = by_pair(rows, settings.labels)
        right: list[bool | None] = []
        for pair in pairs:
            for two in twos_of(pair):
                label = label_pair(
                    pair, judged[pair.key], weights=weights, policy=settings.labels, two=two
                ).label
                ranks = [RANK["category"].index(order[pair.key][number]) for number in two]
                right.append(None if label is None else (label > 0.5) == (ranks[0] < ranks[1]))
        answered = [r for r in right if r is not None]
        found[name] = {
            "accuracy": sum(answered) / len(answered) if answered else None,
            "labels": len(answered),
            "of": len(right),
            **cost(used, seconds, len(pairs)),
        }
    return found


def built_pair(key: str, prompt: PromptRow, texts: Sequence[str]) -> PairRow:
    """Return the first two texts as a pair of responses to a red-team prompt."""
    return gold_pair(
        ComparisonRow(
            key=key,
            kind="red_team",
            source="human",
            messages=prompt.messages,
            task=prompt.task,
            responses=(texts[0], texts[1]),
        )
    )
