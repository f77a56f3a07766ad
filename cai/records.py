"""The rows that stages exchange, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.conversation import Conversation

State = Literal["ok", "refused", "unparsed", "tie", "too_long", "failed"]
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
    """What every row of every stage has.

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


class ResponseSample(BaseModel):
    """One of the two responses of a pair."""

    model_config = ConfigDict(extra="forbid")

    text: str
    model: str
    ended: bool


class PairRow(Row):
    """Two responses to one prompt, not yet compared."""

    kind: Kind
    messages: Conversation
    task: str
    responses: tuple[ResponseSample, ResponseSample]
    provenance: Provenance


class OrderEvidence(BaseModel):
    """What the feedback model said when the pair was shown in one order.

    Attributes:
        logp_first: log P(option of the response shown first | prompt), nats.
        logp_second: The same for the response shown second.
        mass: exp(logp_first) + exp(logp_second): the probability on the two options together.
        reasoning: The chain of thought that came before the verdict, or None.
        bounded: One of the two is only an upper bound: a server lists its likeliest tokens alone.
    """

    model_config = ConfigDict(extra="forbid")

    logp_first: float
    logp_second: float
    mass: float
    reasoning: str | None = None
    bounded: bool = False


class JudgementRow(Row):
    """One pair under one principle: raw evidence in both orders, no policy applied."""

    pair: str
    principle: PrincipleUse
    forward: OrderEvidence | None = None
    """Response 0 shown first; None when the row failed."""
    backward: OrderEvidence | None = None
    """Response 1 shown first; None when not asked for or failed."""
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
