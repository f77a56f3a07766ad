"""The run on a real model, and what is asked beside it: each a command of `cai`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import machine
from benchmarks.memory import Watched, by_stage
from benchmarks.real_model import measures
from benchmarks.real_model.shown import NAME

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts.yaml"
PIPELINE = HERE / "pipeline.yaml"
SMOKE = (
    "prompts.red_team.limit=12",
    "prompts.helpful.limit=12",
    "prompts.helpfulness_comparisons.limit=6",
    "revise.max_new_tokens=40",
    "sft.epochs=1",
    "compare.max_new_tokens=32",
    "compare.principles=1",
    "preference.epochs=1",
    "ppo.steps=1",
    "ppo.batch_size=4",
    "ppo.max_new_tokens=32",
    "evaluate.samples_per_side=6",
    "evaluate.benign_texts=4",
    "evaluate.max_new_tokens=40",
)
"""Settings of a run that shows that all of it works, and nothing else."""
SMOKE_KNOWN = 4
"""Known comparisons of each file in such a run."""
_SIDES = {"known-refusals": "better", "known-harm": "worse"}


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        model: The folder of the model.
        name: Of the model, in the results.
        folder: Where everything is written.
        changes: Settings, as `KEY=VALUE`.
        data: A folder with more prompts in folders `red-team` and `helpful`, or None.
        known: More files of comparisons whose better response is known.
        limit: The number of prompts or comparisons of each such file; None: all.
        smoke: Whether this is the short run.
    """

    model: Path
    name: str
    folder: Path
    changes: Sequence[str] = ()
    data: Path | None = None
    known: Sequence[Path] = ()
    limit: int | None = None
    smoke: bool = False


def write_inputs(options: Options) -> Path:
    """Write the prompts, the known comparisons and the pipeline file; returns the last."""
    own = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("red_team", "helpful"):
        _write(folder / f"{_file(side)}", [{"prompt": text} for text in own[side]])
    pairs = [
        {"prompt": one["prompt"], "chosen": one["better"], "rejected": one["worse"]}
        for one in own["helpfulness"]
    ]
    _write(folder / "helpfulness.jsonl", pairs)
    known = own["known"]
    _write(
        folder / "known.jsonl",
        [{"prompt": k["prompt"], "chosen": k["better"], "rejected": k["worse"]} for k in known],
    )
    for name, side in _SIDES.items():
        rows = [{"prompt": k["prompt"], "response": k[side], "kind": "red_team"} for k in known]
        _write(folder / f"{name}.jsonl", rows)
    settings = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    settings["models"]["helpful"]["path"] = str(options.model)
    for side in ("red_team", "helpful"):
        more = more_prompts(options.data, side.replace("_", "-")) if options.data else []
        limit = {"limit": options.limit} if options.limit else {}
        sources = [settings["prompts"][side], *({"path": str(path)} | limit for path in more)]
        settings["prompts"][side] = sources if more else sources[0]
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def more_prompts(data: Path, side: str) -> list[Path]:
    """Return the files in all folders of this name in a folder.

    Raises:
        SystemExit: There are none.
    """
    found = sorted(path for path in data.rglob(f"{side}/*") if path.is_file())
    if not found:
        raise SystemExit(f"{data} has no folder `{side}` with files of prompts in it.")
    return found


def measured(options: Options) -> dict[str, Any]:
    """Run the whole method, ask about known answers, and return what was found."""
    pipeline, run = write_inputs(options), options.folder / "run"
    changes = [*(SMOKE if options.smoke else ()), *options.changes]
    spelt = [part for change in changes for part in ("--set", change)]
    watched = Watched([*_CAI, "run", str(pipeline), "--out", str(run), *spelt])
    if status := watched.wait():
        raise SystemExit(status)
    stages = _stages(options.folder / "stages.json", by_stage(run, watched.samples))
    known = {"own": options.folder / "known.jsonl", **{path.stem: path for path in options.known}}
    return {
        "name": NAME,
        "seed": 0,
        "model": options.name,
        "smoke": options.smoke,
        "settings": [*options.changes],
        "machine": machine(),
        "stages": stages,
        **measures.of_run(run),
        "known_answers": _known_answers(options),
        "labels": {name: _labels(options, name, path) for name, path in known.items()},
    }


def _stages(path: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Add the stages that ran now to those of earlier calls in this folder."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = {**before, **now}
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _model_settings(options: Options, flag: str) -> list[str]:
    """Return what the run says of the model, as options of a command."""
    settings = yaml.safe_load((options.folder / "run" / "pipeline.yaml").read_text("utf-8"))
    said = settings["models"]["helpful"]
    return [part for key in ("format", "dtype") for part in (flag, f"{key}={said[key]}")]


def _known_answers(options: Options) -> dict[str, Any]:
    """Measure answers whose kind is known as the answers of the run were."""
    own = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))["known"]
    by_wording = measures.of_known([k["better"] for k in own], [k["worse"] for k in own])
    files = [f"{name}=answers:{options.folder / f'{name}.jsonl'}" for name in _SIDES]
    out = options.folder / "known"
    judge = ["--harmfulness", "judge", "--judge", str(options.model)]
    judge += _model_settings(options, "--judge-set")
    _cai("evaluate", *files, *judge, "--out", str(out))
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    rated = found["measures"]["harmfulness"]["models"]
    names = dict(zip(by_wording, _SIDES, strict=True))
    return {kind: {**signs, "rated": rated[names[kind]]} for kind, signs in by_wording.items()}


def _labels(options: Options, name: str, known: Path) -> dict[str, Any]:
    """Measure the labels of the model on known comparisons, asked as in the run."""
    settings = yaml.safe_load((options.folder / "run" / "pipeline.yaml").read_text("utf-8"))
    asked = {key: settings["compare"][key] for key in ("principles", "few_shot", "form")}
    out = options.folder / f"labels-{name}.json"
    limit = SMOKE_KNOWN if options.smoke else options.limit
    more = ("--limit", str(limit)) if limit else ()
    _cai(
        *("feedback", str(known), "--constitution", str(settings["constitution"])),
        *("--model", str(options.model), *_model_settings(options, "--model-set")),
        *("--json", str(out), *more),
        *(part for key, value in asked.items() for part in ("--set", f"{key}={value}")),
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    wanted = ("accuracy", "always_first", "longer_wins", "position_bias", "option_mass")
    return {key: found[key] for key in wanted}


def _file(side: str) -> str:
    return f"{side.replace('_', '-')}.jsonl"


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_CAI = (sys.executable, "-m", "cai")


def _cai(*arguments: str) -> None:
    subprocess.run([*_CAI, *arguments], check=True, env=dict(os.environ))
