"""Two runs held against each other: what differs in what they were asked, and in what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cai.report.checkpoints import checkpoint_series
from cai.report.contents import collect
from cai.report.differences import difference
from cai.report.effects import MEASURES, measured
from cai.report.page import RATES, render_comparison
from cai.report.reading import stages_of
from cai.report.truth import grading
from cai.settings import EvaluateSettings, PipelineSettings
from cai.store import write_atomically, write_json

SCHEMA = 1
TEXTS = ("critique", "revision", "comparison", "weight")


def write_comparison(
    before: tuple[Path, PipelineSettings], after: tuple[Path, PipelineSettings]
) -> tuple[Path, dict[str, Any]]:
    """Compare two run folders, each given with its settings.

    Returns:
        The path of the page, `compared-with-NAME.html` in the second folder with NAME the first
        one's, and its facts; they lie beside it as JSON.

    Raises:
        CaiError: A file of a run is damaged, or the folder cannot be written.
    """
    reports = [
        collect(run, settings, grading(settings.first(EvaluateSettings)))
        for run, settings in (before, after)
    ]
    names = [run.resolve().name for run, _ in (before, after)]
    facts = compare_runs(*reports, names=(names[0], names[1]))
    path = after[0] / f"compared-with-{names[0]}.html"
    write_json(path.with_suffix(".json"), facts)
    write_atomically(path, [render_comparison(facts).encode("utf-8")])
    return path, facts


def compare_runs(
    before: Mapping[str, Any], after: Mapping[str, Any], *, names: tuple[str, str]
) -> dict[str, Any]:
    """Subtract one report.json from another.

    Args:
        before: The report of the run that is the measure.
        after: The report of the run that is measured by it.
        names: What to call the two.

    Returns:
        `runs`; per model that both evaluated, every rate and other measure as `{"before", "after",
        "difference"}`, each with its interval, the difference None where the two scales are not
        the same; of each run its `revisions` and their `scores`, round by round, its `elo`, and
        its `checkpoints`;
        `settings` and `principles`, lists of
        `[key, before, after]` of whatever differs; `alone`, the models that one run has alone.
    """
    one: Mapping[str, Mapping[str, Any]] = before["evaluation"]
    other: Mapping[str, Mapping[str, Any]] = after["evaluation"]
    return {
        "schema": SCHEMA,
        "runs": [
            {"name": name, **{key: report[key] for key in ("constitution", "seed", "grader")}}
            for name, report in zip(names, (before, after), strict=True)
        ],
        "evaluation": {
            model: dict(_measures(before, after, model)) for model in one if model in other
        },
        "revisions": [report["revisions"]["rounds"] for report in (before, after)],
        "scores": [report["revisions"]["scores"] for report in (before, after)],
        "elo": [_elo(report) for report in (before, after)],
        "checkpoints": [checkpoint_series(report) for report in (before, after)],
        "alone": sorted({*one} ^ {*other}),
        "settings": _unlike(
            dict(_flat(before["provenance"]["settings"])),
            dict(_flat(after["provenance"]["settings"])),
        ),
        "principles": _unlike(dict(_texts(before)), dict(_texts(after))),
    }


def _measures(
    before: Mapping[str, Any], after: Mapping[str, Any], model: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rate of a model, and every other measure that either run has of it."""
    rates = [report["evaluation"][model] for report in (before, after)]
    for rate in RATES:
        yield rate, _pair(*(summary.get(rate, {}) for summary in rates))
    known = [measured(report, model) for report in (before, after)]
    for name in MEASURES:
        if any(name in found for found in known):
            pair = _pair(*(found.get(name, {}) for found in known))
            same = not all(name in found for found in known) or _one_scale(name, before, after)
            yield name, pair if same else {**pair, "difference": None}


def _one_scale(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Say whether two runs measured this in the same way: two trained models are two scales."""
    part = name.partition("/")[0]
    one, other = (_scale(report, part) for report in (before, after))
    return one == other


def _scale(report: Mapping[str, Any], part: str) -> object:
    """Return what a measure was taken with: a judge's name, or the hashes of a trained model."""
    measures: Mapping[str, Any] = report["measures"]
    if part not in ("elo", "harmfulness", "mean_preference_score"):
        return None
    if (measures.get(part) or {}).get("method") == "judge":
        return measures["judge"]
    if part == "harmfulness":
        settings: Mapping[str, Any] = report["provenance"]["settings"]
        sections = (settings.get(name) for name in stages_of(report, "evaluate"))
        elsewhere = [section["harmfulness"] for section in sections if section]
        if any(elsewhere):
            return elsewhere
    scorers = stages_of(report, "harmfulness" if part == "harmfulness" else "preference")
    return [found.get("outputs", {}) for found in scorers.values()]


def _elo(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `elo_figure` needs of a run."""
    measures: Mapping[str, Any] = report["measures"]
    return {
        "models": list(report["evaluation"]),
        "elo": measures.get("elo"),
        "starts": measures.get("starts"),
        "checkpoints": [
            {key: one[key] for key in ("policy", "step", "name")}
            for one in measures.get("checkpoints", [])
        ],
    }


def _pair(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "before": dict(before),
        "after": dict(after),
        "difference": difference(before, after),
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key; lists stay whole."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _texts(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, found in report["principles"].items():
        for half in TEXTS:
            if found["text"][half] is not None:
                yield f"{name}, {half}", found["text"][half]


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (key, before, after) where they differ; None where a side lacks the key."""
    keys = [*before, *(key for key in after if key not in before)]
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]
