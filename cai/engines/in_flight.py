"""How long an engine that others drive was at work, and how long it had too little to do."""

from __future__ import annotations

import time

from cai.engines import Usage


class InFlight:
    """Counts requests under way: `with in_flight:` around each."""

    def __init__(self, usage: Usage, *, few: int = 0) -> None:
        """Write into `usage`; with fewer requests than `few` the engine counts as starved.

        Time without any request is no time of this engine: another one of the stage is at work, or
        none.
        """
        self._usage = usage
        self._few = few
        self._count = 0
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether any request is under way."""
        return self._count > 0

    def __enter__(self) -> None:
        self._change(1)

    def __exit__(self, *error: object) -> None:
        self._change(-1)

    def _change(self, by: int) -> None:
        now = time.perf_counter()
        if self._count:
            self._usage.engine_seconds += now - self._since
            if self._count < self._few:
                self._usage.engine_starved_seconds += now - self._since
        self._since = now
        self._count += by
