"""`cai doctor`."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cai.cli.console import plain_console
from cai.cli.options import MODEL_HELP, JsonFile, ModelChanges, model_settings
from cai.data.store import write_atomically
from cai.errors import CaiError
from cai.pipeline.manifest import environment

if TYPE_CHECKING:
    from cai.doctor.findings import Examination

OPTIONAL = {
    "vllm": "fast generation on GPUs: pip install 'cai[vllm]'",
    "openai": "hosted or local servers as feedback models: pip install 'cai[openai]'",
}


def doctor(
    model: Annotated[
        str | None, typer.Argument(help=MODEL_HELP, metavar="[MODEL]", show_default=False)
    ] = None,
    model_set: ModelChanges = None,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Use Human/Assistant transcripts (base models).")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Show what this machine can run, or what holds for MODEL, stage by stage.

    No weights are loaded. The exit status is 1 if no stage can use the model.
    """
    if model is None:
        if model_set or transcript or json:
            raise CaiError(
                "These options of `cai doctor` are about a model. Give one: `cai doctor MODEL`."
            )
        _machine()
        return
    from cai.doctor.examine import examine

    form = ["format=transcript"] if transcript else []
    found = examine(model_settings(model, [*(model_set or []), *form]))
    if json is not None:
        write_atomically(json, [f"{found.model_dump_json(indent=2)}\n".encode()])
    plain_console().print(_table(found))
    if not found.usable:
        raise typer.Exit(1)


_STYLES = {"ok": "green", "limited": "yellow", "no": "red", "not tried": "dim"}


def _table(found: Examination) -> Table:
    """Show findings, those of an area together."""
    table = Table(title=f"{found.model} (engine: {found.engine})", box=None, pad_edge=False)
    for heading in ("", "", "", "what was found"):
        table.add_column(heading, overflow="fold")
    area = ""
    for one in found.findings:
        shown = Text(one.state, style=_STYLES[one.state])
        name = "" if one.area == area else one.area
        if name:
            table.add_section()
        table.add_row(Text(name, style="bold"), one.name, shown, Text(one.detail))
        area = one.area
    return table


def _machine() -> None:
    import torch

    from cai.models.loading import PLAYGROUND

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in environment().items():
        table.add_row(name, value)
    table.add_row("processors", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    table.add_row("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB")
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        table.add_row(f"GPU {number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        table.add_row("GPU", "none: models run on the CPU in float32")
    for name, purpose in OPTIONAL.items():
        table.add_row(name, "installed" if find_spec(name) else f"not installed ({purpose})")
    shipped = (PLAYGROUND / "model.safetensors").exists()
    table.add_row("playground model", "available" if shipped else f"missing from {PLAYGROUND}")
    plain_console().print(table)
