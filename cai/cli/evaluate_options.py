"""The options of `cai evaluate`, and the settings that they give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cai.cli.options import ModelChanges, model_settings, output_folder
from cai.errors import CaiError
from cai.settings import EvaluateSettings
from cai.settings.wording import in_words, is_sentence


@dataclass(frozen=True)
class EvaluateOptions:
    """The command line; each field is an argument or option of the command."""

    models: Annotated[
        list[str],
        typer.Argument(
            help="Model folders, hub ids, `playground`, models on a server (`gpt@https://…/v1`) or "
            "YAML files of a model's settings, each optionally as NAME=MODEL; `answers:FILE` for "
            "recorded answers; or one run folder.",
            metavar="MODEL...",
        ),
    ]
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            metavar="SET",
            help="A known set (`xstest:FILE`, `hhh:FILE`, `advbench:FILE`, …), your own "
            "(`red_team:FILE`, `helpful:FILE`), `playground:red_team`, or `run:FOLDER`.",
        ),
    ] = None
    grader: Annotated[
        str | None,
        typer.Option(help="`refusals` (the default), `playground`, `judge` or `file.py:function`."),
    ] = None
    judge: Annotated[str | None, typer.Option(help="The judge model.", metavar="MODEL")] = None
    judge_set: Annotated[
        list[str] | None,
        typer.Option("--judge-set", metavar="KEY=VALUE", help="A setting of the judge."),
    ] = None
    model_set: ModelChanges = None
    elo: Annotated[
        str | None, typer.Option(help="`judge` (matches, in both orders) or `preference`.")
    ] = None
    elo_pairing: Annotated[
        str | None, typer.Option(help="`all` pairs of models (the default) or `swiss` rounds.")
    ] = None
    elo_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts per side and pair; with `swiss`, per side and model."),
    ] = None
    preference: Annotated[
        str | None, typer.Option(help="A preference model, for scores and Elo.", metavar="FOLDER")
    ] = None
    harmfulness: Annotated[
        str | None, typer.Option(help="`judge`, or a model trained by `cai harmfulness`.")
    ] = None
    texts: Annotated[
        str | None,
        typer.Option(help="Benign prompts and responses, to measure perplexity.", metavar="FILE"),
    ] = None
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Also evaluate the checkpoints of PPO (of a run).")
    ] = False
    samples: Annotated[int, typer.Option(min=1, help="Responses to each prompt.")] = 1
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many prompts of each set.")
    ] = None
    temperature: Annotated[float | None, typer.Option(min=0)] = None
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None
    concurrency: Annotated[int | None, typer.Option(min=1)] = None
    max_state_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop if more rows than this end in one failed state."),
    ] = None
    seed: Annotated[int | None, typer.Option(help="The seed of draws and samples.")] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=output_folder, help="The folder to write; `evaluation` if left out."
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False

    @cached_property
    def settings(self) -> EvaluateSettings:
        """The settings; its `model_fields_set` are those that were given.

        Raises:
            CaiError: An option has a wrong value, or `--judge-set` is given without a judge.
        """
        if self.judge_set and not self.judge:
            raise CaiError("`--judge-set` needs a judge: give one with `--judge MODEL`.")
        given: dict[str, Any] = {
            name: value
            for name in EvaluateSettings.model_fields
            if (value := getattr(self, name, None)) is not None
        }
        if self.judge:
            given["judge"] = model_settings(self.judge, self.judge_set, flag="--judge-set")
        try:
            return EvaluateSettings.model_validate(given)
        except ValidationError as problem:
            first = problem.errors()[0]
            where = str(first["loc"][0]).replace("_", "-")
            said = in_words(first)
            message = f": {said}" if is_sentence(first) else f" {said}"
            raise CaiError(f"`--{where} {first['input']}`{message.rstrip('.')}.") from None
