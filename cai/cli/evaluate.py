"""`cai evaluate`: models outside or inside a run, prompt sets by name, tables and JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cai.cli.console import plain_console
from cai.cli.evaluate_options import EvaluateOptions
from cai.cli.evaluate_tables import counted, show_results
from cai.cli.options import YAML, from_fields, model_settings, spelling
from cai.data.records import AnswerRow, PromptRow
from cai.data.store import write_json
from cai.engines import Usage
from cai.errors import CaiError
from cai.evaluate.questions import ChoiceQuestion
from cai.evaluate.rates import Rate
from cai.evaluate.recorded import Recorded, agreement, read_answers
from cai.evaluate.texts import BenignText
from cai.pipeline.context import SWEEP, Context, known_models
from cai.pipeline.engines import Fingerprint
from cai.pipeline.evaluation import JUDGE, Evaluation, evaluate, preference_loader
from cai.pipeline.load import open_run
from cai.pipeline.progress import Progress
from cai.pipeline.sets import read_prompt_set, read_recorded
from cai.pipeline.stages.evaluate import planned
from cai.settings import EvaluateSettings, ModelSettings

if TYPE_CHECKING:
    from cai.models.preference_model import PreferenceModel

_NAME = re.compile(r"[^/@:=]+")
"""What can stand before `=`: no path, no address."""


@from_fields(EvaluateOptions)
def command(options: EvaluateOptions) -> None:
    """Evaluate models: rates with intervals, Elo, known prompt sets, and more."""
    evaluate_command(options)


def evaluate_command(options: EvaluateOptions) -> None:
    """Evaluate, write `evaluation.json`, and print tables or the same JSON."""
    given = options.settings.model_fields_set
    console = plain_console(soft_wrap=True, stderr=options.as_json)
    progress = Progress(console)
    evaluation, recorded, fingerprint = _planned(options, progress)
    _check_used(given, evaluation)
    result, found, usage = evaluate(evaluation, fingerprint, progress)
    agreed = _agreement(result.rows, recorded, evaluation.seed)
    facts = {
        "schema": 1,
        "models": {name: spelling(model) for name, model in evaluation.models.items()}
        | dict.fromkeys(recorded, "recorded answers"),
        "prompts": options.prompts or [],
        "seed": evaluation.seed,
        **found.plain(),
        "agreement": {name: asdict(rate) for name, rate in agreed.items()},
    }
    path = evaluation.folder / "evaluation.json"
    write_json(path, facts)
    if options.as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    problems = {(r.model, r.state): r.error for r in reversed(result.rows) if r.error}
    show_results(console, found, agreed, problems)
    if usage.tokens_in:
        console.print(_asked(usage))
    console.print(f"Written: {path}")


def _planned(
    options: EvaluateOptions, progress: Progress
) -> tuple[Evaluation, Mapping[str, Recorded], Fingerprint]:
    """Return the evaluation, the recorded answers in it by name, and what names its models."""
    run = _run_folder(options)
    if run is not None:
        defaults = {"evaluate": EvaluateSettings()}
        context = open_run(run, progress, defaults).first(EvaluateSettings)
        return _with_sets(options, _of_run(options, context)), {}, context.fingerprint
    models, recorded = _models(options)
    evaluation = _of_models(options, models, recorded)
    return _with_sets(options, evaluation), recorded, known_models()


def _agreement(
    rows: Sequence[AnswerRow], recorded: Mapping[str, Recorded], seed: int
) -> dict[str, Rate]:
    """Return how often the grader says what people say, where people have said anything."""
    found: dict[str, Rate] = {}
    for name, given in recorded.items():
        own = [row for row in rows if row.model == name]
        if own and any(label is not None for label in given.refused):
            found[name] = agreement(own, given, seed)
    return found


def _asked(usage: Usage) -> str:
    cost = f", cost {usage.cost:.2f}" if usage.cost else ""
    return (
        f"Asked: {counted(usage.engine_calls, 'call')} answered, {usage.tokens_in:,} tokens in "
        f"({usage.tokens_cached:,} of them cached), {usage.tokens_out:,} out{cost}."
    )


def _check_used(given: Set[str], evaluation: Evaluation) -> None:
    """Refuse options that nothing would read."""
    settings = evaluation.settings
    judged = JUDGE in (settings.grader, settings.elo, settings.harmfulness)
    if "judge" in given and not judged:
        raise CaiError(
            "`--judge` names a judge that is not used. Add `--grader judge`, "
            "`--elo judge` or `--harmfulness judge`."
        )
    if given & {"elo_pairing", "elo_prompts"} and settings.elo != JUDGE:
        raise CaiError(
            "`--elo-pairing` and `--elo-prompts` are options of matches. Add `--elo judge`, or "
            "leave them out."
        )
    if "elo" in given and settings.elo != JUDGE and evaluation.preference is None:
        raise CaiError(
            "`--elo preference` needs a preference model. Name its folder with `--preference`."
        )


def _run_folder(options: EvaluateOptions) -> Path | None:
    """Return the run that is asked about, if it is one."""
    runs = [Path(name) for name in options.models if (Path(name) / "pipeline.yaml").is_file()]
    if runs and len(options.models) > 1:
        raise CaiError(
            f"{runs[0]} is a run folder, which must be the only argument. Name its models one by "
            f"one ({runs[0]}/ppo/model) to compare them with others."
        )
    if not runs and options.checkpoints:
        raise CaiError("`--checkpoints` needs a run: give a run folder instead of models.")
    return runs[0] if runs else None


def _of_run(options: EvaluateOptions, context: Context[EvaluateSettings]) -> Evaluation:
    """Plan the evaluation of a run's models; answers that the run has already are not asked for."""
    folder, own = options.out or context.run.folder / SWEEP, context.folder / "rows.jsonl"
    evaluation = planned(context, folder, all_checkpoints=options.checkpoints)
    if not options.checkpoints:
        evaluation = replace(evaluation, checkpoints=(), checkpoint_asked=())
    elif not evaluation.checkpoints:
        raise CaiError(
            f"{context.run.folder} has kept no checkpoints of a policy. Set `snapshot_steps` of "
            "`ppo` and run it again."
        )
    changes = {name: getattr(options.settings, name) for name in options.settings.model_fields_set}
    if not folder.exists() and own.is_file():
        folder.mkdir(parents=True)
        shutil.copyfile(own, folder / "rows.jsonl")
    return replace(
        evaluation,
        settings=evaluation.settings.model_copy(update=changes),
        seed=evaluation.seed if options.seed is None else options.seed,
    )


