"""Stop a stage most of whose rows end in one state, before the rest of them is made for nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cai.data.records import Row
from cai.errors import CaiError

FEWEST = 20
"""Of fewer rows no share is worth a word."""
SURE = 3.0
"""Standard deviations by which the rows so far must be above the share."""
RESULTS = frozenset({"ok", "tie"})
"""States that are results: a row is not lost in them."""
ADVICE = {
    "refused": "A content filter or the model itself refuses: use a model without such a filter, "
    "or other prompts.",
    "unparsed": "The answers are empty, cut off or no verdicts: switch the model's reasoning off "
    "(`options`), allow more tokens, or use a model that answers such questions.",
    "too_long": "The prompts do not fit: use a model with a longer context, fewer or shorter "
    "examples, or shorter prompts.",
    "failed": "The engine or the server fails: repair what its message names.",
}


@dataclass(frozen=True)
class StateLimit:
    """The largest share of rows that may end in one state.

    Attributes:
        share: The share, in (0, 1]; 1 stops nothing.
        what: What the rows are called.
        setting: The setting that holds the share.
        normal: States that stop nothing here, beside `RESULTS`.
        together: So many rows are about one prompt, and likely to end in the same state.
    """

    share: float
    what: str
    setting: str
    normal: Collection[str] = ()
    together: int = 1

    def exceeding(self, states: Counter[str], rows: int, *, surely: bool) -> str | None:
        """Return a state that has more than its share.

        Args:
            states: How many rows are in each.
            rows: How many there are.
            surely: These are a sample of more rows: the share of all of them must be above, too,
                but for chance.
        """
        spread = SURE * math.sqrt(self.together * rows * self.share * (1 - self.share))
        fewest = FEWEST * self.together if surely else FEWEST
        most = self.share * rows + (spread if surely else 0.0)
        state, count = max(
            ((s, c) for s, c in states.items() if s not in RESULTS and s not in self.normal),
            key=lambda one: one[1],
            default=("", 0),
        )
        return state if rows >= fewest and count > most else None


class Watch:
    """Counts the states of rows as they end, and stops where one has more than its share.

    Rows that have begun count as rows: those that fail end early, and would else be most of the
    rows that have ended.
    """

    def __init__(
        self, limit: StateLimit, earlier: Iterable[Row], pending: int, *, is_stored: bool
    ) -> None:
        """Begin with the rows that are there, which are none of those `pending`."""
        self._limit = limit
        self._is_stored = is_stored
        self._states = Counter(row.state for row in earlier)
        self._begun = self._states.total()
        self._total = self._begun + pending
        self._first: dict[str, str] = {}

    def begin(self) -> None:
        """Count a row that is under way."""
        self._begun += 1

    def end(self, row: Row) -> None:
        """Count how a row has ended.

        Raises:
            CaiError: Too many have ended in its state.
        """
        self._states[row.state] += 1
        self._first.setdefault(row.state, row.error or "without a message")
        limit, is_last = self._limit, self._states.total() == self._total
        state = limit.exceeding(self._states, self._begun, surely=not is_last)
        if state is None:
            return
        left = self._total - self._begun
        others = f"The other {left:,} were not begun. " if left else ""
        kept = ": finished rows are kept, and only these are made anew" if self._is_stored else ""
        raise CaiError(
            f"{limit.what}: {self._states[state]:,} of {self._begun:,} rows are `{state}`, more "
            f"than `{limit.setting}` allows ({limit.share:g}). {others}The first: "
            f"{self._first[state].rstrip('.')}. {ADVICE.get(state, '')} Then run again{kept}. To "
            f"go on all the same, set `{limit.setting}` to 1."
        )


def owed(limit: StateLimit | None, earlier: Iterable[Row]) -> Collection[str]:
    """Return the states of earlier rows that are too many to be kept: these are made anew."""
    if limit is None:
        return ()
    states = Counter(row.state for row in earlier)
    found: set[str] = set()
    total = states.total()
    while state := limit.exceeding(states, total, surely=False):
        found.add(state)
        states.pop(state)
    return found
