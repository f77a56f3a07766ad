"""How good labels are, measured on comparisons whose better response is known; and their gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from cai.compare import by_pair, first_preferred, label_pair, orders_agree, preference
from cai.compare.calibration import ReliabilityBin, Told, calibration, reliability
from cai.compare.labels import OPINION
from cai.data.prompts import fingerprints
from cai.data.records import ComparisonRow, JudgementRow, PairRow, Provenance, ResponseSample
from cai.evaluate.rates import Rate, mean, rate
from cai.settings import GateSettings, LabelPolicy, SourceSettings


@dataclass(frozen=True)
class LabelQuality:
    """The quality of labels on known comparisons. Intervals are 95%, clustered by task.

    Attributes:
        comparisons: How many there are, by state: `ok` are those with a known better response.
        labels: How the feedback model's rows for these ended, by state.
        accuracy: The share of labels on the side of the better response.
        answered: The share of the comparisons that got a label.
        reliability: The same, by confidence.
        calibration_error: Expected calibration error: the mean over labels of the distance between
            their bin's accuracy and mean confidence, in [0, 1]. Few labels make it look larger.
        swap_flips: The share of opinions that change with the order of asking.
        position_bias: Mean P(the response shown first is better) - 1/2, before the two orders are
            averaged; of the one order alone where there is one. Over comparisons of two.
        length_bias: Mean label of the longer response (in words), minus the share of longer
            responses that are better; above 0, the judge prefers length.
        option_mass: Mean probability on the options together.
        principle_agreement: How often two principles with an opinion on one comparison agree.
        always_first: Accuracy of always preferring the response shown first.
        longer_wins: Accuracy of preferring the one with more words; comparisons of equal length
            are left out.
    """

    comparisons: dict[str, int]
    labels: dict[str, int]
    accuracy: Rate
    answered: Rate
    reliability: list[ReliabilityBin]
    calibration_error: Rate
    swap_flips: Rate
    position_bias: Rate
    length_bias: Rate
    option_mass: Rate
    principle_agreement: Rate
    always_first: Rate
    longer_wins: Rate


def gold_fingerprints(sources: Sequence[SourceSettings], *, base_dir: Path) -> dict[str, str]:
    """Name what the sources hold."""
    named = fingerprints(sources, "feedback", base_dir)
    return {f"known comparisons {path}": name for path, name in named.items()}


def gold_pairs(rows: Iterable[ComparisonRow]) -> list[PairRow]:
    """Return known comparisons as `gold_pair` does, in an order that is not that of their files.

    The first of them then say as much about all of them as any others (`data/states.py`).
    """
    return sorted(map(gold_pair, rows), key=lambda pair: pair.key)


def gold_pair(row: ComparisonRow) -> PairRow:
    """Return a known comparison as responses that the feedback model can be asked about."""
    first, second = (ResponseSample(text=text, model="", ended=True) for text in row.responses)
    return PairRow(
        key=row.key,
        state=row.state,
        error=row.error,
        kind=row.kind,
        messages=row.messages,
        task=row.task,
        responses=(first, second),
        provenance=Provenance(
            model="", model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
    )


def measure_quality(
    gold: Iterable[ComparisonRow],
    judgements: Iterable[JudgementRow],
    *,
    weights: Mapping[str, float],
    policy: LabelPolicy,
) -> LabelQuality:
    """Measure labels on comparisons whose better response is known.

    Args:
        gold: The comparisons; those whose state is not `ok` (ties, for example) are only counted.
        judgements: The judgements of `gold_pair` of each.
        weights: Principle id to weight.
        policy: How verdicts become labels.
    """
    rows = list(gold)
    known = [row for row in rows if row.label is not None and row.label != 0.5]
    judged = by_pair(judgements, policy)
    labels = [
        label_pair(gold_pair(row), judged.get(row.key, ()), weights=weights, policy=policy)
        for row in known
    ]
    tasks = [row.task for row in known]
    labelled = [
        _told(row.task, label.label, first_is_better=_first_is_better(row))
        for row, label in zip(known, labels, strict=True)
        if label.label is not None
    ]
    on = [(row, judgement) for row in known for judgement in judged.get(row.key, ())]
    on_tasks = [row.task for row, _ in on]
    longer = [_first_is_longer(row) for row in known]
    return LabelQuality(
        comparisons=dict(Counter(row.state for row in rows)),
        labels=dict(Counter(label.state for label in labels)),
        accuracy=rate([one.right for one in labelled], [one.task for one in labelled]),
        answered=rate([label.label is not None for label in labels], tasks),
        reliability=reliability(labelled, lowest=0.5),
        calibration_error=calibration(labelled, lowest=0.5),
        swap_flips=rate([_not(orders_agree(judgement)) for _, judgement in on], on_tasks),
        position_bias=mean(
            [_minus_half(first_preferred(judgement)) for _, judgement in on], on_tasks
        ),
        length_bias=mean(
            [_length_bias(row, label.label) for row, label in zip(known, labels, strict=True)],
            tasks,
        ),
        option_mass=mean(
            [e.mass for _, judgement in on for e in judgement.evidence],
            [row.task for row, judgement in on for _ in judgement.evidence],
        ),
        principle_agreement=_agreement(known, judged, policy),
        always_first=rate([_first_is_better(row) for row in known], tasks),
        longer_wins=rate(
            [
                None if first is None else first == _first_is_better(row)
                for first, row in zip(longer, known, strict=True)
            ],
            tasks,
        ),
    )


def misses(quality: LabelQuality, gate: GateSettings) -> list[str]:
    """Return a message for each bound that a measure misses; one without a value misses it.

    The values count, not their intervals. Bounds that are None are not checked.
    """
    bias = quality.position_bias.value
    low = (
        ("accuracy", quality.accuracy.value, gate.accuracy),
        ("option_mass", quality.option_mass.value, gate.option_mass),
    )
    high = (
        ("calibration_error", quality.calibration_error.value, gate.calibration_error),
        ("swap_flips", quality.swap_flips.value, gate.swap_flips),
        ("position_bias", None if bias is None else abs(bias), gate.position_bias),
    )
    said: list[str] = []
    for bounds, word, sign in ((low, "least", 1), (high, "most", -1)):
        for name, value, bound in bounds:
            if bound is None:
                continue
            if value is None:
                said.append(f"{name} could not be measured (wanted: at {word} {bound:g})")
            elif sign * value < sign * bound:
                said.append(f"{name} is {value:.3f} (wanted: at {word} {bound:g})")
    return said


def _told(task: str, label: float, *, first_is_better: bool) -> Told:
    """Set a label beside the truth; one of one half is on neither side."""
    right = None if label == 0.5 else (label > 0.5) == first_is_better
    return Told(task, max(label, 1 - label), right, 0.5 if right is None else float(right))


def _agreement(
    known: Sequence[ComparisonRow],
    judged: Mapping[str, Sequence[JudgementRow]],
    policy: LabelPolicy,
) -> Rate:
    """Compare the principles' verdicts on each comparison, two at a time."""
    same: list[bool | None] = []
    tasks: list[str] = []
    for row in known:
        found = [preference(judgement, policy) for judgement in judged.get(row.key, ())]
        opinions = [p for p in found if p is not None and abs(p - 0.5) >= OPINION]
        for one, other in combinations(opinions, 2):
            same.append((one > 0.5) == (other > 0.5))
            tasks.append(row.task)
    return rate(same, tasks)


def _minus_half(value: float | None) -> float | None:
    return None if value is None else value - 0.5


def _length_bias(row: ComparisonRow, label: float | None) -> float | None:
    longer = _first_is_longer(row)
    if label is None or longer is None:
        return None
    liked = label if longer else 1 - label
    return liked - float(longer == _first_is_better(row))


def _first_is_better(row: ComparisonRow) -> bool:
    return row.label is not None and row.label > 0.5


def _first_is_longer(row: ComparisonRow) -> bool | None:
    """Compare lengths in words; None when they are the same."""
    first, second = (len(text.split()) for text in row.responses)
    return None if first == second else first > second


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value
