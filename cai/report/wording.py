"""How numbers and foreign text are written on the page and on a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cai.evaluate.rates import Estimate

LONGEST_TEXT = 4000
"""Characters of a model's text that the page shows; the rows keep all of it."""

NOTHING = "–"

LABEL_ORDER = (
    "harmful",
    "evasive",
    "garbled",
    "partial_refusal",
    "explained_refusal",
    "compliance",
    "helpful",
)
"""The labels with a colour, in the order of a bar; others are grey and last."""

METRICS = {
    "final_kl": "final KL, nats",
    "final_score": "final score",
    "final_ended": "final share ended",
    "kept_step": "policy of step",
    "alarms": "guard’s alarms",
    "score_mean": "mean score",
    "score_std": "spread of scores",
    "seconds": "time",
}
"""Names of training metrics; others have their key."""

Write = Callable[[float | None], str]

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Show control, zero-width and bidirectional characters and lone surrogates as `⟨U+202E⟩`.

    So a terminal escape has no effect, and no text is hidden or reordered. Line feeds and tabs are
    kept. HTML is not escaped here, but in the templates.
    """
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a long text, and say how many characters are missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … [{len(text) - longest:,} more characters are in the rows]"


def shown(text: str) -> str:
    """Make text short enough and safe to look at."""
    return visible(shorten(text))


def percent(value: float | None) -> str:
    """Write a proportion in percent, with a decimal only below 1% and above 99%."""
    if value is None:
        return NOTHING
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def points(difference: float | None) -> str:
    """Write a difference of proportions in percentage points, with its sign (`−12`, `+0.4`)."""
    if difference is None:
        return NOTHING
    size = 100 * difference
    shown = f"{size:+.1f}" if abs(size) < 9.95 else f"{size:+.0f}"
    return "0" if shown in ("+0.0", "-0.0") else _minus(shown)


def number(value: object) -> str:
    """Write a number with thousands separators or three significant digits; other values as is."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    whole = isinstance(value, int) or abs(value) >= 1000
    written = f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")
    return _minus(written)


def fixed(decimals: int, *, times: float = 1, separator: str = ",") -> Write:
    """Return a function that writes `times` a number with `decimals` (`1,234`, `−0.35`)."""

    def write(value: float | None) -> str:
        if value is None:
            return NOTHING
        # Adding 0.0 turns -0.0 into 0.0.
        return _minus(f"{round(times * value, decimals) + 0.0:{separator}.{decimals}f}")

    return write


def _minus(written: str) -> str:
    return written.replace("-", "−", 1) if written.startswith("-") else written


def setting(value: object) -> str:
    """Write the value of a setting as in a pipeline file; – for None."""
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float | None) -> str:
    """Write seconds as `8 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(written: str) -> str:
    """Write an ISO time as `2026-11-21 09:12 UTC`; other text as is."""
    try:
        when = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def metric(name: str) -> str:
    """Write the key of a training metric as words (`final_kl` is `final KL`)."""
    return METRICS.get(name, plainly(name))


def round_name(revisions: int) -> str:
    """Name the text of a chain after a number of revisions."""
    return f"revision {revisions}" if revisions else "first response"


def plainly(name: str) -> str:
    """Write a key as words (`explained_refusal_rate` is `explained refusal rate`)."""
    return name.replace("_", " ")


def joined(parts: Sequence[str]) -> str:
    """Write a list in a sentence: `a, b and c`; empty for none."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


@dataclass(frozen=True)
class Scale:
    """How values of one kind are written, and the ends of their interval with `to` between them."""

    write: Write
    write_end: Write | None = None
    to: str = " to "


def signed(scale: Scale) -> Scale:
    """Return the scale of differences of two values of a scale, with their sign."""

    def write(value: float | None) -> str:
        shown = scale.write(value)
        return f"+{shown}" if value is not None and value > 0 and shown.strip("0.") else shown

    return Scale(write)


PERCENT = Scale(percent, fixed(0, times=100, separator=""), "–")
POINTS = Scale(points)
WHOLE, TENTHS, HUNDREDTHS = (Scale(fixed(decimals)) for decimals in range(3))


@dataclass(frozen=True)
class Shown:
    """An estimate as text: its value, and its interval or an empty text."""

    value: str
    ends: str

    def __str__(self) -> str:
        """Return both in one text."""
        return f"{self.value} ({self.ends})" if self.ends else self.value


def show(
    found: Estimate | None, scale: Scale = PERCENT, *, hide: Literal["equal", "alike"] | None = None
) -> Shown:
    """Write a value and its 95% interval: `70% (67–73)`, `1.00 (0.95 to 1.05)`.

    Args:
        found: The value; None if it was not measured.
        scale: How values of its kind are written.
        hide: Leave out intervals with equal ends, or with ends that are written alike.
    """
    if found is None:
        return Shown(NOTHING, "")
    write_end, ends = scale.write_end or scale.write, ""
    if found.interval is not None:
        low, high = map(write_end, found.interval)
        hidden = {"equal": found.low == found.high, "alike": low == high}
        ends = "" if hide and hidden[hide] else f"{low}{scale.to}{high}"
    return Shown(scale.write(found.value), ends)