def _of_models(
    options: EvaluateOptions,
    models: Mapping[str, ModelSettings],
    recorded: Mapping[str, Recorded],
) -> Evaluation:
    if not options.prompts and models:
        raise CaiError(
            "There are no prompts: name at least one prompt set, such as `--prompts "
            "playground:red_team`, `--prompts xstest:FILE` or `--prompts red_team:FILE`."
        )
    if options.prompts and not models:
        raise CaiError(
            "Recorded answers have their own prompts, and no model is given that could answer "
            "`--prompts`. Leave `--prompts` out, or name a model, too."
        )
    seed = options.seed or 0
    return Evaluation(
        folder=options.out or Path("evaluation"),
        settings=options.settings,
        seed=seed,
        models=models,
        asked=(),
        recorded={name: (given.engine(seed), given.asked) for name, given in recorded.items()},
    )


def _with_sets(options: EvaluateOptions, evaluation: Evaluation) -> Evaluation:
    """Ask what the prompt sets of the command line hold; without any, what is planned."""
    prompts: dict[str, PromptRow] = {}
    questions: list[ChoiceQuestion] = []
    for spec in options.prompts or ():
        found = read_prompt_set(spec, seed=evaluation.seed, limit=options.limit)
        prompts.update((row.key, row) for row in found.prompts if row.key not in prompts)
        questions += found.questions
    if options.prompts:
        asked = [(row, sample) for sample in range(options.samples) for row in prompts.values()]
        checkpoints = asked if evaluation.checkpoints else ()
        evaluation = replace(evaluation, asked=asked, checkpoint_asked=checkpoints)
    if options.preference:
        evaluation = replace(evaluation, preference=_loader(options.preference))
    if options.texts:
        evaluation = replace(evaluation, texts=_texts(options.texts))
    return replace(evaluation, questions=questions)


def _models(options: EvaluateOptions) -> tuple[dict[str, ModelSettings], dict[str, Recorded]]:
    """Read the spellings of models: `[NAME=]MODEL`, or `[NAME=]answers:FILE`."""
    models: dict[str, ModelSettings] = {}
    recorded: dict[str, Recorded] = {}
    for spelt in options.models:
        name, equals, spelling = spelt.partition("=")
        if not equals or not _NAME.fullmatch(name) or Path(spelt).exists():
            name, spelling = "", spelt
        given = read_recorded(spelling)
        if not given and Path(spelling).is_file() and Path(spelling).suffix not in YAML:
            raise CaiError(
                f"{spelling} is a file. For recorded answers write `answers:{spelling}`; a "
                "model is a folder, or a YAML file of its settings."
            )
        model = None if given else model_settings(spelling, options.model_set)
        name = name or _name(spelling, model)
        if name in models or name in recorded:
            raise CaiError(f"Two models have the name `{name}`. Rename one: `one={spelling}`.")
        if given:
            recorded[name] = given
        elif model:
            models[name] = model
    return models, recorded


def _name(spelt: str, model: ModelSettings | None) -> str:
    """Name a model after its file, its name on a server, or its folder (not `model/`)."""
    place = Path(spelt.rpartition(":")[2] if model is None else spelt)
    if model and model.server and not place.is_file():
        return model.path
    if place.name == "model" and place.parent.name:
        return place.parent.name
    return (place.stem if place.is_file() else place.name) or spelt


def _loader(folder: str) -> Callable[[], PreferenceModel]:
    """Return what loads a preference model, once; another kind of model is refused now."""
    from cai.models.loading import model_folder
    from cai.models.preference_model import score_constants

    score_constants(model_folder(ModelSettings(path=folder)))
    return preference_loader(Path(folder))


def _texts(path: str) -> list[BenignText]:
    found = read_answers(path, "helpful")
    return [
        BenignText(prompt.messages, text, prompt.task)
        for (prompt, _), text in zip(found.asked, found.texts, strict=True)
        if text
    ]
