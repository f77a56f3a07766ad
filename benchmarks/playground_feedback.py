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
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.runs import save
from benchmarks.show import markdown_table
from cai.compare import (
    JudgementInputs,
    by_pair,
    judge,
    judgement_items,
    label_pair,
    preference,
    twos_of,
)
from cai.constitution import Constitution, load_constitution
from cai.engines import Engine, Usage
from cai.engines.opening import open_engine
from cai.label_quality import LabelQuality, ask_about, gold_pair, measure_quality
from cai.playground.documents import RANK, USEFULNESS, ResponseKind, response_of, verdict_of
from cai.playground.sources import feedback_comparisons, playground_prompts
from cai.playground.world import build_world
from cai.records import ComparisonRow, JudgementRow, PairRow, content_hash
from cai.rows import Item, run_rows
from cai.settings import CompareSettings, LabelPolicy, ModelSettings
from cai.store import RowStore

NAME = "playground_feedback"
KINDS: tuple[ResponseKind, ...] = ("explains", "evades", "helps")
FORMS: dict[str, dict[str, Any]] = {
    "comparison": {},
    "comparison, reasoned": {"reasoning": True},
    "comparison, 3 reasonings": {"reasoning": True, "reasoning_samples": 3},
    "rating": {"form": "rating"},
    "rating, reasoned": {"form": "rating", "reasoning": True},
    "critique": {"form": "critique"},
}
K_WISE: dict[str, dict[str, Any]] = {
    "comparison, reasoned": {"reasoning": True},
    "ranking": {"form": "ranking"},
    "ranking, reasoned": {"form": "ranking", "reasoning": True},
    "rating, reasoned": {"form": "rating", "reasoning": True},
}
MEASURED = "comparison, reasoned"
"""The form that the bounds are for: the quickstart's."""
ASKED = {"principles": "all", "reasoning_tokens": 64, "labels": {"ignore_within": 0.2}}
BIAS = 1.0
"""Nats that are added to whichever option is (A)."""


