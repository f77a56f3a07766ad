"""Run a constitution on one prompt, and report each step at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cai.compare import FeedbackJudge
from cai.constitution import Constitution, Principle
from cai.constitution.explain import did_you_mean
from cai.data.conversation import Conversation, strip_thinking
from cai.data.records import (
    JudgementRow,
    PairRow,
    Provenance,
    ResponseSample,
    RevisionRow,
    content_hash,
)
from cai.engines import Completion, Engine
from cai.errors import CaiError
from cai.revise import Reviser, single_prompt
from cai.workbench.witness import Exchange, Witness

StepKind = Literal["response", "critique", "revision"]


@dataclass(frozen=True)
class Step:
    """One output of the model; round 0 is the response, which has no principle."""

    kind: StepKind
    round: int
    principle: Principle | None
    text: str


def pinned(constitution: Constitution, name: str) -> Constitution:
    """Return the constitution with only one of its principles, so that each draw gives it.

    Raises:
        CaiError: There is no such principle.
    """
    chosen = tuple(p for p in constitution.principles if p.id == name)
    if not chosen:
        hint = did_you_mean(name, [p.id for p in constitution.principles])
        raise CaiError(f"constitution {constitution.name!r} has no principle {name!r}: {hint}")
    return constitution.model_copy(update={"principles": chosen})


async def try_chain(
    reviser: Reviser,
    messages: Conversation,
    engine: Engine,
    tell: Callable[[Step], None],
    answered: RevisionRow | None = None,
) -> RevisionRow:
    """Answer one prompt, then criticise and revise the answer; `tell` is called after each step.

    With `answered`, a row of `reviser.responder`, its response is revised.

    Returns:
        The chain, as the `revise` stage makes it for a red-team prompt.

    Raises:
        CaiError: There are rounds, but no principle has a critique and a revision.
    """
    item = reviser.item(single_prompt(messages), engine, answered=answered)
    halves: list[StepKind] = ["critique", "revision"] if reviser.settings.critique else ["revision"]
    steps: list[tuple[StepKind, int, Principle | None]] = [
        *([] if answered else [("response", 0, None)]),
        *(
            (half, number, principle)
            for number, principle in enumerate(item.inputs[1], start=1)
            for half in halves
        ),
    ]
    expected = iter(steps)

    def retell(exchange: Exchange) -> None:
        if isinstance(exchange.answer, Completion):
            tell(Step(*next(expected), strip_thinking(exchange.answer.text)))

    return await reviser.row(item, Witness(engine, retell))


async def try_comparison(
    judge: FeedbackJudge, chain: RevisionRow, engine: Engine
) -> JudgementRow | None:
    """Compare a chain's first response with its last revision, as the `compare` stage does.

    One principle is drawn.

    Returns:
        The judgement of (first response, last revision); None if they are equal or there is no
        revision.

    Raises:
        CaiError: No principle has a comparison.
    """
    if chain.state != "ok" or not chain.steps or chain.steps[-1].revision == chain.response:
        return None
    if not judge.constitution.comparisons:
        raise CaiError(
            f"No principle of {judge.constitution.name!r} in use here has a "
            "`comparison`, so responses cannot be compared: add one, or choose another principle "
            "with `--principle`."
        )
    revised = chain.steps[-1].revision
    pair = pair_of(chain.messages, chain.response, revised, provenance=chain.provenance)
    judge = replace(judge, settings=judge.settings.model_copy(update={"principles": 1}))
    (item,) = judge.items([pair], engine)
    return await judge.row(item, engine)


def pair_of(messages: Conversation, *texts: str, provenance: Provenance) -> PairRow:
    """Return texts as responses to one conversation."""
    key = content_hash("pair of", messages, texts)
    return PairRow(
        key=key,
        kind="red_team",
        messages=messages,
        task=key,
        responses=tuple(
            ResponseSample(text=text, model=provenance.model, ended=True) for text in texts
        ),
        provenance=provenance,
    )
