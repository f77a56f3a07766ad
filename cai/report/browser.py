"""The rows on the page, with their filters and orders.

An entry is a JSON object for the page's script: `show` is its kind, which says how its `body` is
drawn, `facets` are the values of filters, and `orders` the values to sort by. All text is shortened
and made visible here.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise, product, repeat
from pathlib import Path
from typing import Any, TypeVar

from cai.compare import by_order, comparison_key, evidence_on, orders_agree, twos_of
from cai.compare.labels import Two
from cai.data.conversation import Conversation
from cai.data.records import (
    AnswerRow,
    ComparisonRow,
    JudgementRow,
    Kind,
    PairRow,
    PromptRow,
    RevisionRow,
    Row,
)
from cai.data.store import read_json
from cai.report.reading import stage_rows
from cai.report.truth import Grade, better, word
from cai.report.wording import LABEL_ORDER, plainly, shown, visible
from cai.revise.flaws import FLAWS, Found
from cai.revise.quality import FlawsRow
from cai.settings import (
    CompareSettings,
    EvaluateSettings,
    PipelineSettings,
    PromptsSettings,
    ReviseSettings,
)

R = TypeVar("R", bound=Row)

Entry = dict[str, Any]

SHOWS = {"revision": "Revisions", "comparison": "Comparisons", "answers": "Answers"}
FACETS = {
    "kind": "Prompt",
    "category": "Category",
    "principle": "Principle",
    "state": "State",
    "graded": "Graded as",
    "flaw": "Flaw",
    "sharpness": "Label",
    "found": "Notable",
}
ORDERS = {
    "changes": "changes made",
    "sharpness": "label sharpness",
    "gap": "difference of the orders",
    "words": "words",
}
"""The titles of the kinds, filters and orders, as they are shown."""

KINDS: dict[Kind, str] = {"red_team": "red-team", "helpful": "benign"}
SHARPNESS = ((0.2, "undecided"), (0.8, "leaning"), (1.0, "sharp"))
"""Upper ends of |2p - 1|, and the word for such a label."""


@dataclass(frozen=True)
class Rows:
    """The entries of the page, and the number of rows of each kind in the run."""

    entries: list[Entry]
    totals: dict[str, int]


def collect_rows(run_dir: Path, settings: PipelineSettings, most: int, grade: Grade) -> Rows:
    """Collect the entries of the page, at most `most` of each kind.

    Rows are stored in the order of a hash, so the first ones of a file are a random sample.
    """
    prompts, revised, compared, evaluated = (
        [run_dir / name for name in settings.named(kind)]
        for kind in (PromptsSettings, ReviseSettings, CompareSettings, EvaluateSettings)
    )
    categories = {
        row.task: row.tags["category"]
        for row in _rows(prompts, PromptRow)
        if "category" in row.tags
    }
    entries: list[Entry] = []
    totals: dict[str, int] = {}
    sorts: dict[str, Iterable[Entry]] = {
        "revision": _revisions(revised, categories, grade),
        "comparison": _comparisons(compared, prompts, categories, grade),
        "answers": _answers(evaluated[:1]),
    }
    for show, found in sorts.items():
        rows = iter(found)
        kept = list(islice(rows, most))
        totals[show] = len(kept) + sum(1 for _ in rows)
        entries += sorted(kept, key=_dullness)
    return Rows(_with_votes(compared, entries), totals)


def _dullness(entry: Entry) -> tuple[float, ...]:
    """Sort the most interesting first: changed chains, labelled pairs, models that differ."""
    return (
        entry["show"] == "comparison" and entry["body"]["label"] is None,
        -entry["orders"].get("changes", 0),
        "the models agree" in entry["facets"]["found"],
    )


def pack(rows: Rows) -> str:
    """Return the entries as the page embeds them: JSON, gzip, base64."""
    data = {
        "shows": SHOWS,
        "facets": FACETS,
        "orders": ORDERS,
        "labels": LABEL_ORDER,
        "flaws": FLAWS,
        "totals": rows.totals,
        "rows": rows.entries,
    }
    plain = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()


def _rows(folders: Iterable[Path], row_type: type[R], name: str = "rows") -> Iterator[R]:
    return chain.from_iterable(stage_rows(folder, row_type, name) for folder in folders)


def _revisions(
    folders: Sequence[Path], categories: Mapping[str, str], grade: Grade
) -> Iterator[Entry]:
    for row, flaws in _with_flaws(folders):
        texts = [row.response, *(step.revision for step in row.steps)]
        labels = [word(grade(row.kind, row.messages, text)) for text in texts]
        changes = [new != old for old, new in pairwise(texts)]
        found = ["changed" if any(changes) else "never changed"] if changes else []
        if not all((row.ended, *(step.ended for step in row.steps))):
            found.append("cut off by the token limit")
        ends = [("first", labels[0]), ("last", labels[-1])][: len(texts)]
        graded = [f"{when}: {plainly(label)}" for when, label in ends if label is not None]
        yield _entry(
            "revision",
            row,
            categories.get(row.task),
            facets={
                "principle": [step.principle.id for step in row.steps],
                "graded": graded,
                "flaw": _flaw_facet(flaws),
                "found": found,
            },
            orders={"changes": sum(changes), "words": len(texts[-1].split())},
            body={
                "response": shown(row.response),
                "labels": [_known(label) for label in labels],
                "models": _two_models(row),
                "steps": [
                    {
                        "principle": shown(step.principle.id),
                        "critique": _known(step.critique),
                        "text": shown(step.revision),
                        "flaws": [
                            {"where": one.where, "flaw": one.flaw, "quote": shown(one.quote)}
                            for one in round_flaws
                        ],
                    }
                    for step, round_flaws in zip(row.steps, flaws or repeat(()), strict=False)
                ],
            },
        )


def _with_flaws(
    folders: Iterable[Path],
) -> Iterator[tuple[RevisionRow, Sequence[Sequence[Found]] | None]]:
    """Yield chains with the flaws of their rounds, as the stage found them; None if it did not."""
    for folder in folders:
        flaws = {
            (row.key, row.fingerprint): row.rounds for row in stage_rows(folder, FlawsRow, "flaws")
        }
        for row in stage_rows(folder, RevisionRow):
            yield row, flaws.get((row.key, row.fingerprint))


def _flaw_facet(rounds: Sequence[Sequence[Found]] | None) -> list[str]:
    """Return the flaws to filter by; those of critiques are told from those of revisions."""
    if rounds is None:
        return []
    names = {
        one.flaw if one.where == "revision" else f"{one.flaw} (critique)"
        for found in rounds
        for one in found
    }
    return sorted(names) or ["none"]


def _two_models(row: RevisionRow) -> list[str]:
    """Return the models of the first response and of the revisions, if they are two."""
    if row.responder is None:
        return []
    return [shown(row.responder.model), shown(row.provenance.model)]


def _comparisons(
    folders: Sequence[Path],
    prompts: Sequence[Path],
    categories: Mapping[str, str],
    grade: Grade,
) -> Iterator[Entry]:
    compared = {
        (folder, comparison_key(pair, two)): (two, [pair.responses[n].model for n in two])
        for folder in folders
        for pair in stage_rows(folder, PairRow, "pairs")
        for two in twos_of(pair)
    }
    labelled = ((row, folder) for folder in folders for row in stage_rows(folder, ComparisonRow))
    human = ((row, Path()) for row in _rows(prompts, ComparisonRow, "comparisons"))
    for row, folder in chain(labelled, human):
        verdicts = [grade(row.kind, row.messages, text) for text in row.responses]
        truth = better(row.kind, verdicts)
        found = [f"{row.source} label"]
        if row.label is not None and row.label != 0.5 and truth is not None:
            agrees = (row.label < 0.5) == bool(truth)
            found.append("with the ground truth" if agrees else "against the ground truth")
        labels = [word(verdict) for verdict in verdicts]
        two, models = compared.get((folder, row.key), ((0, 1), ("", "")))
        yield _entry(
            "comparison",
            row,
            categories.get(row.task),
            facets={
                "graded": sorted({plainly(label) for label in labels if label is not None}),
                "sharpness": [] if row.label is None else [_sharpness(row.label)],
                "found": found,
            },
            orders={} if row.label is None else {"sharpness": abs(2 * row.label - 1)},
            body={
                "source": row.source,
                "label": row.label,
                "better": truth,
                "responses": [
                    {"text": shown(text), "model": shown(model), "label": _known(label)}
                    for text, model, label in zip(row.responses, models, labels, strict=True)
                ],
                "votes": [((folder, key), two) for key in row.judgements],
            },
        )


def _with_votes(folders: Sequence[Path], entries: list[Entry]) -> list[Entry]:
    """Replace the keys of judgements by votes, and add the facets of these."""
    comparisons = [entry for entry in entries if entry["show"] == "comparison"]
    places: defaultdict[tuple[Path, str], list[tuple[Entry, Two]]] = defaultdict(list)
    for entry in comparisons:
        for key, two in entry["body"]["votes"]:
            places[key].append((entry, two))
        entry["body"]["votes"] = []
    for folder, name in product(folders, ("judgements", "fallback")):
        for row in stage_rows(folder, JudgementRow, name):
            for entry, two in places.get((folder, row.key), ()):
                entry["body"]["votes"].append(vote(row, two))
    for entry in comparisons:
        mine: list[dict[str, Any]] = entry["body"]["votes"]
        mine.sort(key=lambda vote: str(vote["principle"]))
        entry["facets"]["principle"] = [vote["principle"] for vote in mine]
        both = [
            abs(vote["forward"] - vote["backward"])
            for vote in mine
            if vote["forward"] is not None and vote["backward"] is not None
        ]
        if both:
            entry["orders"]["gap"] = max(both)
        if any(vote["agree"] is False for vote in mine):
            entry["facets"]["found"].append("the orders disagree")
    return entries


def vote(row: JudgementRow, two: Two = (0, 1)) -> dict[str, Any]:
    """Return a judgement for the page; P(the first is better) is given for each order, or None."""
    forward, backward = (None if p is None else round(p, 4) for p in by_order(row, two))
    asked = evidence_on(row, two)
    return {
        "principle": shown(row.principle.id),
        "state": row.state,
        "forward": forward,
        "backward": backward,
        "agree": orders_agree(row, two),
        "mass": round(sum(e.mass for e in asked) / len(asked), 4) if asked else None,
        "reasoning": [shown(e.reasoning) for e in asked if e.reasoning],
    }


def _answers(folders: Sequence[Path]) -> Iterator[Entry]:
    """Group the models' answers to one sample of one prompt: they have the same seed."""
    order = [name for folder in folders for name in read_json(folder / "summary.json")]
    groups: defaultdict[tuple[Conversation, int], list[AnswerRow]] = defaultdict(list)
    for row in _rows(folders, AnswerRow):
        groups[row.messages, row.provenance.seed].append(row)
    for group in groups.values():
        rows = sorted(group, key=lambda row: _place(row, order))
        labels = [str(row.verdict.get("label", row.state)) for row in rows]
        found = ["the models differ" if len(set(labels)) > 1 else "the models agree"]
        both = list(zip(rows, labels, strict=True))
        entry = _entry(
            "answers",
            rows[0],
            rows[0].tags.get("category"),
            facets={
                "graded": [f"{row.model}: {plainly(label)}" for row, label in both],
                "found": found if len(rows) > 1 else [],
            },
            orders={"words": sum(len(row.response.split()) for row in rows) / len(rows)},
            body={
                "replies": [
                    {
                        "model": shown(row.model),
                        "text": shown(row.response),
                        "label": shown(label),
                        "state": row.state,
                        "error": shown(row.error or ""),
                    }
                    for row, label in both
                ]
            },
        )
        entry["facets"]["state"] = sorted({row.state for row in rows})
        entry["also"] = [row.key for row in rows[1:]]
        yield entry


def _place(row: AnswerRow, order: Sequence[str]) -> tuple[int, str]:
    """Order models as the evaluation does, others after them by name."""
    return (order.index(row.model) if row.model in order else len(order), row.model)


def _entry(
    show: str,
    row: RevisionRow | ComparisonRow | AnswerRow,
    category: str | None,
    *,
    facets: Mapping[str, Sequence[str]],
    orders: Mapping[str, float],
    body: Mapping[str, Any],
) -> Entry:
    told = {"kind": [KINDS[row.kind]], "category": [category] if category else [], **facets}
    return {
        "show": show,
        "key": shown(row.key),
        "state": row.state,
        "error": shown(row.error or ""),
        "messages": [[message.role, shown(message.content)] for message in row.messages],
        "facets": {
            **{name: [visible(value[:80]) for value in values] for name, values in told.items()},
            "state": [row.state],
        },
        "orders": dict(orders),
        "body": dict(body),
    }


def _sharpness(label: float) -> str:
    sharp = abs(2 * label - 1)
    return next(name for end, name in SHARPNESS if sharp <= end)


def _known(text: str | None) -> str | None:
    return None if text is None else shown(text)