class Judge:
    """The playground's model, and what it has cost so far."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.seed = seed

    def ask(
        self, pairs: Iterable[PairRow], constitution: Constitution, settings: CompareSettings
    ) -> tuple[list[JudgementRow], Usage, float]:
        """Return the judgements, and the calls, tokens and seconds that they took."""
        before, started = asdict(self.engine.usage), time.perf_counter()
        rows = asyncio.run(
            ask_about(
                pairs,
                constitution=constitution,
                settings=settings,
                engine=self.engine,
                model="playground",
                seed=self.seed,
            )
        )
        after = asdict(self.engine.usage)
        used = Usage(**{name: after[name] - before[name] for name in after})
        return rows, used, time.perf_counter() - started


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
                row = ComparisonRow(
                    key=content_hash(topic, prompt.key),
                    kind="red_team",
                    source="human",
                    messages=prompt.messages,
                    task=prompt.task,
                    responses=(texts[0], texts[1]),
                )
                truths[row.key] = verdict_of(task, kinds, topic)  # type: ignore[arg-type]
                pairs.append(gold_pair(row))
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


def settings_of(form: dict[str, Any], **more: Any) -> CompareSettings:  # noqa: ANN401
    """Return the settings of a form, as the benchmark asks it."""
    return CompareSettings.model_validate({**ASKED, **form, **more})


def quality_of(gold: Sequence[ComparisonRow], rows: Iterable[JudgementRow]) -> LabelQuality:
    """Measure labels under all principles of the playground."""
    constitution = load_constitution("playground")
    weights = {p.id: p.weight for p in constitution.principles}
    return measure_quality(gold, rows, weights=weights, policy=settings_of({}).labels)


def biased(rows: Iterable[JudgementRow]) -> list[JudgementRow]:
    """Return judgements as a judge would make them that likes whatever is called (A)."""
    return [
        row.model_copy(
            update={
                "evidence": [
                    e.model_copy(update={"logprobs": (e.logprobs[0] + BIAS, *e.logprobs[1:])})
                    for e in row.evidence
                ]
            }
        )
        for row in rows
    ]


def bias_removed(rows: Sequence[JudgementRow]) -> dict[str, float]:
    """Say how much of an injected position bias is left in the probabilities of one judgement.

    Returns:
        `signed`, the mean shift of P(response 0), and `absolute`, the mean size of the shift, with
        the `first` order alone and with the `average` of both.
    """
    found: dict[str, float] = {}
    for orders in ("first", "average"):
        policy = LabelPolicy(orders=orders)
        shifts = [
            after - before
            for old, new in zip(rows, biased(rows), strict=True)
            if (before := preference(old, policy)) is not None
            and (after := preference(new, policy)) is not None
        ]
        found[f"signed, {orders}"] = statistics.fmean(shifts)
        found[f"absolute, {orders}"] = statistics.fmean(map(abs, shifts))
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
        row = ComparisonRow(
            key=prompt.key,
            kind="red_team",
            source="human",
            messages=prompt.messages,
            task=prompt.task,
            responses=(texts[0], texts[1]),
        )
        whole = gold_pair(row)
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


def cost(used: Usage, seconds: float, rows: int) -> dict[str, float]:
    """Return what one row cost."""
    return {
        "calls": used.engine_calls / rows,
        "tokens_in": used.tokens_in / rows,
        "tokens_out": used.tokens_out / rows,
        "seconds": seconds / rows,
    }


def relabelling(judge_: Judge, count: int) -> dict[str, Any]:
    """Reword one `comparison` of a constitution of 16 principles; count the engine's calls."""
    constitution = load_constitution("harmless")
    settings = CompareSettings(few_shot=0)
    pairs = [gold_pair(row) for row in feedback_comparisons(seed=judge_.seed, limit=count)]
    engine, seed = judge_.engine, judge_.seed

    def items_under(edited: Constitution) -> list[Item[JudgementInputs]]:
        return [
            item
            for pair in pairs
            for item in judgement_items(
                pair,
                constitution=edited,
                settings=settings,
                model_fingerprint=engine.fingerprint,
                seed=seed,
            )
        ]

    def reworded(number: int) -> Constitution:
        principles = list(constitution.principles)
        changed = f"{principles[number].comparison} Say which."
        principles[number] = principles[number].model_copy(update={"comparison": changed})
        return constitution.model_copy(update={"principles": tuple(principles)})

    def calls(edited: Constitution, folder: Path) -> int:
        before = engine.usage.engine_calls

        async def make(item: Item[JudgementInputs]) -> JudgementRow:
            return await judge(
                item,
                constitution=edited,
                settings=settings,
                engine=engine,
                model="playground",
                seed=seed,
            )

        asyncio.run(
            run_rows(
                items_under(edited), make, store=RowStore(folder, JudgementRow), concurrency=64
            )
        )
        return engine.usage.engine_calls - before

    whole = {item.fingerprint for item in items_under(constitution)}
    numbers = [n for n, p in enumerate(constitution.principles) if p.comparison is not None]
    shares = [
        sum(item.fingerprint not in whole for item in items_under(reworded(n))) / len(whole)
        for n in numbers
    ]
    with tempfile.TemporaryDirectory() as folder:
        full = calls(constitution, Path(folder))
        edited = calls(reworded(numbers[1]), Path(folder))
    return {
        "principles": len(numbers),
        "edited": constitution.principles[numbers[1]].id,
        "full_pass_calls": full,
        "relabelling_calls": edited,
        "share": edited / full,
        "mean_share": statistics.fmean(shares),
        "largest_share": max(shares),
    }


