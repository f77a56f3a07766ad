"""The comparison of two runs: the differences of their settings and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cai.data.store import write_atomically, write_json
from cai.evaluate.rates import difference
from cai.report.checkpoints import checkpoint_series
from cai.report.contents import collect
from cai.report.effects import FOLLOWED, MEASURES, measured
from cai.report.facts import Compared, Comparison, Report
from cai.report.page import render_comparison
from cai.report.truth import grading
from cai.settings import EvaluateSettings, PipelineSettings

SCHEMA = 1
TEXTS = ("critique", "revision", "comparison", "weight")


def write_comparison(
    before: tuple[Path, PipelineSettings], after: tuple[Path, PipelineSettings]
) -> tuple[Path, Comparison]:
    """Compare two run folders, each given with its settings.

    Returns:
        The path of the page, `compared-with-NAME.html` in the second folder (NAME is that of the
        first folder), and its content, which is also written next to it as JSON.

    Raises:
        CaiError: A file of a run is damaged, or the folder cannot be written.
    """
    reports = [
        collect(run, settings, grading(settings.first(EvaluateSettings)))
        for run, settings in (before, after)
    ]
    names = [run.resolve().name for run, _ in (before, after)]
    comparison = compare_runs(*reports, names=(names[0], names[1]))
    path = after[0] / f"compared-with-{names[0]}.html"
    write_json(path.with_suffix(".json"), _plain(comparison))
    write_atomically(path, [render_comparison(comparison).encode("utf-8")])
    return path, comparison


def compare_runs(before: Report, after: Report, *, names: tuple[str, str]) -> Comparison:
    """Subtract the report of the first run from that of the second."""
    return Comparison(
        names=names,
        reports=(before, after),
        evaluation={
            model: dict(_measures(before, after, model))
            for model in before.models
            if model in after.evaluation
        },
        alone=sorted({*before.models} ^ {*after.models}),
        settings=_unlike(
            dict(_flat(before.provenance.settings)), dict(_flat(after.provenance.settings))
        ),
        principles=_unlike(dict(_texts(before)), dict(_texts(after))),
    )


def _plain(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON."""
    reports = [report.plain() for report in comparison.reports]
    return {
        "schema": SCHEMA,
        "runs": [
            {"name": name, **{key: report[key] for key in ("constitution", "seed", "grader")}}
            for name, report in zip(comparison.names, reports, strict=True)
        ],
        "evaluation": {
            model: {name: _plain_pair(found) for name, found in measures.items()}
            for model, measures in comparison.evaluation.items()
        },
        "revisions": [report["revisions"]["rounds"] for report in reports],
        "scores": [report["revisions"]["scores"] for report in reports],
        "elo": [_plain_elo(report["evaluation"], report["measures"]) for report in reports],
        "checkpoints": [
            {
                policy: {
                    name: (FOLLOWED[name].title, [(step, asdict(value)) for step, value in points])
                    for name, points in series.items()
                }
                for policy, series in checkpoint_series(report).items()
            }
            for report in comparison.reports
        ],
        "alone": comparison.alone,
        "settings": comparison.settings,
        "principles": comparison.principles,
    }


def _plain_pair(found: Compared) -> dict[str, Any]:
    """Return a measure as JSON, with an empty object if a run has not measured it."""
    plain = asdict(found)
    return {**plain, "before": plain["before"] or {}, "after": plain["after"] or {}}


def _plain_elo(evaluation: Mapping[str, Any], measures: Mapping[str, Any]) -> dict[str, Any]:
    kept = measures.get("checkpoints", [])
    return {
        "models": [*evaluation],
        "elo": measures.get("elo"),
        "starts": measures.get("starts"),
        "checkpoints": [{key: one[key] for key in ("policy", "step", "name")} for one in kept],
    }


def _measures(before: Report, after: Report, model: str) -> Iterator[tuple[str, Compared]]:
    """Yield all rates of a model, and the other measures of either run."""
    rates = after.evaluation[model].rates
    for rate, was in before.evaluation[model].rates.items():
        yield rate, Compared(was, rates[rate], difference(was, rates[rate]))
    one, other = measured(before, model), measured(after, model)
    for name in MEASURES:
        if name in one or name in other:
            was, now = one.get(name), other.get(name)
            # Values of two trained models cannot be compared.
            same = not (was and now) or _scale(before, name) == _scale(after, name)
            yield name, Compared(was, now, difference(was, now) if same else None)


def _scale(report: Report, name: str) -> object:
    """Return the model behind a measure: a judge's name, or the hashes of a trained model."""
    measures, part = report.measures, name.partition("/")[0]
    if part not in ("elo", "harmfulness", "mean_preference_score"):
        return None
    judged = {"elo": measures.elo, "harmfulness": measures.harmfulness}.get(part)
    if judged and judged.method == "judge":
        return measures.judge
    if part == "harmfulness":
        settings = report.provenance.settings
        sections = (settings.get(name) for name in report.stages_of("evaluate"))
        elsewhere = [section["harmfulness"] for section in sections if section]
        if any(elsewhere):
            return elsewhere
    scorers = report.stages_of("harmfulness" if part == "harmfulness" else "preference")
    return [found.outputs for found in scorers.values()]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key; lists stay whole."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _texts(report: Report) -> Iterator[tuple[str, Any]]:
    for name, found in report.principles.items():
        for half in TEXTS:
            if found.text[half] is not None:
                yield f"{name}, {half}", found.text[half]


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (key, before, after) where they differ; None where a side lacks the key."""
    keys = [*before, *(key for key in after if key not in before)]
    return [
        (key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]
