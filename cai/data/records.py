"""The rows that stages exchange, and their hashes."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.data.conversation import Conversation

State = Literal["ok", "refused", "unparsed", "tie", "too_long", "failed"]
EvidenceState = Literal["ok", "refused", "unparsed"]
Kind = Literal["red_team", "helpful"]
Split = Literal["train", "held_out"]


def content_hash(*parts: object) -> str:
    """Return 16 hex digits that name the JSON-serialisable `parts`, the same on every machine."""
    plain = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**63) that depends on `parts` and on nothing else."""
    return int(content_hash("seed", *parts), 16) >> 1


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot hash a {type(value).__name__}")


class Row(BaseModel):
    """The fields of every row of every stage.

    Attributes:
        key: Which row this is: a hash of the prompt and a sample index. It stays the same when a
            principle or a setting is edited, and it seeds the draws of the row.
        fingerprint: Everything that determined the row: its inputs, principle texts, templates,
            model, sampling and seed. A row is reused exactly while its fingerprint stays the same.
        state: `ok`, or why the row is not trainable.
        error: What went wrong, for states other than `ok`.
    """

    model_config = ConfigDict(extra="forbid")

    key: str
    fingerprint: str = ""
    state: State = "ok"
    error: str | None = None


class PromptRow(Row):
    """A prompt: a conversation that ends with the user's turn."""

    kind: Kind
    split: Split
    messages: Conversation
    source: str
    task: str
    """Prompts of one task are near-duplicates of each other: they share a split, and evaluation
    intervals are clustered by task."""
    tags: dict[str, str] = Field(default_factory=dict[str, str])
    """Anything the source says of the prompt (category, stratum); reports group by it."""


class PrincipleUse(BaseModel):
    """Which principle was used, and the hash of the half of it that was used."""

    model_config = ConfigDict(extra="forbid")

    id: str
    text_hash: str


class RevisionStep(BaseModel):
    """One round of critique and revision."""

    model_config = ConfigDict(extra="forbid")

    principle: PrincipleUse
    critique: str | None = None
    """None when the response was revised directly."""
    revision: str
    ended: bool
    """False when the revision was cut off by the token limit."""


class Provenance(BaseModel):
    """Where generated text or a label came from."""

    model_config = ConfigDict(extra="forbid")

    model: str
    model_fingerprint: str
    template_hash: str
    sampling: dict[str, float | int | str]
    seed: int


class RevisionRow(Row):
    """A prompt's first response and its critiques and revisions (none for helpful prompts)."""

    kind: Kind
    messages: Conversation
    task: str
    response: str
    ended: bool
    """False when the response was cut off by the token limit."""
    steps: list[RevisionStep] = Field(default_factory=list[RevisionStep])
    provenance: Provenance
    responder: Provenance | None = None
    """Of the first response, if it was there before the chain; else it is that of the chain."""


class ResponseSample(BaseModel):
    """One of the responses to a prompt that are compared with each other."""

    model_config = ConfigDict(extra="forbid")

    text: str
    model: str
    ended: bool


class PairRow(Row):
    """Responses to one prompt, not yet compared: a pair, or more with `compare.responses`."""

    kind: Kind
    messages: Conversation
    task: str
    responses: tuple[ResponseSample, ...]
    provenance: Provenance


class Evidence(BaseModel):
    """A feedback model's answer to one question: the log-probabilities of the options.

    Attributes:
        shown: The responses that the question shows, by number and in its order. If they are
            several, the options name them, in the same order (a choice). If it is one, the options
            are its grades, from worst to best.
        turned: Whether the question was asked in reverse: the responses in reverse order, or the
            letters of the grades exchanged.
        sample: Which of several samples of the reasoning this is, from 0.
        logprobs: log P(option | question) in nats, one per option.
        bounded: Some of them are upper bounds: a server returns only its likeliest tokens.
        reasoning: The text before the verdict (a chain of thought, a critique), or None.
        state: `ok`; `refused` or `unparsed` where the reasoning is a refusal or was cut off.
    """

    model_config = ConfigDict(extra="forbid")

    shown: tuple[int, ...]
    turned: bool = False
    sample: int = 0
    logprobs: tuple[float, ...]
    bounded: bool = False
    reasoning: str | None = None
    state: EvidenceState = "ok"

    @property
    def mass(self) -> float:
        """The probability on all options together, in [0, 1]."""
        return sum(map(math.exp, self.logprobs))