def missed_bounds(result: dict[str, Any]) -> list[str]:
    """Say which of the wanted numbers were not reached."""
    said = [
        f"{p['principle']}: accuracy {p['accuracy']:.3f}, wanted at least 0.95"
        for p in result["by_principle"]
        if p["accuracy"] < 0.95
    ]
    said += [
        f"{p['principle']}: {p['from_half']:.3f} from one half, wanted at most 0.05"
        for p in result["by_principle"]
        if p["from_half"] is not None and p["from_half"] > 0.05
    ]
    error = result["forms"][MEASURED]["calibration_error"]["value"]
    if error > 0.05:
        said.append(f"calibration error {error:.3f}, wanted at most 0.05")
    removed = bias_share_removed(result["bias"])
    if removed < 0.9:
        said.append(f"{removed:.0%} of the position bias removed, wanted at least 90%")
    share = result["relabelling"]["share"]
    if share > 0.1:
        said.append(f"relabelling took {share:.0%} of the calls, wanted at most 10%")
    return said


def bias_share_removed(bias: dict[str, float]) -> float:
    """Return the share of the mean shift that averaging the two orders takes away."""
    return 1 - abs(bias["signed, average"]) / abs(bias["signed, first"])


def markdown(result: dict[str, Any]) -> str:
    """Show verdicts by principle, forms beside each other, position bias and relabelling."""

    def number(rate: dict[str, Any]) -> str:
        return "-" if rate["value"] is None else f"{rate['value']:.3f}"

    principles = markdown_table(
        ("principle", "right where it applies", "n", "from one half elsewhere", "n"),
        [
            (
                p["principle"],
                f"{p['accuracy']:.3f}",
                str(p["n"]),
                "-" if p["from_half"] is None else f"{p['from_half']:.3f}",
                str(p["n_not_applying"]),
            )
            for p in result["by_principle"]
        ],
    )
    forms = markdown_table(
        (
            "form",
            "accuracy",
            "labelled",
            "calibration error",
            "flips",
            "calls",
            "tokens in",
            "out",
        ),
        [
            (
                name,
                number(form["accuracy"]),
                number(form["answered"]),
                number(form["calibration_error"]),
                number(form["swap_flips"]),
                f"{form['cost']['calls']:.0f}",
                f"{form['cost']['tokens_in']:.0f}",
                f"{form['cost']['tokens_out']:.0f}",
            )
            for name, form in result["forms"].items()
        ],
    )
    several = markdown_table(
        ("three responses", "accuracy", "labels", "calls", "tokens in", "out"),
        [
            (
                name,
                "-" if form["accuracy"] is None else f"{form['accuracy']:.3f}",
                f"{form['labels']} of {form['of']}",
                f"{form['calls']:.0f}",
                f"{form['tokens_in']:.0f}",
                f"{form['tokens_out']:.0f}",
            )
            for name, form in result["k_wise"].items()
        ],
    )
    first = next(iter(result["forms"].values()))
    bias, edit = result["bias"], result["relabelling"]
    facts = [
        f"- always the first response: {number(first['always_first'])}; the longer one: "
        f"{number(first['longer_wins'])}",
        f"- {BIAS:g} nat in favour of (A) shifts P(response 0) by {bias['signed, first']:+.4f} in "
        f"one order and by {bias['signed, average']:+.4f} in the mean of both: "
        f"{bias_share_removed(bias):.1%} removed (mean size of the shift: "
        f"{bias['absolute, first']:.4f} and {bias['absolute, average']:.4f})",
        f"- rewording `{edit['edited']}`, one of {edit['principles']} principles: "
        f"{edit['relabelling_calls']} engine calls, a full pass {edit['full_pass_calls']} "
        f"({edit['share']:.1%}); over all single edits {edit['mean_share']:.1%} on average, "
        f"{edit['largest_share']:.1%} at most",
    ]
    facts += [f"- missed: {said}" for said in result["missed"]]
    about = (
        f"Made with `--comparisons {result['comparisons']} --per-principle "
        f"{result['per_principle']} --prompts {result['prompts']}`. Costs are per pair, for three "
        "responses per prompt, under six principles. The tiny model has been trained on verdicts "
        "on two responses and on ratings after reasoning; rankings of three and the question after "
        "a critique are new to it."
    )
    return "\n\n".join([principles, forms, several, about, "\n".join(facts)])


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
    print(markdown(result))
    save(result)
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
