"""Bounds that labels must meet before a preference model is trained on them."""

from __future__ import annotations

from cai.compare.quality.measure import LabelQuality
from cai.settings import GateSettings


def misses(quality: LabelQuality, gate: GateSettings) -> list[str]:
    """Return messages about missed bounds; a measure without a value misses its bound.

    Args:
        quality: The measures. Their values count, not their intervals.
        gate: The bounds; null ones are not checked.
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
