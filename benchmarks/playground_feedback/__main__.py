"""How good the playground's AI feedback is, form by form, and what it costs.

    python -m benchmarks.playground_feedback

Responses are built by the world, so the better one is known. Verdicts by principle are on held-out
tasks (stratum `task`): where the responses differ in what the principle is about, how often the
better one wins; where they do not, how far the probability is from one half. Labels of every form
are held against the same comparisons (`playground:feedback`), under all principles. A bias towards
the option (A) is added to the log-probabilities as the engine would. Exit status 1 when a bound is
missed.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.playground_feedback.asking import FORMS, MEASURED, Judge, cost, settings_of
from benchmarks.playground_feedback.bias import bias_removed
from benchmarks.playground_feedback.relabelling import relabelling
from benchmarks.playground_feedback.responses import by_principle, k_wise
from benchmarks.playground_feedback.shown import NAME, markdown, missed_bounds
from benchmarks.runs import finish
from cai.compare.quality import LabelQuality, gold_pair, measure_quality
from cai.constitution import load_constitution
from cai.data.records import ComparisonRow, JudgementRow
from cai.engines.opening import open_engine
from cai.playground.sources import feedback_comparisons
from cai.settings import ModelSettings


def quality_of(gold: Sequence[ComparisonRow], rows: Iterable[JudgementRow]) -> LabelQuality:
    """Measure labels under all principles of the playground."""
    constitution = load_constitution("playground")
    weights = {p.id: p.weight for p in constitution.principles}
    return measure_quality(gold, rows, weights=weights, policy=settings_of({}).labels)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-principle", type=int, default=60)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=30, help="with three responses each")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(open_engine(ModelSettings(path="playground")), chosen.seed)
    gold = feedback_comparisons(seed=chosen.seed, limit=chosen.comparisons)
    pairs, constitution = list(map(gold_pair, gold)), load_constitution("playground")
    result: dict[str, Any] = {
        "name": NAME,
        "seed": chosen.seed,
        "machine": machine(),
        "comparisons": len(gold),
        "per_principle": chosen.per_principle,
        "prompts": chosen.prompts,
        "by_principle": by_principle(judge, chosen.per_principle),
        "relabelling": relabelling(judge, chosen.comparisons),
        "k_wise": k_wise(judge, chosen.prompts),
        "forms": {},
    }
    for name, form in FORMS.items():
        rows, used, seconds = judge.ask(pairs, constitution, settings_of(form))
        quality = asdict(quality_of(gold, rows))
        result["forms"][name] = {**quality, "cost": cost(used, seconds, len(pairs))}
        if name == MEASURED:
            result["bias"] = bias_removed(rows)
        print(f"{name}: {seconds:.0f} s", flush=True)
    asyncio.run(judge.engine.close())
    result["missed"] = missed_bounds(result)
    result["met"] = not result["missed"]
    return finish(result, markdown)


if __name__ == "__main__":
    sys.exit(main())
