"""Flaws of revisions on chains that are known to be good or bad.

    python -m benchmarks.revision_flaws GOOD [GOOD ...] --labelled RUN@LABELS [RUN@LABELS ...]

GOOD is a run folder or a file of chains, perhaps with its constitution (`FILE@CONSTITUTION`); each
of its revisions counts as good. LABELS says which revisions of a run are bad: JSON of `KEY/ROUND`
to true or false. `benchmarks/revision_labels` has such files, and the pipeline that they belong to.

Prints how many revisions have each flaw, and precision and recall of "has a flaw".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.show import markdown_table
from cai.constitution import load_constitution
from cai.data.records import RevisionRow
from cai.data.store import read_rows
from cai.evaluate.rates import Rate, rate
from cai.revise.flaws import FLAWS
from cai.revise.quality import Assessed, Assessor
from cai.revise.recorded import read_chains
from cai.settings import ReviseSettings

COUNTED = ReviseSettings().flaws


@dataclass(frozen=True)
class Judged:
    """A revision, and whether a person called it bad; `task` groups revisions of one chain."""

    task: str
    bad: bool
    seen: Assessed


def judged(target: str, *, labelled: bool) -> Iterator[Judged]:
    """Yield the revisions of a run or a file; those without a label are left out."""
    name, _, beside = target.partition("@")
    folder = Path(name)
    if folder.is_dir():
        rows = read_rows(folder / "revise/rows.jsonl", RevisionRow)
        own = load_constitution(folder / "constitution.yaml")
    else:
        rows = read_chains(name)
        own = load_constitution(beside) if beside else None
    labels = json.loads(Path(beside).read_text()) if labelled else None
    assessor = Assessor(own, COUNTED)
    for row in rows:
        for one in assessor.rounds(row):
            bad = labels.get(f"{one.key}/{one.number}") if labels else False
            if bad is not None:
                yield Judged(row.key, bad, one)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("good", nargs="*")
    parser.add_argument("--labelled", nargs="*", default=[])
    options = parser.parse_args()
    targets = [(t, False) for t in options.good] + [(t, True) for t in options.labelled]
    found = {t: list(judged(t, labelled=labelled)) for t, labelled in targets}
    head = ("chains", "revisions", "bad", "flawed", *FLAWS)
    lines: list[list[str]] = []
    for target, rows in found.items():
        flaws = [set(row.seen.flaws()) for row in rows]
        counts = [str(sum(flaw in own for own in flaws)) for flaw in FLAWS]
        bad = str(sum(row.bad for row in rows))
        flawed = str(sum(row.seen.flawed for row in rows))
        lines.append(
            [
                target.partition("@")[0].rstrip("/").rpartition("/")[2],
                str(len(rows)),
                bad,
                flawed,
                *counts,
            ]
        )
    print(markdown_table(head, lines))
    every = [row for rows in found.values() for row in rows]
    flawed = [row for row in every if row.seen.flawed]
    bad = [row for row in every if row.bad]
    precision = rate([row.bad for row in flawed], [row.task for row in flawed])
    recall = rate([row.seen.flawed for row in bad], [row.task for row in bad])
    print(f"\nprecision {shown(precision)}, recall {shown(recall)}")


def shown(found: Rate) -> str:
    """Write a share with its 95% interval."""
    if found.value is None:
        return "not measured"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] of {found.n}"


if __name__ == "__main__":
    main()
