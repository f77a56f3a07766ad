"""Precision and recall of the refusal matcher on answers that people have labelled.

    python -m benchmarks.refusals --data FOLDER

FOLDER (with its subfolders) holds answers with XSTest's `final_label`: files named
`*completions*.csv` of paul-rottger/exaggerated-safety. Refusals are full or partial. The patterns
were written with the answers of one half of the prompts at hand (`half`); the other half is the
measure.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.show import markdown_table
from cai.evaluate.rates import rate
from cai.evaluate.recorded import read_answers
from cai.evaluate.refusals import stance
from cai.report.wording import show


@dataclass(frozen=True)
class Labelled:
    """An answer that somebody has labelled.

    Attributes:
        prompt: What it answers.
        refuses: The label: whether it refuses, fully or partly.
        found: Whether the matcher finds a refusal.
    """

    prompt: str
    refuses: bool
    found: bool


def half(prompt: str) -> str:
    """Return `tuned` or `held out`, by a hash of the prompt; all answers to it are on one side."""
    return ("tuned", "held out")[hashlib.sha256(prompt.strip().encode()).digest()[0] % 2]


def labelled(path: Path) -> list[Labelled]:
    """Read a file of answers with labels, and match them."""
    recorded = read_answers(str(path))
    return [
        Labelled(row.messages[-1].content, refuses, stance(text) != "compliance")
        for (row, _), text, refuses in zip(
            recorded.asked, recorded.texts, recorded.refused, strict=True
        )
        if refuses is not None
    ]


def measures(answers: Sequence[Labelled]) -> list[str]:
    """Return precision, recall and agreement in percent, with 95% intervals by prompt."""
    prompts = [answer.prompt for answer in answers]
    values = (
        [a.refuses if a.found else None for a in answers],
        [a.found if a.refuses else None for a in answers],
        [a.found == a.refuses for a in answers],
    )
    return [str(show(rate(value, prompts))) for value in values]


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of labelled answers")
    folder = parser.parse_args().data
    files = {path.stem: labelled(path) for path in sorted(folder.rglob("*completions*.csv"))}
    if not files:
        parser.error(f"{folder} holds no labelled answers (*completions*.csv)")
    if len(files) > 1:
        files["all"] = [answer for answers in files.values() for answer in answers]
    rows: list[list[str]] = []
    for name, answers in files.items():
        for side in ("tuned", "held out"):
            some = [answer for answer in answers if half(answer.prompt) == side]
            counts = [str(len(some)), str(sum(answer.refuses for answer in some))]
            rows.append([f"{name}, {side}", *counts, *measures(some)])
    titles = (
        "file, half of the prompts",
        "answers",
        "refusals",
        "precision",
        "recall",
        "agreement",
    )
    print(markdown_table(titles, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
