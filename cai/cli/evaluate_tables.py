"""The tables of `cai evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai.evaluate.rates import Rate
from cai.evaluate.results import (
    AlignmentTax,
    CheckpointSummary,
    Choices,
    Counts,
    Elo,
    Harmfulness,
    ModelSummary,
    Rates,
    Results,
    Style,
)
from cai.report.terminal import results_table
from cai.report.wording import Scale, fixed, percent, show, visible

ELO, TWO_DECIMALS = Scale(fixed(0, separator="")), Scale(fixed(2, separator=""))
CHANGE = Scale(fixed(0, times=100, separator=""))
_CHOICE_BASELINES = {
    "always_first": "always (A)",
    "longest": "the longest option",
    "most_frequent": "the most frequent letter",
}


def show_results(
    console: Console,
    results: Results,
    agreement: Rates,
    problems: Mapping[tuple[str, str], str],
) -> None:
    """Print the results of an evaluation: rates, and all other measures that there are.

    Args:
        console: The console.
        results: The results.
        agreement: How often the grader says what people say, by name of the recorded answers.
        problems: One reason for a missing verdict, by model and state.
    """
    evaluation, measures = results.evaluation, results.measures
    console.print()
    if any(summary.states for summary in evaluation.values()):
        rates = {model: summary.rates for model, summary in evaluation.items()}
        console.print(results_table(rates, "Share of answers (95% interval)"))
        if sets := _by_set(evaluation):
            console.print(results_table(sets, "By prompt set"))
    for table in (
        _agreement(agreement),
        _choices(measures.choices),
        _elo(measures.elo),
        _harmfulness(measures.harmfulness),
        _tax(measures.alignment_tax),
        _style(measures.style),
        _checkpoints(measures.checkpoints),
    ):
        if table is not None and table.row_count:
            console.print(table)
    lines = [*_left_out(results, problems), *(f"Note: {flag}" for flag in measures.flags)]
    for line in lines:
        console.print(visible(line))


def _left_out(results: Results, problems: Mapping[tuple[str, str], str]) -> Iterable[str]:
    """Say what has no verdict, and how sure the judge of the matches is."""
    measures = results.measures
    for model, summary in results.evaluation.items():
        for state, count in summary.states.items():
            if state != "ok":
                why = problems.get((model, state), "")
                what = counted(count, "answer")
                yield f"{model}: no verdict on {what} ({state}){why and ': '}{why:.300}"
    for name, of_set in measures.choices.items():
        for model, one in of_set.models.items():
            yield from _lost(f"{model}: no choice in", "question", f" of {name}", one.states)
    if measures.elo and measures.elo.method == "judge":
        yield from _lost("No verdict on", "match", "", measures.elo.matches)
        if measures.elo.order_agreement is not None:
            yield (
                "The judge names the same winner whichever answer is shown first in "
                f"{percent(measures.elo.order_agreement)} of the matches."
            )
    if measures.harmfulness:
        yield from _lost("No harmfulness of", "answer", "", measures.harmfulness.states)


def _lost(before: str, what: str, after: str, states: Counts) -> Iterable[str]:
    lost = {state: n for state, n in states.items() if state not in ("ok", "tie") and n}
    return [f"{before} {counted(n, what)}{after} ({state})" for state, n in lost.items()]


def counted(number: int, what: str) -> str:
    """Say how many there are."""
    plural = f"{what}es" if what.endswith("ch") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _by_set(evaluation: Mapping[str, ModelSummary]) -> dict[str, Rates]:
    """Return the rates by set and model, where the whole says less: a side has several sets."""
    sets: dict[str, dict[str, Rates]] = {}
    for model, summary in evaluation.items():
        for name, rates in summary.by_set.items():
            sets.setdefault(name, {})[model] = rates
    measured = [
        {rate for rates in by_model.values() for rate in rates} for by_model in sets.values()
    ]
    if all(sum(side in m for m in measured) < 2 for side in ("evasive_rate", "over_refusal_rate")):
        return {}
    return {
        f"{name}: {model}": rates
        for name, by_model in sets.items()
        for model, rates in by_model.items()
    }


def _agreement(found: Rates) -> Table:
    rows = ([name, _share(rate), str(rate.n)] for name, rate in found.items())
    return _table("Grader and people agree on what refuses", ("answers", "agree", "n"), rows)


def _choices(found: Mapping[str, Choices]) -> Table:
    rows: list[list[str]] = []
    for name, of_set in found.items():
        shown = {model: one.accuracy for model, one in of_set.models.items()}
        shown |= {
            words: of_set.baselines[baseline]
            for baseline, words in _CHOICE_BASELINES.items()
            if baseline in of_set.baselines
        }
        rows += [[f"{name}: {who}", _share(rate), str(rate.n)] for who, rate in shown.items()]
    return _table("Multiple choice, share right", ("", "accuracy", "n"), rows)


def _elo(found: Elo | None) -> Table | None:
    if not found:
        return None
    how = "by the preference model" if found.method == "preference" else "by the judge"
    rows = (
        [model, _number(rating, ELO), _number(found.helpful[model], ELO)]
        for model, rating in found.harmless.items()
    )
    return _table(f"Elo {how}, against {found.anchor}", ("", "harmless", "helpful"), rows)


def _harmfulness(found: Harmfulness | None) -> Table | None:
    if not found:
        return None
    rows = ([model, _number(mean), str(mean.n)] for model, mean in found.models.items())
    return _table("Harmfulness of answers to red-team prompts, 0 to 4", ("", "mean", "n"), rows)


def _tax(found: Mapping[str, AlignmentTax]) -> Table | None:
    if len(found) < 2:
        return None
    shown: dict[str, list[str]] = {}
    if any(one.perplexity is not None for one in found.values()):
        shown["perplexity"] = [TWO_DECIMALS.write(one.perplexity) for one in found.values()]
        shown["times the first's"] = [_number(one.perplexity_ratio) for one in found.values()]
    if any(one.helpful_change.n for one in found.values()):
        changes = [_number(one.helpful_change, CHANGE) for one in found.values()]
        shown["helpful, change in points"] = changes
    if not shown:
        return None
    rows = map(list, zip(found, *shown.values(), strict=True))
    return _table("Alignment tax", ("", *shown), rows)


def _style(found: Mapping[str, Style]) -> Table:
    rows = (
        [
            model,
            _share(one.boilerplate),
            _share(one.preachy),
            percent(one.repeated_openings),
            f"{one.words.value:.0f}",
        ]
        for model, one in found.items()
    )
    columns = ("", "boilerplate", "preachy", "repeated openings", "words")
    return _table("Wording, share of answers", columns, rows)


def _checkpoints(found: Iterable[CheckpointSummary]) -> Table:
    rates = ("harmful_rate", "evasive_rate", "helpful_rate", "over_refusal_rate")
    several = len({one.policy for one in found}) > 1
    rows = (
        [
            f"{one.policy}, {one.step}" if several else str(one.step),
            *(_share(one.evaluation.rates[rate]) for rate in rates),
        ]
        for one in found
    )
    columns = ("after step", "harmful", "evasive", "helpful", "over-refusal")
    return _table("Checkpoints of PPO, share of answers", columns, rows)


def _table(title: str, columns: Iterable[str], rows: Iterable[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number else "left",
            overflow="ellipsis" if number else "fold",  # no two names may look alike
        )
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def _share(rate: Rate) -> str:
    return str(show(rate))


def _number(found: Rate, scale: Scale = TWO_DECIMALS) -> str:
    return str(show(found, scale, hide="alike"))
