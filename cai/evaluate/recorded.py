"""Recorded answers, used instead of a model."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.data.prompts.demonstrations import ANSWERS
from cai.data.prompts.readers import read_records
from cai.data.prompts.record import Record, say_what_was_read
from cai.data.prompts.turns import said
from cai.data.records import AnswerRow, Kind, content_hash
from cai.engines import Completion, GenerateRequest, ScoreRequest, Scores, Usage
from cai.errors import CaiError
from cai.evaluate.answer import Sample, answer_seed
from cai.evaluate.options import lists_options
from cai.evaluate.rates import Rate, rate
from cai.evaluate.sets import conversations, prompt_rows, xstest_kind

_NEXT_TURN = re.compile(r"\n+Human:")
_SPEAKER = re.compile(r"\n\w[\w ]{0,20}:")

log = logging.getLogger(__name__)


class RecordedEngine:
    """Returns recorded answers to the requests that they were recorded for."""

    def __init__(self, answers: Mapping[int, str]) -> None:
        """Take the answers by the seeds of their requests."""
        self.usage = Usage()
        self.name = "recorded answers"
        self.fingerprint = content_hash("recorded", sorted(answers.items()))
        self._answers = dict(answers)

    async def generate(self, request: GenerateRequest) -> Completion:
        """Return the answer; it has no tokens."""
        return Completion(self._answers[request.seed], (), (), "stop", self.fingerprint)

    async def score(self, request: ScoreRequest) -> Scores:  # noqa: ARG002
        """Raise an error, because there is no model.

        Raises:
            CaiError: Always.
        """
        raise CaiError(
            "Recorded answers have no probabilities, so they cannot choose among options or be "
            "measured for perplexity. Leave out the multiple-choice sets, or give a model."
        )

    async def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Recorded:
    """A file of answers.

    Attributes:
        asked: The prompts, and the number of the answer to each.
        texts: The answers, in the same order.
        refused: Human labels, in the same order: True for a full or partial refusal; None without
            a label.
    """

    asked: tuple[Sample, ...]
    texts: tuple[str, ...]
    refused: tuple[bool | None, ...]

    def engine(self, seed: int) -> RecordedEngine:
        """Return an engine with these answers for an evaluation with this seed."""
        seeds = (answer_seed(seed, prompt, number) for prompt, number in self.asked)
        return RecordedEngine(dict(zip(seeds, self.texts, strict=True)))


def read_answers(path: str, kind: Kind | None = None) -> Recorded:
    """Read prompts with answers.

    Args:
        path: A file whose rows have a prompt and a `response`, `completion`, `answer` or `output`;
            or the paper's samples (`rl_prompt`, `sampled_answers`). A human turn after an answer
            is cut off, with a warning.
        kind: Of all prompts. None uses the rows: their `kind`, or XSTest's `label` or `type`;
            without these, the kind is helpful.

    Raises:
        CaiError: The file cannot be read, or a row has no answer.
    """
    records = read_records(path)
    asked: list[Sample] = []
    texts: list[str] = []
    refused: list[bool | None] = []
    column = "rl_prompt" if all(record.has("rl_prompt") for record in records) else None
    read = conversations(records, path, column)
    rows = prompt_rows(read, lambda r: kind or _kind(r), "answers", path)
    by_messages = {row.messages: row for row in rows}
    numbers: Counter[str] = Counter()
    for messages, record in read:
        row = by_messages[messages]
        for text in _answers(record):
            asked.append((row, numbers[row.key]))
            numbers[row.key] += 1
            texts.append(text)
            refused.append(_human_label(record))
    say_what_was_read(path, records, ["prompts with answers"])
    return Recorded(tuple(asked), tuple(texts), tuple(refused))


def agreement(rows: Sequence[AnswerRow], recorded: Recorded, seed: int) -> Rate:
    """Return how often the grader's `refused` agrees with human labels, clustered by task."""
    said = {
        answer_seed(seed, prompt, number): refused
        for (prompt, number), refused in zip(recorded.asked, recorded.refused, strict=True)
    }
    told = [(said.get(row.provenance.seed), row.verdict.get("refused")) for row in rows]
    return rate(
        [None if human is None or grader is None else human == grader for human, grader in told],
        [row.task for row in rows],
    )


def _kind(record: Record) -> Kind:
    named = record.get("kind")
    if named in ("red_team", "helpful"):
        return "red_team" if named == "red_team" else "helpful"
    sort = record.get("type")
    if record.get("label") in ("safe", "unsafe") or (record.has("final_label") and sort):
        return xstest_kind(record)
    return "helpful"


def _answers(record: Record) -> list[str]:
    sampled = record.get("sampled_answers")
    if isinstance(sampled, list):
        # These samples continue with a human turn, which is not part of the answer.
        whole = [item.get("sampled_string") for item in sampled if isinstance(item, dict)]
        found = [_NEXT_TURN.split(t, maxsplit=1)[0] if isinstance(t, str) else t for t in whole]
    else:
        name = next((name for name in ANSWERS if record.has(name)), None)
        if name in ("answer", "output") and lists_options(record):
            raise CaiError(
                f"{record.where} is a multiple-choice question: its `{name}` says which option is "
                "right, and is no answer of a model. Name the file in `--prompts "
                "multiple_choice:FILE`."
            )
        if name is None:
            raise CaiError(
                f"{record.where} has no answer: it has {record.columns()}. Give its column "
                f"one of the names {', '.join(f'`{column}`' for column in ANSWERS)}."
            )
        found = [record.get(name)]
    if not all(isinstance(text, str) for text in found):
        raise CaiError(f"{record.where}: an answer is not a text. Fix or remove the row.")
    if not isinstance(sampled, list):
        found = [_without_leak(said(str(text), record), record.where) for text in found]
    return [str(text).strip() for text in found]


def _without_leak(text: str, where: str) -> str:
    """Cut off a human turn that the model wrote after its answer, with a warning.

    A dialogue in the answer (more speakers, or an earlier human turn) is kept.
    """
    before, found, tail = text.rpartition("\n\nHuman:")
    if not found or _SPEAKER.search(tail) or _NEXT_TURN.search(f"\n{before}"):
        return text
    log.warning("%s: a human turn after the answer was cut off.", where)
    return before


def _human_label(record: Record) -> bool | None:
    """Read XSTest's `final_label`: full compliance, or a refusal in full or in part."""
    label = record.get("final_label")
    return None if not isinstance(label, str) or not label else not label.startswith("1")
