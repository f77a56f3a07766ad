"""How good labels are, measured on comparisons whose better response is known."""

from cai.compare.quality.gate import misses
from cai.compare.quality.gold import gold_comparisons, gold_fingerprints, gold_pair, gold_pairs
from cai.compare.quality.measure import LabelQuality, measure_quality

__all__ = [
    "LabelQuality",
    "gold_comparisons",
    "gold_fingerprints",
    "gold_pair",
    "gold_pairs",
    "measure_quality",
    "misses",
]
