"""`cai prompts …`: prompt files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cai.cli.console import bar, plain_console, with_engine
from cai.cli.options import JSON_LINES, Model, ModelChanges, Seed, model_settings, output_file
from cai.errors import CaiError

app = typer.Typer(no_args_is_help=True, help="Work with prompt files.")


@app.callback()
def _prompts() -> None:
    """Work with prompt files."""


@app.command("grow")
def grow_(
    file: Annotated[
        Path, typer.Argument(help="Prompts written by people, in any supported format.")
    ],
    out: Annotated[
        Path, typer.Option("--out", callback=output_file, help="The JSON Lines file to write.")
    ],
    model: Model,
    model_set: ModelChanges = None,
    count: Annotated[int, typer.Option(min=1, help="How many prompts to write.")] = 100,
    shots: Annotated[int, typer.Option(min=1, help="Examples in each request.")] = 5,
    near_duplicate: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out prompts with this word 3-gram overlap.")
    ] = 0.5,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    seed: Seed = 0,
) -> None:
    """Write more prompts like those in a file, with a model. Near-duplicates are left out."""
    from cai.data.store import write_atomically
    from cai.workbench.grow import GrowSettings, grow

    if out.exists():
        raise CaiError(f"{out} already exists: give another name, or remove it")
    if out.suffix.lower() not in ("", *JSON_LINES):
        raise CaiError(
            f"{out} ends with `{out.suffix}`, and JSON Lines are written: use one of the endings "
            f"{', '.join(JSON_LINES)}."
        )
    settings = GrowSettings(
        count=count,
        shots=shots,
        near_duplicate=near_duplicate,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    chosen, seeds, console = model_settings(model, model_set), _seeds(file), plain_console()
    task = bar(console, "Writing")
    grown = with_engine(
        console,
        chosen,
        lambda engine: grow(seeds, settings=settings, engine=engine, seed=seed, task=task),
    )
    lines = [
        {"prompt": g.text, "model": chosen.path, "seed": seed, "attempt": g.attempt} for g in grown
    ]
    write_atomically(out, [json.dumps(x, ensure_ascii=False).encode() + b"\n" for x in lines])
    short = "" if len(grown) == count else f" of {count}: the rest were near-duplicates or broken"
    typer.echo(f"Wrote {len(grown)} prompts{short} to {out}. Read them before you use them.")


def _seeds(file: Path) -> list[str]:
    """Read the last turns of a file's prompts, each once."""
    from cai.data.prompts.extraction import prompt_of
    from cai.data.prompts.readers import read_records
    from cai.data.prompts.record import read_each

    found = read_each(str(file), read_records(str(file)), prompt_of)
    prompts = [messages for messages in found if isinstance(messages, tuple)]
    return list(dict.fromkeys(messages[-1].content.strip() for messages in prompts))
