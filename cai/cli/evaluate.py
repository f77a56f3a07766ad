"""`cai evaluate`: models outside or inside a run, prompt sets by name, tables and JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cai.cli.console import plain_console
from cai.cli.evaluate_tables import counted, show
from cai.cli.options import YAML, model_settings, spelling
from cai.constitution import load_constitution
from cai.engines import Usage
from cai.errors import CaiError
from cai.evaluate.recorded import Recorded, agreement, read_answers
from cai.evaluate.sets import ChoiceQuestion
from cai.evaluate.texts import BenignText
from cai.pipeline.evaluation import JUDGE, Evaluation, evaluate
from cai.pipeline.load import read_resolved
from cai.pipeline.progress import Progress
from cai.pipeline.sets import read_prompt_set, read_recorded
from cai.pipeline.stage import Context, KnownModels
from cai.pipeline.stages.evaluate import planned
from cai.records import PromptRow
from cai.settings import EvaluateSettings, ModelSettings
from cai.store import write_json

if TYPE_CHECKING:
    from cai.training.preference_model import PreferenceModel

_NAME = re.compile(r"[^/@:=]+")
"""What can stand before `=`: no path, no address."""
SWEEP = "sweep"
"""The folder, in a run's own, of an evaluation of its checkpoints."""


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        models: As they are spelt.
        prompts: Sets, as they are spelt.
        settings: How to ask and who judges; only what was `given` replaces a run's own.
        given: The names of the settings that were given.
        samples: Answers to each prompt.
        limit: At most so many prompts of a set.
        seed: Of the draws; None for a run's own, or 0.
        model_changes: `KEY=VALUE` settings of all models.
        preference: The folder of a preference model.
        texts: A file of benign prompts and responses.
        checkpoints: Look at a run's checkpoints, too.
        out: The folder.
    """

    models: Sequence[str]
    prompts: Sequence[str]
    settings: EvaluateSettings
    given: frozenset[str]
    samples: int
    limit: int | None
    seed: int | None
    model_changes: list[str] | None
    preference: str | None
    texts: str | None
    checkpoints: bool
    out: Path | None


@dataclass
class _Models:
    """Models by name, and answers that stand for one."""

    models: dict[str, ModelSettings] = field(default_factory=dict[str, ModelSettings])
    recorded: dict[str, Recorded] = field(default_factory=dict[str, Recorded])


def evaluate_command(wanted: Wanted, *, as_json: bool) -> None:
    """Evaluate, write `evaluation.json`, and print tables or the same JSON."""
    console = plain_console(soft_wrap=True, stderr=as_json)
    progress = Progress(console)
    run = _run_folder(wanted)
    recorded: Mapping[str, Recorded] = {}
    if run is not None:
        context = _context(run, progress)
        evaluation = _of_run(wanted, context)
        fingerprints = context
    else:
        named = _models(wanted)
        recorded, fingerprints = named.recorded, KnownModels()
        evaluation = _of_models(wanted, named)
    evaluation = _with_sets(wanted, evaluation)
    _check_used(wanted.given, evaluation)
    result, found, usage = evaluate(evaluation, fingerprints, progress)
    facts = {
        "schema": 1,
        "models": {name: spelling(model) for name, model in evaluation.models.items()}
        | dict.fromkeys(recorded, "recorded answers"),
        "prompts": list(wanted.prompts),
        "seed": evaluation.seed,
        **found,
        "agreement": {
            name: asdict(agreement(rows, given, evaluation.seed))
            for name, given in recorded.items()
            if (rows := [row for row in result.rows if row.model == name])
            and any(label is not None for label in given.refused)
        },
    }
    problems = {(row.model, row.state): row.error for row in reversed(result.rows) if row.error}
    path = evaluation.folder / "evaluation.json"
    write_json(path, facts)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    show(console, facts, problems)
    if usage.tokens_in:
        console.print(_asked(usage))
    console.print(f"Written: {path}")


def _asked(usage: Usage) -> str:
    cost = f", cost {usage.cost:.2f}" if usage.cost else ""
    return (
        f"Asked: {counted(usage.engine_calls, 'call')} answered, {usage.tokens_in:,} tokens in "
        f"({usage.tokens_cached:,} of them cached), {usage.tokens_out:,} out{cost}."
    )


def _check_used(given: frozenset[str], evaluation: Evaluation) -> None:
    """Refuse options that nothing would read."""
    settings = evaluation.settings
    judged = JUDGE in (settings.grader, settings.elo, settings.harmfulness)
    if "judge" in given and not judged:
        raise CaiError(
            "`--judge` names a judge, and nothing is asked of it. Add `--grader judge`, "
            "`--elo judge` or `--harmfulness judge`."
        )
    if given & {"elo_pairing", "elo_prompts"} and settings.elo != JUDGE:
        raise CaiError(
            "`--elo-pairing` and `--elo-prompts` are about matches. Add `--elo judge`, or leave "
            "them out."
        )
    if "elo" in given and settings.elo != JUDGE and evaluation.preference is None:
        raise CaiError(
            "`--elo preference` needs a preference model. Name its folder with `--preference`."
        )


def _run_folder(wanted: Wanted) -> Path | None:
    """Return the run that is asked about, if it is one."""
    runs = [Path(name) for name in wanted.models if (Path(name) / "pipeline.yaml").is_file()]
    if runs and len(wanted.models) > 1:
        raise CaiError(
            f"{runs[0]} is a run folder, which is evaluated on its own. Name its models one by one "
            f"({runs[0]}/ppo/model) to set them beside others."
        )
    if not runs and wanted.checkpoints:
        raise CaiError("`--checkpoints` looks into a run: give a run folder in place of models.")
    return runs[0] if runs else None


def _context(run: Path, progress: Progress) -> Context:
    return Context(
        settings=read_resolved(run),
        folder=run,
        base_dir=Path(),
        constitution=load_constitution(run / "constitution.yaml"),
        progress=progress,
    )


def _of_run(wanted: Wanted, context: Context) -> Evaluation:
    """Plan the evaluation of a run's models; answers that the run has already are not asked for."""
    folder = wanted.out or context.folder / SWEEP
    evaluation = planned(context, folder, all_checkpoints=wanted.checkpoints)
    if not wanted.checkpoints:
        evaluation = replace(evaluation, checkpoints={}, checkpoint_asked=())
    elif not evaluation.checkpoints:
        raise CaiError(
            f"{context.folder} has kept no checkpoints of PPO. Set `ppo.snapshot_steps` and run it "
            "again."
        )
    changes = {name: getattr(wanted.settings, name) for name in wanted.given}
    if not folder.exists() and (context.folder / "evaluate" / "rows.jsonl").is_file():
        folder.mkdir(parents=True)
        shutil.copyfile(context.folder / "evaluate" / "rows.jsonl", folder / "rows.jsonl")
    return replace(
        evaluation,
        settings=evaluation.settings.model_copy(update=changes),
        seed=evaluation.seed if wanted.seed is None else wanted.seed,
    )


