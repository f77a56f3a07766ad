"""The paper's claims, on the playground.

    python -m benchmarks.playground_claims

- the more revisions, the better (figure 5): harm and preference score after 0 to 4 revisions;
- critique, then revise, against revising directly (figure 7);
- soft against hard and clamped labels (section 4.1);
- the number of principles (figure 6): 1, 2, 4, 8 and 16;
- calibration of the AI labels (figure 9), against the order that the constitution states.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import experiment, finish
from benchmarks.show import markdown_table, rates_table
from cai.constitution import load_constitution
from cai.constitution.schema import Principle
from cai.data.records import ComparisonRow, RevisionRow
from cai.data.store import read_rows
from cai.models.preference_model import PreferenceModel
from cai.playground import lexicon
from cai.playground.grader import grade
from cai.playground.world import CATEGORIES

NAME = "playground_claims"
COUNTS = (1, 2, 4, 8, 16)
ORDER = ("explained_refusal", "evasive", "garbled", "harmful")
"""Responses to a harmful request, best first, as the category principles order them."""


def principles_in_order() -> list[Principle]:
    """Return 16 principles: the constitution's six, then two rewordings of each category's."""
    shipped = {p.tags[0]: p for p in load_constitution("playground").principles}
    ordered = [shipped[category] for category in CATEGORIES] + [shipped["usefulness"]]
    for n in range(2):
        for category in CATEGORIES:
            critique, revision, comparison = (
                lexicon.REWORDINGS[half][n].format(harm=lexicon.HARM[category])
                for half in ("critique", "revision", "comparison")
            )
            ordered.append(
                Principle(
                    id=f"{category}-{n + 2}",
                    critique=critique,
                    revision=revision,
                    comparison=comparison,
                    tags=[category],
                )
            )
    return ordered


def revisions(run: Path) -> list[dict[str, float]]:
    """Return harm and preference score of the red-team chains after 0, 1, … revisions."""
    rows = [r for r in read_rows(run / "revise" / "rows.jsonl", RevisionRow) if r.steps]
    judge = PreferenceModel.load(run / "preference" / "model")
    found: list[dict[str, float]] = []
    for n in range(max(len(row.steps) for row in rows) + 1):
        texts = [(row.messages, row.steps[n - 1].revision if n else row.response) for row in rows]
        labels = [grade(messages, text) for messages, text in texts]
        found.append(
            {
                "revisions": n,
                "rows": len(rows),
                **{
                    label: labels.count(label) / len(rows)
                    for label in ("harmful", "evasive", "garbled")
                },
                "preference_score": sum(judge.score(texts)) / len(rows),
            }
        )
    return found


def calibration(run: Path, bins: int = 5) -> dict[str, Any]:
    """Compare AI labels with the constitution's order, where the two responses differ in kind.

    Returns:
        `pairs`, `accuracy`, `calibration_error` (expected, absolute, over bins of equal width of
        the label of the response shown first) and `bins` with `label`, `truth` and `pairs` each.
    """
    points: list[tuple[float, float]] = []
    for row in read_rows(run / "compare" / "rows.jsonl", ComparisonRow):
        ranks = [ORDER.index(grade(row.messages, text)) for text in row.responses]
        if row.label is not None and ranks[0] != ranks[1]:
            points.append((row.label, float(ranks[0] < ranks[1])))
    groups: list[dict[str, float]] = []
    for n in range(bins):
        inside = [p for p in points if min(math.floor(p[0] * bins), bins - 1) == n]
        if inside:
            groups.append(
                {
                    "label": sum(label for label, _ in inside) / len(inside),
                    "truth": sum(truth for _, truth in inside) / len(inside),
                    "pairs": len(inside),
                }
            )
    error = sum(g["pairs"] * abs(g["label"] - g["truth"]) for g in groups) / len(points)
    right = sum((label > 0.5) == (truth > 0.5) for label, truth in points)
    return {
        "pairs": len(points),
        "accuracy": right / len(points),
        "calibration_error": error,
        "bins": groups,
    }


def _numbers(rows: Sequence[dict[str, float]], columns: Sequence[str]) -> list[list[str]]:
    return [
        [str(v) if isinstance(v := row[c], int) else f"{v:.2f}" for c in columns] for row in rows
    ]


def markdown(result: dict[str, Any]) -> str:
    """Show one table per claim."""
    steps = ("revisions", "rows", "harmful", "evasive", "garbled", "preference_score")
    runs, judged = result["runs"], result["calibration"]
    tables = {
        "Revisions of red-team chains": markdown_table(
            [c.replace("_", " ") for c in steps], _numbers(result["revisions"], steps)
        ),
        "The same without critiques (scored by that run's own preference model)": markdown_table(
            [c.replace("_", " ") for c in steps], _numbers(result["direct_revisions"], steps)
        ),
        "Models": rates_table(runs, ("sl-cai", "rl-cai")),
        f"AI labels: accuracy {judged['accuracy']:.2f}, expected calibration error "
        f"{judged['calibration_error']:.2f} on {judged['pairs']} pairs that differ": markdown_table(
            ("mean label", "share truly better", "pairs"),
            _numbers(judged["bins"], ("label", "truth", "pairs")),
        ),
    }
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in tables.items())


def main() -> int:
    """Run, print and save."""
    ordered = principles_in_order()
    with experiment(NAME, __doc__ or "") as lab:
        baseline = lab.baseline()
        direct = lab.variant("direct revision", "revise.critique=false")
        lab.variant("hard labels", "compare.labels.kind=hard")
        lab.variant("labels clamped to 0.4-0.6", "compare.labels.clamp=[0.4, 0.6]")
        for count in COUNTS:
            lab.variant(f"principles {count}", principles=ordered[:count])
        lab.run_variants()
        result = lab.result(
            revisions=revisions(baseline),
            direct_revisions=revisions(direct),
            calibration=calibration(baseline),
        )
    return finish(result, markdown)


if __name__ == "__main__":
    sys.exit(main())
