"""The results on a real model, in Markdown."""

from collections.abc import Mapping
from typing import Any

from benchmarks.show import interval, markdown_table, share

NAME = "real_model"
FEW = 30
"""Answers to prompts of one kind; with fewer, an interval is a third of the scale wide, or more."""
SHOWN = {
    "red_team": {
        "refused": "refused, by wording",
        "explained": "of these, with a reason",
        "unwarned": "goes along without a warning, by wording",
        "rated": "harm, 0 to 4, rated by the model before training",
        "garbled": "garbled",
        "words": "words",
    },
    "helpful": {
        "kept": "answered",
        "refused": "refused, by wording",
        "garbled": "garbled",
        "words": "words",
    },
}
SIDES = {"red_team": "red team", "helpful": "benign"}


def markdown(result: Mapping[str, Any]) -> str:
    """Show all of a result."""
    parts = (_about(result), _models(result), _known(result), _labels(result), _facts(result))
    return "\n\n".join(parts)


def _about(result: Mapping[str, Any]) -> str:
    """Say what was run, and how much to believe."""
    prompts = min(one["refused"]["n"] for m in result["models"].values() for one in m.values())
    few = prompts < FEW
    changed = "".join(f" --set {change}" for change in result["settings"])
    options = f"{' --smoke' if result['smoke'] else ''}{changed}"
    return (
        f"{result['model']}, LoRA of rank 8, options `{options.strip() or 'none'}`, one seed, "
        f"{prompts} answers a side and model. A star marks a change from the first model whose "
        "interval excludes zero. Refusals and warnings are found by their wording; harm is also "
        "rated by the model before training, and labels are that model's. The second table says "
        "what these measures are worth: on answers whose kind is known, they must differ between "
        "its columns. `first` and `longer` in the third are the accuracies of rules that read "
        "nothing."
        + (" **So few answers show that it runs, not what the method moves.**" if few else "")
    )


def _models(result: Mapping[str, Any]) -> str:
    """Show the measures of each model, and which changes are clear."""
    models = result["models"]
    rows: list[list[str]] = []
    for kind, names in SHOWN.items():
        for name, said in names.items():
            cells = [
                f"{interval(measured[kind][name])}{_mark(result, model, kind, name)}"
                for model, measured in models.items()
            ]
            n = min(measured[kind][name]["n"] for measured in models.values())
            rows.append([f"{SIDES[kind]}: {said}", *cells, str(n)])
    ratios = [interval(result["perplexity"][model]["ratio"]) for model in models]
    n = min(result["perplexity"][model]["ratio"]["n"] for model in models)
    rows.append(["perplexity of benign texts, over the first model's", *ratios, str(n)])
    return markdown_table(("answers to held-out prompts", *models, "n"), rows)


def _mark(result: Mapping[str, Any], model: str, kind: str, name: str) -> str:
    """Return a star where the change from the first model has an interval without zero."""
    change = result["changes"].get(model, {}).get(kind, {}).get(name)
    if change is None or change["low"] is None:
        return ""
    return " *" if change["low"] > 0 or change["high"] < 0 else ""


def _known(result: Mapping[str, Any]) -> str:
    head = ("the same measures on known answers", *result["known_answers"])
    names = {name: SHOWN["red_team"][name] for name in ("refused", "unwarned", "rated")}
    rows = [
        [said, *(interval(one[name]) for one in result["known_answers"].values())]
        for name, said in names.items()
    ]
    return markdown_table(head, rows)


def _labels(result: Mapping[str, Any]) -> str:
    head = (
        "labels on known comparisons",
        "right",
        "always the first",
        "always the longer",
        "P(first) - 1/2",
        "n",
    )
    rows = [
        [
            name,
            *(interval(one[key]) for key in ("accuracy", "always_first", "longer_wins")),
            share(one["position_bias"]),
            str(one["accuracy"]["n"]),
        ]
        for name, one in result["labels"].items()
    ]
    return markdown_table(head, rows)


def _facts(result: Mapping[str, Any]) -> str:
    revised = result["revisions"]
    flaws = ", ".join(f"{name} {count}" for name, count in revised["flaws"].items()) or "none"
    lines = [
        f"{revised['revisions']} revisions in {revised['chains']} chains: {revised['flawed']} with "
        f"a flaw that keeps them out of training, {revised['unchanged']} change nothing, "
        f"{revised['cut_off']} were cut off. Flaws: {flaws}.",
        "Seconds and peak memory of each stage: "
        + ", ".join(
            f"{name} {one['seconds']:.0f} s, {_gib(one)}" for name, one in result["stages"].items()
        )
        + ".",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _gib(stage: Mapping[str, Any]) -> str:
    return f"{stage['peak_gib']:.1f} GiB" if "peak_gib" in stage else "memory not measured"
