"""How numbers and foreign text are written for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

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
"""A grader's words that have a colour of their own, as they lie in a bar; others are grey, last."""

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
"""Training metrics that their key does not explain."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Make text safe to look at: no terminal escapes, and no character that hides or reorders.

    Control, zero-width and bidirectional characters and lone surrogates are spelt out as
    `⟨U+202E⟩`; of a terminal escape that leaves its letters (`⟨U+001B⟩[31m`). Line feeds and tabs
    stay. HTML is the template's business.
    """
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a long text, and say how much is missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … [{len(text) - longest:,} more characters are in the rows]"


def percent(value: float | None) -> str:
    """Write a proportion as a percentage, with a decimal only next to 0% and 100%."""
    if value is None:
        return NOTHING
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def interval(rate: Mapping[str, Any]) -> str:
    """Write a rate's 95% interval in percent (`67–78`); empty when there is none."""
    if rate.get("low") is None or rate.get("high") is None:
        return ""
    return f"{100 * rate['low']:.0f}–{100 * rate['high']:.0f}"


def points(difference: float | None) -> str:
    """Write a difference of proportions in percentage points, with its sign (`−12`, `+0.4`)."""
    if difference is None:
        return NOTHING
    size = 100 * difference
    shown = f"{size:+.1f}" if abs(size) < 9.95 else f"{size:+.0f}"
    return "0" if shown in ("+0.0", "-0.0") else _minus(shown)


def number(value: object) -> str:
    """Write a number with thousands separators or three significant digits; other things as is."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    whole = isinstance(value, int) or abs(value) >= 1000
    written = f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")
    return _minus(written)


def _minus(written: str) -> str:
    return written.replace("-", "−", 1) if written.startswith("-") else written


def setting(value: object) -> str:
    """Write the value of a setting as a pipeline file would; – where there is none."""
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float | None) -> str:
    """Write seconds as people say them: `8 s`, `3 min 20 s`, `2 h 5 min`."""
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


def whole(value: float | None) -> str:
    """Write a number without decimals, such as an Elo rating (`−12`)."""
    return NOTHING if value is None else number(round(value))


def tenths(value: float | None) -> str:
    """Write a number with one decimal (`24.5`)."""
    return _fixed(value, 1)


def hundredths(value: float | None) -> str:
    """Write a number with two decimals (`−0.35`)."""
    return _fixed(value, 2)


def _fixed(value: float | None, decimals: int) -> str:
    # Adding 0.0 makes a zero of what would be written -0.
    return NOTHING if value is None else _minus(f"{round(value, decimals) + 0.0:,.{decimals}f}")


def metric(name: str) -> str:
    """Write the key of a training metric as words (`final_kl` is `final KL`)."""
    return METRICS.get(name, plainly(name))


def round_name(revisions: int) -> str:
    """Write which text of a chain is meant."""
    return f"revision {revisions}" if revisions else "first response"


def plainly(name: str) -> str:
    """Write a key as words (`explained_refusal_rate` is `explained refusal rate`)."""
    return name.replace("_", " ")


def joined(parts: Sequence[str]) -> str:
    """Write a list in a sentence: `a, b and c`; empty for none."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
