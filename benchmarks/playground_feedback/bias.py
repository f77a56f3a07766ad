"""How much of a liking for the option (A) is left in the mean of both orders."""

import statistics
from collections.abc import Iterable, Sequence

from cai.compare import preference
from cai.data.records import JudgementRow
from cai.settings import LabelPolicy

BIAS = 1.0
"""Nats that are added to whichever option is (A)."""


def biased(rows: Iterable[JudgementRow]) -> list[JudgementRow]:
    """Return judgements as a judge would make them that likes whatever is called (A)."""
    return [
        row.model_copy(
            update={
                "evidence": [
                    e.model_copy(update={"logprobs": (e.logprobs[0] + BIAS, *e.logprobs[1:])})
                    for e in row.evidence
                ]
            }
        )
        for row in rows
    ]


def bias_removed(rows: Sequence[JudgementRow]) -> dict[str, float]:
    """Say how much of an injected position bias is left in the probabilities of one judgement.

    Returns:
        `signed`, the mean shift of P(response 0), and `absolute`, the mean size of the shift, with
        the `first` order alone and with the `average` of both.
    """
    found: dict[str, float] = {}
    for orders in ("first", "average"):
        policy = LabelPolicy(orders=orders)
        shifts = [
            after - before
            for old, new in zip(rows, biased(rows), strict=True)
            if (before := preference(old, policy)) is not None
            and (after := preference(new, policy)) is not None
        ]
        found[f"signed, {orders}"] = statistics.fmean(shifts)
        found[f"absolute, {orders}"] = statistics.fmean(map(abs, shifts))
    return found


def bias_share_removed(bias: dict[str, float]) -> float:
    """Return the share of the mean shift that averaging the two orders takes away."""
    return 1 - abs(bias["signed, average"]) / abs(bias["signed, first"])
