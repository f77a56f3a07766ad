"""The layouts in which human comparisons are published, each read into judged pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cai.data.prompts import verdicts
from cai.data.prompts.preferred import Judged, preferred, unreadable
from cai.data.prompts.record import Record
from cai.data.prompts.trees import answers_together, as_trees
from cai.data.prompts.turns import structure
from cai.errors import CaiError
from cai.settings import SourceSettings

Read = Callable[[Record, str | None, Mapping[str, str]], list[Judged]]
"""Reads a record, by the column of its prompt and the meaning of its labels in the settings."""


@dataclass(frozen=True)
class Layout:
    """A known layout: a record with all of `columns`, whose value in `nested` is a tree.

    `name` is for messages; `read` makes pairs of a record, usually one.
    """

    name: str
    columns: tuple[str, ...]
    read: Read
    nested: str | None = None

    def fits(self, record: Record) -> bool:
        """Say whether the record has this layout."""
        if not record.has(*self.columns):
            return False
        if self.nested is None:
            return True
        value = structure(record.peek(self.nested))
        return isinstance(value, Mapping) and "replies" in value


def judged_pairs(records: Sequence[Record], source: SourceSettings) -> tuple[list[Judged], str]:
    """Read comparisons; what cannot be read becomes a state, not an exception.

    Returns:
        The pairs in order, and the names of the layouts that they had.

    Raises:
        CaiError: A record's columns are no known layout at all, or labels could mean either thing.
    """
    labels = {str(k): v for k, v in (source.labels or {}).items()}
    together = answers_together(as_trees(records))
    layouts = [layout_of(record) for record in together]
    verdicts.check_labels(
        [r for r, found in zip(together, layouts, strict=True) if found.name == "labelled pairs"],
        labels,
    )
    pairs: list[Judged] = []
    for record, layout in zip(together, layouts, strict=True):
        try:
            pairs += layout.read(record, source.column, labels)
        except CaiError as error:
            pairs.append(unreadable(str(error)))
    return pairs, " and ".join(dict.fromkeys(layout.name for layout in layouts))


def layout_of(record: Record) -> Layout:
    """Return the first layout that fits.

    Raises:
        CaiError: None does.
    """
    found = next((layout for layout in LAYOUTS if layout.fits(record)), None)
    if found is None:
        pairs = ", ".join(f"`{one}` and `{two}`" for one, two in TWO_RESPONSES)
        verdict = ", ".join(f"`{name}`" for name in VERDICT_COLUMNS)
        raise CaiError(
            f"{record.where} is no comparison: it has {record.columns()}. A comparison has "
            f"`chosen` and `rejected`; two responses ({pairs}) and which one is better "
            f"({verdict}); or another layout of docs/data.md. Rename the columns. (`cai feedback` "
            "takes multiple-choice questions, too: docs/evaluate.md has their layouts.)"
        )
    return found


def _better_and_worse(better: str, worse: str) -> Read:
    return lambda record, column, _: [preferred(record, better, worse, column)]


def _judged(one: str, two: str, verdict: Callable[[Record], float]) -> Read:
    return lambda record, column, _: [
        verdicts.two_responses(record, (one, two), verdict(record), column)
    ]


def _labelled(one: str, two: str, name: str) -> Read:
    def read(record: Record, column: str | None, labels: Mapping[str, str]) -> list[Judged]:
        label = verdicts.told(record, name, (one, two), labels)
        return [verdicts.two_responses(record, (one, two), label, column)]

    return read


def _without_labels(read: Callable[[Record, str | None], list[Judged]]) -> Read:
    return lambda record, column, _: read(record, column)


TWO_RESPONSES = (
    ("output_1", "output_2"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("output_a", "output_b"),
    ("response_0", "response_1"),
)
VERDICT_COLUMNS = ("label", "winner", "preference", "preferred", "better")

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "preferred and rejected answers",
        ("chosen", "rejected"),
        _better_and_worse("chosen", "rejected"),
    ),
    Layout(
        "preferred and rejected answers",
        ("chosen_response", "rejected_response"),
        _better_and_worse("chosen_response", "rejected_response"),
    ),
    Layout(
        "StackExchange pairs",
        ("response_j", "response_k"),
        _better_and_worse("response_j", "response_k"),
    ),
    Layout(
        "HHH comparisons",
        ("text_correct", "text_incorrect"),
        lambda record, *_: [preferred(record, "text_correct", "text_incorrect", whole=True)],
    ),
    Layout(
        "OpenAI preferences",
        ("preferred_output", "non_preferred_output"),
        _better_and_worse("preferred_output", "non_preferred_output"),
    ),
    Layout(
        "PandaLM annotations",
        ("response1", "response2", "annotator1"),
        _judged("response1", "response2", verdicts.annotated),
    ),
    Layout("OASST trees", ("prompt",), _without_labels(verdicts.tree), nested="prompt"),
    Layout(
        "Arena conversations",
        ("conversation_a", "conversation_b", "winner"),
        _without_labels(verdicts.arena_conversations),
    ),
    Layout(
        "Arena responses",
        ("response_a", "response_b", "winner_model_a"),
        _without_labels(verdicts.arena_responses),
    ),
    Layout(
        "HelpSteer preferences",
        ("response_1", "response_2", "preference_strength"),
        _judged("response_1", "response_2", verdicts.strength("preference_strength")),
    ),
    Layout(
        "HelpSteer preferences",
        ("response1", "response2", "overall_preference"),
        _judged("response1", "response2", verdicts.strength("overall_preference")),
    ),
    Layout(
        "PKU-SafeRLHF pairs",
        ("response_0", "response_1", "better_response_id"),
        _judged("response_0", "response_1", verdicts.coded("better_response_id", {0: 1.0, 1: 0.0})),
    ),
    Layout(
        "SHP pairs",
        ("human_ref_a", "human_ref_b", "labels"),
        _judged("human_ref_a", "human_ref_b", verdicts.coded("labels", {1: 1.0, 0: 0.0})),
    ),
    Layout("rated completions", ("completions",), _without_labels(verdicts.completions)),
    Layout("ranked answers", ("answers",), _without_labels(verdicts.ranked_answers)),
    *(
        Layout("labelled pairs", (one, two, name), _labelled(one, two, name))
        for one, two in TWO_RESPONSES
        for name in VERDICT_COLUMNS
    ),
    Layout(
        "LLaMA-Factory preferences",
        ("instruction", "output"),
        _without_labels(verdicts.two_outputs),
    ),
)
"""The first that fits is used."""
