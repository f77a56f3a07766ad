"""`cai export`."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from cai.data.store import write_atomically, writing
from cai.errors import CaiError
from cai.pipeline.load import read_resolved
from cai.pipeline.method import stages_by_name
from cai.settings import PipelineSettings

FILES = {"jsonl": "rows.jsonl", "parquet": "train.parquet", "trl": "train.parquet"}


def export_command(run_folder: Path, stage: str, *, out: Path, file_format: str) -> None:
    """Write a stage's rows (`jsonl`), or its trainable rows (`parquet`, or `trl` as JSON Lines)."""
    stages = data_sets(read_resolved(run_folder))
    if stage not in stages:
        use = f"use {' or '.join(stages)}" if stages else f"{run_folder} has no stage that does"
        raise typer.BadParameter(f"{stage!r} makes no data set; {use}")
    if file_format not in FILES:
        raise typer.BadParameter(f"unknown format {file_format!r}; use {', '.join(FILES)}")
    source = run_folder / stage / FILES[file_format]
    if not source.exists():
        raise CaiError(
            f"{source} does not exist: `{stage}` has not finished in {run_folder}. Run the "
            "pipeline, then export again."
        )
    if file_format == "trl":
        import pyarrow.parquet as pq

        rows = pq.read_table(source).to_pylist()
        write_atomically(out, [_json_line(row) for row in rows])
    else:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out)
    typer.echo(f"Wrote {out}")


def data_sets(settings: PipelineSettings) -> list[str]:
    """Name the stages of a run that make rows to train on."""
    known = stages_by_name()
    return [
        name
        for name, section in settings.sections.items()
        if "train.parquet" in known[section.stage or name].outputs
    ]


def _json_line(row: dict[str, object]) -> bytes:
    import json

    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
