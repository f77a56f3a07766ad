"""How good labels are, measured on comparisons whose better response is known; and their gate."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from cai.compare import by_pair, first_preferred, label_pair, orders_agree, preference
from cai.compare.labels import OPINION
from cai.data.prompts import fingerprints
from cai.data.records import ComparisonRow, JudgementRow, PairRow, Provenance, ResponseSample
from cai.evaluate.rates import Rate, mean, rate
from cai.settings import GateSettings, LabelPolicy, SourceSettings

BINS = 10
"""Equal bins of confidence from 0.5 to 1, for reliability and calibration error."""
RESAMPLES = 500
"""Bootstrap samples of tasks, for the interval of the calibration error."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Labels of about the same confidence.

    Attributes:
        confidence: Their mean confidence max(p, 1 - p), in [0.5, 1].
        right: The share of them on the side of the better response.
    """

    confidence: float
    right: Rate


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


@dataclass(frozen=True)
class _Labelled:
    """A label beside the truth."""

    task: str
    label: float
    first_is_better: bool

    @property
    def confidence(self) -> float:
        return max(self.label, 1 - self.label)

    @property
    def right(self) -> bool | None:
        """Whether it is on the right side; None for a label of one half."""
        return None if self.label == 0.5 else (self.label > 0.5) == self.first_is_better


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
        _Labelled(row.task, label.label, _first_is_better(row))
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
        reliability=_reliability(labelled),
        calibration_error=_calibration(labelled),
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


def calibration_error(labels: Sequence[tuple[float, bool | None]]) -> float:
    """Return the expected calibration error of (confidence in [0.5, 1], right or not) pairs.

    Equal bins (Naeini, Cooper and Hauskrecht 2015); a label of one half counts as half right.
    """
    bins: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for confidence, right in labels:
        bins[_bin(confidence)].append((confidence, 0.5 if right is None else float(right)))
    gaps = [abs(sum(c for c, _ in some) - sum(r for _, r in some)) for some in bins.values()]
    return sum(gaps) / len(labels)


def _reliability(labelled: Sequence[_Labelled]) -> list[ReliabilityBin]:
    bins: defaultdict[int, list[_Labelled]] = defaultdict(list)
    for one in labelled:
        bins[_bin(one.confidence)].append(one)
    return [
        ReliabilityBin(
            sum(one.confidence for one in some) / len(some),
            rate([one.right for one in some], [one.task for one in some]),
        )
        for _, some in sorted(bins.items())
    ]


def _bin(confidence: float) -> int:
    return min(int((confidence - 0.5) * 2 * BINS), BINS - 1)


def _calibration(labelled: Sequence[_Labelled]) -> Rate:
    """Return the calibration error with the bootstrap's percentile interval over tasks."""
    if not labelled:
        return Rate(None, None, None, 0)
    by_task: defaultdict[str, list[tuple[float, bool | None]]] = defaultdict(list)
    for one in labelled:
        by_task[one.task].append((one.confidence, one.right))
    tasks, rng = list(by_task.values()), random.Random(0)
    values = sorted(
        calibration_error([one for task in rng.choices(tasks, k=len(tasks)) for one in task])
        for _ in range(RESAMPLES)
    )
    low, high = (values[round(q * (RESAMPLES - 1))] for q in (0.025, 0.975))
    whole = calibration_error([one for task in tasks for one in task])
    return Rate(whole, min(low, whole), max(high, whole), len(labelled))


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
