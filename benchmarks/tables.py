"""Make `docs/experiments.md` from the results in `benchmarks/results/`.

python -m benchmarks.tables
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    playground_claims,
    playground_controls,
    playground_edit,
    playground_guard,
    playground_steerability,
    quickstart,
)
from benchmarks.playground_feedback import shown as playground_feedback
from benchmarks.real_model import shown as real_model
from benchmarks.runs import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
HEAD = """# Experiments

Made by `python -m benchmarks.tables` from `benchmarks/results/`, each part by the command that it
names. Rates on the playground are shares of answers to held-out tasks (stratum `task`) at
temperature 1, by the strict ground-truth grader. Every experiment is one seed unless it says
otherwise; with about 300 answers a side over 40 tasks, rates that differ by less than 5 points do
not differ.
"""
PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    quickstart.NAME: ("The quickstart", quickstart.markdown),
    playground_steerability.NAME: ("Steerability", playground_steerability.markdown),
    playground_controls.NAME: ("Controls", playground_controls.markdown),
    playground_edit.NAME: ("Edit and see", playground_edit.markdown),
    playground_guard.NAME: ("The guard", playground_guard.markdown),
    playground_claims.NAME: ("The paper's claims", playground_claims.markdown),
    playground_feedback.NAME: ("AI feedback", playground_feedback.markdown),
    real_model.NAME: ("A real model", real_model.markdown),
}


def page() -> str:
    """Return the page, with a part for each result that is there."""
    parts = [HEAD]
    for name, (title, markdown) in PARTS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            parts.append(_part(name, title, result, markdown(result)))
    return "\n".join(parts)


def _part(name: str, title: str, result: dict[str, Any], body: str) -> str:
    machine = result["machine"]
    command = f"`python -m benchmarks.{name}`"
    seeds = result.get("seeds") or [result["seed"]]
    about = (
        f"{command}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, on "
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}."
    )
    return f"## {title}\n\n{about}\n\n{body}\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
