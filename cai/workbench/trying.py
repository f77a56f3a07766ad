"""One prompt through a constitution, each step told as it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cai.compare import judge, judgement_items
from cai.constitution import Constitution, Principle
from cai.constitution.explain import did_you_mean
from cai.conversation import Conversation, strip_thinking
from cai.engines import Completion, Engine, GenerateRequest
from cai.errors import CaiError
from cai.records import (
    JudgementRow,
    PairRow,
    PromptRow,
    Provenance,
    ResponseSample,
    RevisionRow,
    content_hash,
)
from cai.revise import critique_and_revise, revise_item
from cai.settings import CompareSettings, ReviseSettings
from cai.workbench.witness import Exchange, Witness

StepKind = Literal["response", "critique", "revision"]
_KINDS: dict[str, StepKind] = {"Critique": "critique", "Revision": "revision"}


@dataclass(frozen=True)
class Step:
    """Something the model said.

    Attributes:
        kind: What it is.
        round: 0 for the response, then 1 and up.
        principle: What was drawn for the round; None for the response.
        text: What the model said.
    """

    kind: StepKind
    round: int
    principle: Principle | None
    text: str


@dataclass(frozen=True)
class Trial:
    """The whole chain, and the verdict on its two ends if there is one."""

    chain: RevisionRow
    judgement: JudgementRow | None = None


def pinned(constitution: Constitution, name: str) -> Constitution:
    """Return the constitution with one principle alone, so that every draw gives it.

    Raises:
        CaiError: There is no such principle.
    """
    chosen = tuple(p for p in constitution.principles if p.id == name)
    if not chosen:
        hint = did_you_mean(name, [p.id for p in constitution.principles])
        raise CaiError(f"constitution {constitution.name!r} has no principle {name!r}: {hint}")
    return constitution.model_copy(update={"principles": chosen})


async def try_chain(
    constitution: Constitution,
    messages: Conversation,
    *,
    settings: ReviseSettings,
    engine: Engine,
    model: str,
    seed: int,
    tell: Callable[[Step], None],
) -> RevisionRow:
    """Answer one prompt, criticise and revise the answer, and tell of each step.

    Args:
        constitution: Where principles are drawn from.
        messages: A conversation that ends with the user's turn.
        settings: Rounds and sampling.
        engine: The model.
        model: Its name in the row.
        seed: Decides draws and samples.
        tell: Called after each step.

    Returns:
        The chain, as the `revise` stage would make it of a red-team prompt.

    Raises:
        CaiError: Rounds are asked for, but no principle serves the supervised stage.
    """
    key = content_hash("try", messages)
    prompt = PromptRow(
        key=key, kind="red_team", split="train", messages=messages, source="try", task=key
    )
    item = revise_item(
        prompt,
        0,
        constitution=constitution,
        settings=settings,
        model_fingerprint=engine.fingerprint,
        seed=seed,
    )
    revised = 0

    def retell(exchange: Exchange) -> None:
        nonlocal revised
        request, answer = exchange.request, exchange.answer
        if not isinstance(request, GenerateRequest) or not isinstance(answer, Completion):
            return
        kind = _KINDS.get(request.prompt.speaker, "response")
        principle = None if kind == "response" else item.inputs[1][revised]
        tell(Step(kind, revised + (principle is not None), principle, strip_thinking(answer.text)))
        revised += kind == "revision"

    return await critique_and_revise(
        item,
        constitution=constitution,
        settings=settings,
        engine=Witness(engine, retell),
        model=model,
        seed=seed,
    )


async def try_comparison(
    constitution: Constitution,
    chain: RevisionRow,
    *,
    settings: CompareSettings,
    engine: Engine,
    model: str,
    seed: int,
) -> JudgementRow | None:
    """Compare a chain's first response with its last revision, as the `compare` stage would.

    Args:
        constitution: Where the principle is drawn from.
        chain: A finished chain.
        settings: Layout, reasoning, orders.
        engine: The feedback model.
        model: Its name in the row.
        seed: Decides draw and samples.

    Returns:
        The judgement of (first response, last revision); None when they are the same text or there
        is only one of them.

    Raises:
        CaiError: No principle serves the feedback stage.
    """
    if chain.state != "ok" or not chain.steps or chain.steps[-1].revision == chain.response:
        return None
    if not constitution.comparisons:
        raise CaiError(
            f"No principle of {constitution.name!r} that is looked at here has a `comparison`, so "
            "there is nothing to compare under: add one, or choose another with `--principle`."
        )
    revised = chain.steps[-1].revision
    pair = pair_of(chain.messages, chain.response, revised, provenance=chain.provenance)
    (item,) = judgement_items(
        [pair],
        constitution=constitution,
        settings=settings.model_copy(update={"principles": 1}),
        model_fingerprint=engine.fingerprint,
        seed=seed,
    )
    return await judge(
        item, constitution=constitution, settings=settings, engine=engine, model=model, seed=seed
    )


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
