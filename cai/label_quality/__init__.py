"""How good labels are, measured on comparisons whose better response is known."""

from cai.label_quality.gate import misses
from cai.label_quality.gold import gold_comparisons, gold_fingerprints, gold_pair
from cai.label_quality.measure import LabelQuality, measure_quality

__all__ = [
    "LabelQuality",
    "gold_comparisons",
    "gold_fingerprints",
    "gold_pair",
    "measure_quality",
    "misses",
]
