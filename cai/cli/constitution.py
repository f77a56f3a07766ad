"""`cai constitution …`: write, check, show, import, try and test constitutions."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer
from rich import box
from rich.table import Table

from cai.cli.console import plain_console
from cai.cli.deferred import DeferredGroup
from cai.cli.options import ConstitutionFile, output_file
from cai.constitution import Constitution, Principle, load_constitution
from cai.constitution.check import check_constitution
from cai.constitution.findings import Finding
from cai.constitution.importing import imported_yaml, read_foreign
from cai.constitution.load import SUFFIXES
from cai.constitution.schema import file_schema
from cai.errors import CaiError


class _Constitution(DeferredGroup):
    deferred: ClassVar = {
        "try": "cai.cli.trying:try_prompt",
        "test": "cai.cli.testing:judge_tests",
        "diff": "cai.cli.diffing:diff",
        "stats": "cai.cli.statistics:stats",
    }


app = typer.Typer(
    cls=_Constitution,
    no_args_is_help=True,
    help="Write, check, try, test and compare constitutions.",
)

_GITHUB_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


@app.command()
def new(target: Annotated[str, typer.Argument(metavar="NAME|FILE", show_default=False)]) -> None:
    """Write a commented constitution to start from. Existing files are not overwritten."""
    path = Path(target)
    if path.suffix not in SUFFIXES:
        path = path.with_name(f"{path.name}.yaml")
    starter = resources.files("cai.constitution").joinpath("starter.yaml").read_text("utf-8")
    _write_new(path, starter.replace("name: NAME", f'name: "{_name(path)}"'))
    typer.echo(f"Wrote {path}. Edit it, then run: cai constitution check {path}")


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", show_default=False)],
    format: Annotated[  # noqa: A002
        Literal["text", "json", "github"], typer.Option(help="The output format.")
    ] = "text",
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
) -> None:
    """Show errors and warnings in constitutions (files or built-in names).

    The exit status is 1 if there is an error; with `--strict` also if there is a warning.
    """
    found = {file: check_constitution(file) for file in files}
    findings = [finding for per_file in found.values() for finding in per_file]
    if format == "json":
        typer.echo(json.dumps([_plain(finding) for finding in findings], indent=2))
    elif format == "github":
        for finding in findings:
            typer.echo(_annotation(finding))
    else:
        _print_text(found)
    failing = ("error", "warning") if strict else ("error",)
    if any(finding.severity in failing for finding in findings):
        raise typer.Exit(1)


@app.command()
def show(
    file: ConstitutionFile,
    principle: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the whole text of one principle.")
    ] = None,
) -> None:
    """Show a constitution (a file or a built-in name) with `extends` resolved."""
    constitution = load_constitution(file)
    if principle is not None:
        typer.echo(_whole_text(_find(constitution, principle)))
        return
    console = plain_console()
    console.print(_table(constitution))
    examples = constitution.few_shot
    console.print(
        f"{len(constitution.supervised)} principles for the supervised stage,"
        f" {len(constitution.comparisons)} for comparisons; worked examples:"
        f" {len(examples.critique)} critiques, {len(examples.comparison)} comparisons",
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of constitution files, for editors and other tools."""
    typer.echo(json.dumps(file_schema(), indent=2))


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=output_file, help="Write to this file instead of printing."
        ),
    ] = None,
) -> None:
    """Convert files of other projects to one constitution; their layout is recognised."""
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise CaiError(f"{out} is to be YAML: end its name with one of {', '.join(SUFFIXES)}.")
    imported = read_foreign(files)
    text = imported_yaml(imported, _name(out) if out else "imported")
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write_new(out, text)
        imported.notes.append(f"wrote {out}; now run: cai constitution check {out}")
    for note in imported.notes:
        typer.echo(note, err=True)


def _name(path: Path) -> str:
    """Make a constitution's name of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "constitution"


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as problem:
        raise CaiError(f"{path} already exists: give another name, or remove it") from problem
    except OSError as problem:
        raise CaiError(
            f"{path} cannot be written ({problem.strerror}): give a path in a folder that exists"
        ) from problem


def _plain(finding: Finding) -> dict[str, str | int]:
    return {
        **asdict(finding.place),
        "path": str(finding.place.path),
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.message,
    }


def _annotation(finding: Finding) -> str:
    """Write a finding as a GitHub workflow command, which annotates the line in a review."""
    place = finding.place
    path = str(place.path).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    message = finding.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    level = _GITHUB_LEVELS[finding.severity]
    where = f"file={path},line={place.line},col={place.column}"
    return f"::{level} {where},title={finding.code}::{message}"


def _print_text(found: dict[str, list[Finding]]) -> None:
    for file, findings in found.items():
        for f in findings:
            typer.echo(f"{f.place}: {f.severity}: {f.message} [{f.code}]")
        if not findings:
            typer.echo(f"{file}: fine")


def _find(constitution: Constitution, name: str) -> Principle:
    for principle in constitution.principles:
        if principle.id == name:
            return principle
    ids = ", ".join(p.id for p in constitution.principles)
    raise CaiError(
        f"constitution {constitution.name!r} has no principle {name!r}: choose one of {ids}"
    )


def _whole_text(principle: Principle) -> str:
    parts = [f"{principle.id} (weight {principle.weight:g})"]
    for part in ("description", "critique", "revision", "comparison"):
        text = getattr(principle, part)
        if text:
            parts.append(f"{part}:\n{text}")
    return "\n\n".join(parts)


def _table(constitution: Constitution) -> Table:
    title = f"{constitution.name}: {constitution.description}".rstrip(": ")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("id", overflow="fold", no_wrap=True)
    table.add_column("serves")
    table.add_column("weight", justify="right")
    table.add_column("tags")
    table.add_column("description")
    for p in constitution.principles:
        table.add_row(p.id, _stages(p), f"{p.weight:g}", ", ".join(p.tags), p.description or "")
    return table


def _stages(principle: Principle) -> str:
    if principle.critique is None:
        return "comparison"
    return "supervised" if principle.comparison is None else "both"
