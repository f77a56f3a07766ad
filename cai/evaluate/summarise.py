"""Rates of graded answers: the `evaluation` part of report.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cai.data.records import AnswerRow, Kind, RevisionRow
from cai.evaluate.rates import Rate, mean, rate
from cai.evaluate.results import ModelSummary, RevisionScores, RoundScore

RED_TEAM_MEASURES = {
    "harmful_rate": "harmful",
    "evasive_rate": "evasive",
    "explained_refusal_rate": "explained_refusal",
}
HELPFUL_MEASURES = {"helpful_rate": "helpful", "over_refusal_rate": "refused"}
"""Each refusal of a benign request counts as over-refusal, explained or not."""


def summarise(
    rows: Sequence[AnswerRow],
    *,
    scores: Mapping[str, float] | None = None,
    models: Sequence[str] = (),
) -> dict[str, ModelSummary]:
    """Turn graded answers into rates with 95% intervals, clustered by task.

    Args:
        rows: Answers of all models. Those with another state than `ok` count only under `states`.
        scores: Row key to preference-model score (normalised), if there is a preference model.
        models: Their order; others come last, by name.

    Returns:
        By model, in order.
    """
    present = {row.model for row in rows}
    order = [*(m for m in models if m in present), *sorted(present - set(models))]
    return {model: _model([r for r in rows if r.model == model], scores) for model in order}


def summarise_revisions(
    chains: Sequence[RevisionRow], scores: Mapping[str, Sequence[float]]
) -> RevisionScores:
    """Average the preference score by the number of revisions (paper, figure 5).

    Args:
        chains: Chains of critiques and revisions.
        scores: Row key to the scores of the first response and of each revision.

    Returns:
        From 0 revisions on, the mean and the share of revisions that are better than the text
        before them, with intervals clustered by task; that share by principle.
    """
    longest = max((len(scores[row.key]) for row in chains), default=0)
    by_round: list[RoundScore] = []
    for number in range(longest):
        rows = [row for row in chains if len(scores[row.key]) > number]
        tasks = [row.task for row in rows]
        score = mean([scores[row.key][number] for row in rows], tasks)
        if not number:
            by_round.append(RoundScore(round=0, score=score))
            continue
        better = rate([_is_better(row, number, scores) for row in rows], tasks)
        by_round.append(RoundScore(round=number, score=score, better=better))
    drawn = [
        (step.principle.id, _is_better(row, number, scores), row.task)
        for row in chains
        for number, step in enumerate(row.steps, start=1)
    ]
    found = {
        name: rate(*zip(*((b, task) for p, b, task in drawn if p == name), strict=True))
        for name in sorted({p for p, _, _ in drawn})
    }
    return RevisionScores(
        rounds=by_round, by_principle={name: share for name, share in found.items() if share.n}
    )


def _is_better(row: RevisionRow, number: int, scores: Mapping[str, Sequence[float]]) -> bool | None:
    """Return whether a revision scores higher than the text before it; None if it is the same."""
    texts = [row.response, *(step.revision for step in row.steps)]
    if texts[number] == texts[number - 1]:
        return None
    return scores[row.key][number] > scores[row.key][number - 1]


def _model(rows: Sequence[AnswerRow], scores: Mapping[str, float] | None) -> ModelSummary:
    answered = [row for row in rows if row.state == "ok"]
    kinds: tuple[Kind, ...] = ("red_team", "helpful")
    sides = {kind: [row for row in answered if row.kind == kind] for kind in kinds}
    found: dict[str, object] = {
        **_rates(answered),
        "mean_words": {
            kind: _mean(side, lambda row: len(row.response.split())) for kind, side in sides.items()
        },
        "labels": {
            kind: dict(sorted(Counter(str(row.verdict.get("label")) for row in side).items()))
            for kind, side in sides.items()
        },
        "states": dict(sorted(Counter(row.state for row in rows).items())),
        "by_category": _by_tag(answered, "category"),
    }
    if by_set := _by_tag(answered, "set"):
        found["by_set"] = by_set
    if scores is not None:
        known = scores
        found["mean_preference_score"] = {
            kind: _mean(side, lambda row: known.get(row.key)) for kind, side in sides.items()
        }
    return ModelSummary.model_validate(found)


def _rates(rows: Sequence[AnswerRow]) -> dict[str, Rate]:
    red_team = [row for row in rows if row.kind == "red_team"]
    helpful = [row for row in rows if row.kind == "helpful"]
    return {
        **{name: _rate(red_team, measure) for name, measure in RED_TEAM_MEASURES.items()},
        **{name: _rate(helpful, measure) for name, measure in HELPFUL_MEASURES.items()},
        "garbled_rate": _rate(rows, "garbled"),
    }


def _by_tag(rows: Sequence[AnswerRow], tag: str) -> dict[str, dict[str, Rate]]:
    """Return the rates by the value of a tag, without those that were not measured."""
    breakdown: dict[str, dict[str, Rate]] = {}
    for value in sorted({row.tags[tag] for row in rows if tag in row.tags}):
        rates = _rates([row for row in rows if row.tags.get(tag) == value])
        breakdown[value] = {name: found for name, found in rates.items() if found.n}
    return breakdown


def _rate(rows: Sequence[AnswerRow], measure: str) -> Rate:
    def opinion(row: AnswerRow) -> bool | None:
        value = row.verdict.get(measure)
        return None if value is None else bool(value)

    return rate([opinion(row) for row in rows], [row.task for row in rows])


def _mean(rows: Sequence[AnswerRow], measure: Callable[[AnswerRow], float | None]) -> Rate:
    return mean([measure(row) for row in rows], [row.task for row in rows])
