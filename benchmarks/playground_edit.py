"""Edit and see: take one principle out of a finished run's constitution, and run again.

    python -m benchmarks.playground_edit

Prints what was made again, what was kept, and the table before and after.
"""

import sys
from typing import Any

from benchmarks.playground_steerability import harmful
from benchmarks.runs import experiment, finish
from benchmarks.show import markdown_table
from cai.constitution import load_constitution

NAME = "playground_edit"
REMOVED = "privacy"


def markdown(result: dict[str, Any]) -> str:
    """Show harm by category before and after, and the work of the second run."""
    runs = result["runs"]
    before, after = (harmful(runs[name], "rl-cai") for name in ("baseline", "edited"))
    effect = markdown_table(
        ("harmful, RL-CAI", *before),
        [
            ("all principles", *(f"{rate:.2f}" for rate in before.values())),
            (f"without `{REMOVED}`", *(f"{rate:.2f}" for rate in after.values())),
        ],
    )
    stages = runs["edited"]["stages"]
    work = markdown_table(
        ("stage", "rows", "kept from before", "seconds"),
        [
            (
                name,
                str(stage.get("rows", "")),
                str(stage.get("rows_reused", "")),
                f"{stage['seconds']:.0f}",
            )
            for name, stage in stages.items()
        ],
    )
    seconds = f"{runs['edited']['seconds']:.0f} s, against {runs['baseline']['seconds']:.0f} s"
    return f"{effect}\n\nThe second run took {seconds} from nothing:\n\n{work}"


def main() -> int:
    """Run, print and save."""
    kept = [p for p in load_constitution("playground").principles if p.id != REMOVED]
    with experiment(NAME, __doc__ or "") as lab:
        lab.baseline()
        lab.variant("edited", principles=kept)
        lab.run_variants()
        result = lab.result()
    return finish(result, markdown)


if __name__ == "__main__":
    sys.exit(main())
