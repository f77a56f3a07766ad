"""`cai export`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli import completion
from cai.cli.options import JSON_LINES, output_file
from cai.data.store import write_atomically, writing
from cai.data.tables import is_even, plain_rows
from cai.errors import CaiError
from cai.settings import PipelineSettings

ENDINGS = {
    "jsonl": JSON_LINES,
    "parquet": (".parquet",),
    "trl": JSON_LINES,
}
FILES = {"jsonl": "rows.jsonl", "parquet": "train.parquet", "trl": "train.parquet"}


def export(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    stage: Annotated[
        str,
        typer.Argument(
            help="The stage: `revise`, `compare`, …", autocompletion=completion.data_stages
        ),
    ],
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="The file to write.")],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="`jsonl` (all rows), `parquet` (trainable ones), or `trl`; by the ending of the "
            "file if left out.",
        ),
    ] = None,
) -> None:
    """Write the data set of a stage to a file."""
    from cai.pipeline.load import read_resolved

    stages = data_sets(read_resolved(run_folder))
    if stage not in stages:
        use = f"use {' or '.join(stages)}" if stages else f"{run_folder} has no stage that does"
        raise typer.BadParameter(f"{stage!r} makes no data set; {use}")
    file_format = _format(file_format, out)
    source = _finished(run_folder, stage, FILES[file_format])
    trainable: list[dict[str, Any]] = []
    remarks: list[str] = []
    if file_format != "jsonl":
        import pyarrow.parquet as pq

        trainable = pq.read_table(source).to_pylist()
        remarks = _not_trainable(_finished(run_folder, stage, FILES["jsonl"]), trainable)
    if file_format == "trl":  # for trainers that read texts alone
        rows, left_out = plain_rows(trainable)
        remarks += [f"Left out: {count} {reason}." for reason, count in left_out.items()]
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        write_atomically(out, [line.encode() + b"\n" for line in lines])
    else:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out)
    if file_format == "parquet" and (even := sum(map(is_even, trainable))):
        remarks.append(
            f"{even} pairs have chosen_probability 0.5: neither response is the better one. "
            "`--format trl` leaves them out, for trainers that do not read that column."
        )
    for line in (f"Wrote {out}", *remarks):
        typer.echo(line)


def _format(given: str | None, out: Path) -> str:
    """Return the format to write, which the ending of the file must not contradict."""
    ending = out.suffix.lower()
    if given is None:
        given = next((name for name, endings in ENDINGS.items() if ending in endings), "jsonl")
    if given not in FILES:
        raise typer.BadParameter(f"unknown format {given!r}; use {', '.join(FILES)}")
    if ending and ending not in ENDINGS[given]:
        known = "; ".join(f"`{name}`: {', '.join(e)}" for name, e in ENDINGS.items())
        raise CaiError(
            f"{out} ends with `{ending}`, in which `--format {given}` does not write. The formats "
            f"and their endings are {known}. For another one, export parquet and convert it: "
            "`pandas.read_parquet(FILE).to_csv(…)`."
        )
    return given


def data_sets(settings: PipelineSettings) -> list[str]:
    """Name the stages of a run that make rows to train on."""
    from cai.pipeline.method import stages_by_name

    known = stages_by_name()
    return [
        name
        for name, section in settings.sections.items()
        if "train.parquet" in known[section.stage or name].outputs
    ]


def _finished(run_folder: Path, stage: str, name: str) -> Path:
    file = run_folder / stage / name
    if not file.exists():
        raise CaiError(
            f"{file} does not exist: `{stage}` has not finished in {run_folder}. Run the "
            "pipeline, then export again."
        )
    return file


def _not_trainable(file: Path, trainable: Collection[dict[str, Any]]) -> list[str]:
    """Say how many of a stage's rows have nothing to train on, by state."""
    keys = {row["key"] for row in trainable}
    rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    states = Counter(row.get("state", "ok") for row in rows if row["key"] not in keys)
    if not states:
        return []
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return [f"Left out: {states.total()} of {len(rows)} rows, by state: {counts}."]
