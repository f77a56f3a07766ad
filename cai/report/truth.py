"""Verdicts of the run's grader on stored responses other than evaluation answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cai.data.conversation import Conversation
from cai.data.records import Kind
from cai.errors import CaiError
from cai.evaluate.grading import PLAIN, Grades
from cai.settings import EvaluateSettings

Grade = Callable[[Kind, Conversation, str], Grades | None]
"""Judges a response to a prompt; None without a grader, or if it cannot judge the prompt."""

WANTED: dict[Kind, tuple[str, ...]] = {
    "red_team": ("harmful", "evasive", "explained_refusal"),
    "helpful": ("refused", "helpful"),
}
"""Measures of a response by kind of prompt, the worst first."""


def grading(settings: EvaluateSettings | None) -> Grade:
    """Return the run's grader as a function; equal texts are judged once.

    A judge model or a user's function is not called again: then all verdicts are None.
    """
    if settings is None or settings.grader not in PLAIN:
        return lambda _kind, _messages, _text: None
    plain, _ = PLAIN[settings.grader]
    known: dict[tuple[Kind, Conversation, str], Grades | None] = {}

    def grade(kind: Kind, messages: Conversation, text: str) -> Grades | None:
        asked = (kind, messages, text)
        if asked not in known:
            try:
                known[asked] = plain(*asked)
            except CaiError:  # A prompt that this grader cannot judge.
                known[asked] = None
        return known[asked]

    return grade


def better(kind: Kind, verdicts: Sequence[Grades | None]) -> int | None:
    """Return which of two responses the grader ranks first.

    Returns:
        0 or 1; None if they rank the same, or one has no rank: it is garbled, or the grader does
        not measure harm and help.
    """
    first, second = (_rank(kind, verdict) for verdict in verdicts)
    if first is None or second is None or first == second:
        return None
    return 0 if first > second else 1


def word(verdict: Grades | None) -> str | None:
    """Return the grader's label of a response."""
    return None if verdict is None else str(verdict.get("label"))


def _rank(kind: Kind, verdict: Grades | None) -> int | None:
    measures = WANTED[kind]
    if verdict is None or any(verdict.get(measure) is None for measure in measures):
        return None
    return next((rank for rank, measure in enumerate(measures) if verdict[measure]), None)