def _of_models(wanted: Wanted, named: _Models) -> Evaluation:
    if not wanted.prompts and named.models:
        raise CaiError(
            "There is nothing to ask: name at least one prompt set, such as `--prompts "
            "playground:red_team`, `--prompts xstest:FILE` or `--prompts red_team:FILE`."
        )
    if wanted.prompts and not named.models:
        raise CaiError(
            "Recorded answers are answers to prompts of their own, so there is nobody to ask what "
            "`--prompts` names. Leave it out, or name a model, too."
        )
    seed = wanted.seed or 0
    return Evaluation(
        folder=wanted.out or Path("evaluation"),
        settings=wanted.settings,
        seed=seed,
        models=named.models,
        asked=(),
        recorded={name: (r.engine(seed), r.asked) for name, r in named.recorded.items()},
    )


def _with_sets(wanted: Wanted, evaluation: Evaluation) -> Evaluation:
    """Ask what the prompt sets of the command line hold; without any, what is planned."""
    prompts: dict[str, PromptRow] = {}
    questions: list[ChoiceQuestion] = []
    for spec in wanted.prompts:
        found = read_prompt_set(spec, seed=evaluation.seed, limit=wanted.limit)
        prompts.update((row.key, row) for row in found.prompts if row.key not in prompts)
        questions += found.questions
    if wanted.prompts:
        asked = [(row, sample) for sample in range(wanted.samples) for row in prompts.values()]
        checkpoints = asked if evaluation.checkpoints else ()
        evaluation = replace(evaluation, asked=asked, checkpoint_asked=checkpoints)
    if wanted.preference:
        evaluation = replace(evaluation, preference=_loader(wanted.preference))
    if wanted.texts:
        evaluation = replace(evaluation, texts=_texts(wanted.texts))
    return replace(evaluation, questions=questions)


def _models(wanted: Wanted) -> _Models:
    """Read the spellings of models: `[NAME=]MODEL`, or `[NAME=]answers:FILE`."""
    found = _Models()
    for spelt in wanted.models:
        name, equals, spelling = spelt.partition("=")
        if not equals or not _NAME.fullmatch(name) or Path(spelt).exists():
            name, spelling = "", spelt
        recorded = read_recorded(spelling)
        if not recorded and Path(spelling).is_file() and Path(spelling).suffix not in YAML:
            raise CaiError(
                f"{spelling} is a file. `answers:{spelling}` are answers that are there already; a "
                "model is a folder, or a YAML file of its settings."
            )
        model = None if recorded else model_settings(spelling, wanted.model_changes)
        name = name or _name(spelling, model)
        if name in found.models or name in found.recorded:
            raise CaiError(f"Two models are called `{name}`. Name them: `one={spelling}`.")
        if recorded:
            found.recorded[name] = recorded
        elif model:
            found.models[name] = model
    return found


def _name(spelt: str, model: ModelSettings | None) -> str:
    """Name a model after its file, its name on a server, or its folder (not `model/`)."""
    place = Path(spelt.rpartition(":")[2] if model is None else spelt)
    if model and model.server and not place.is_file():
        return model.path
    if place.name == "model" and place.parent.name:
        return place.parent.name
    return (place.stem if place.is_file() else place.name) or spelt


def _loader(folder: str) -> Callable[[], PreferenceModel]:
    """Return what loads a preference model, once; another kind of model is refused at once."""
    from cai.models import model_folder
    from cai.training.preference_model import score_constants

    score_constants(model_folder(ModelSettings(path=folder)))

    @cache
    def load() -> PreferenceModel:
        from cai.training.preference_model import PreferenceModel

        return PreferenceModel.load(folder)

    return load


def _texts(path: str) -> list[BenignText]:
    found = read_answers(path, "helpful")
    return [
        BenignText(prompt.messages, text, prompt.task)
        for (prompt, _), text in zip(found.asked, found.texts, strict=True)
        if text
    ]


def settings_of(values: Mapping[str, Any]) -> tuple[EvaluateSettings, frozenset[str]]:
    """Return the settings, and the names of those that the command line gave (not None)."""
    from pydantic import ValidationError

    given = {name: value for name, value in values.items() if value is not None}
    try:
        return EvaluateSettings.model_validate(given), frozenset(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = str(first["loc"][0]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        raise CaiError(f"`--{where} {first['input']}`: {message}.") from None