class JudgementRow(Row):
    """The responses to one prompt under one principle: raw evidence, no policy applied.

    Attributes:
        pair: The key of the `PairRow`.
        principle: The principle, and the hash of the text that was asked about.
        evidence: One per question, order of asking and sample; what there was before a failure.
        instead_of: The key of the judgement for which the fallback judge made this one.
    """

    pair: str
    principle: PrincipleUse
    evidence: list[Evidence] = Field(default_factory=list[Evidence])
    instead_of: str | None = None
    provenance: Provenance


class SampledResponse(BaseModel):
    """One of a policy's responses to a prompt.

    Attributes:
        text: Without thinking blocks; empty if nothing was said.
        ended: False when it was cut off by the token limit.
        score: Of a preference model, in nats (the difference of two scores is the log-odds that one
            response is the better one), or 1 for right and 0 for wrong; None without a score.
    """

    model_config = ConfigDict(extra="forbid")

    text: str
    ended: bool
    score: float | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it can be trained on: it is whole and has a score."""
        return bool(self.text) and self.ended and self.score is not None


class SamplesRow(Row):
    """Several responses of one policy to one prompt.

    Attributes:
        scored_by: `preference`, or the name of a grader, whose scores are 1 and 0.
    """

    kind: Kind
    messages: Conversation
    task: str
    samples: list[SampledResponse] = Field(default_factory=list[SampledResponse])
    scored_by: str = ""
    provenance: Provenance


class ComparisonRow(Row):
    """A labelled pair: what the preference model learns from.

    Attributes:
        label: The probability that response 0 is the better one, in [0, 1]; None if not trainable.
        source: `ai` for the feedback model's label, `human` for human (or simulated) helpfulness.
        judgements: Keys of the judgement rows the label was derived from.
    """

    kind: Kind
    source: Literal["ai", "human"]
    messages: Conversation
    task: str
    responses: tuple[str, str]
    label: float | None = None
    judgements: list[str] = Field(default_factory=list[str])


class AnswerRow(Row):
    """A model's answer to an evaluation prompt, and what the grader says of it."""

    model: str
    kind: Kind
    messages: Conversation
    task: str
    tags: dict[str, str] = Field(default_factory=dict[str, str])
    response: str
    verdict: dict[str, bool | float | str | None]
    """The grader's measures; None where the grader has no opinion."""
    provenance: Provenance


class ChoiceRow(Row):
    """A multiple-choice question, and the probabilities that a model puts on its options.

    Attributes:
        model: Who was asked.
        source: The set that the question is from.
        task: Questions about one conversation are not independent of each other.
        question: As it was asked.
        options: The exact texts that were scored.
        gold: The numbers of the right options.
        logprobs: log P(option | question), nats.
    """

    model: str
    source: str
    task: str
    question: str
    options: tuple[str, ...]
    gold: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    provenance: Provenance


class MatchRow(Row):
    """Two models' answers to one question, and what a judge says of them in both orders.

    Attributes:
        models: Who answered.
        kind: Of the prompt: what the match was about.
        task: The prompt's.
        answers: Keys of the two answer rows.
        forward: The first model's answer shown first; None when there is no verdict.
        backward: The second model's answer shown first.
    """

    models: tuple[str, str]
    kind: Kind
    task: str
    answers: tuple[str, str]
    forward: Evidence | None = None
    backward: Evidence | None = None
    provenance: Provenance


class RatingRow(Row):
    """How harmful a judge finds an answer, from 0 to 4.

    Attributes:
        answer: Key of the answer row.
        rating: The expectation over the ratings; None when there is no verdict.
    """

    answer: str
    rating: float | None = None
    provenance: Provenance


LOWEST, HIGHEST = 0.0, 4.0
"""The lowest and the highest rating of harm; the lowest is harmless."""


class DemonstrationRow(Row):
    """A prompt with the answer that a model should learn to give."""

    messages: Conversation
    response: str


class RatedRow(DemonstrationRow):
    """A response that a person has rated, from 0 (harmless) to 4."""

    rating: float
