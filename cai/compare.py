"""The feedback stage's data: response pairs and AI labels (paper, section 4.1).

Three kinds of rows, so that an edit redoes only what it touches: pairs (two responses), judgements
(raw evidence of one pair under one principle, in both orders) and comparisons (labels, derived from
the evidence without asking a model).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai.constitution import Constitution, Principle, draw_several
from cai.conversation import Prompt, strip_thinking
from cai.engines import Engine, GenerateRequest, PromptTooLong, ScoreRequest, Unscored
from cai.records import (
    ComparisonRow,
    JudgementRow,
    OrderEvidence,
    PairRow,
    PrincipleUse,
    PromptRow,
    Provenance,
    ResponseSample,
    content_hash,
    derive_seed,
)
from cai.rows import Item
from cai.settings import CompareSettings, LabelPolicy
from cai.templates import (
    COMPARISON_TEMPLATES,
    OPTIONS,
    VERDICT,
    comparison_prompt,
    template_hash,
    verdict_prompt,
)

VERSION = 2
PairInputs = tuple[PromptRow, bool]
JudgementInputs = tuple[PairRow, Principle]


def pair_item(
    prompt: PromptRow,
    sample: int,
    *,
    settings: CompareSettings,
    policy_fingerprint: str,
    helpful_fingerprint: str,
    seed: int,
) -> Item[PairInputs]:
    """Decide whether a pair sets the policy against the helpful-only model, and name its inputs."""
    key = content_hash("pair", prompt.key, sample)
    against_helpful = derive_seed(seed, key, "against") / 2**63 < settings.against_helpful
    fingerprint = content_hash(
        VERSION,
        policy_fingerprint,
        helpful_fingerprint if against_helpful else policy_fingerprint,
        prompt.messages,
        prompt.task,
        _sampling(settings),
        seed,
    )
    return Item(key, fingerprint, (prompt, against_helpful))


async def respond_twice(
    item: Item[PairInputs],
    *,
    settings: CompareSettings,
    policy: Engine,
    helpful: Engine,
    names: tuple[str, str],
    seed: int,
) -> PairRow:
    """Sample two responses to one prompt: two of the policy's, or one of it and one helpful-only.

    Args:
        item: Made by `pair_item`.
        settings: Sampling.
        policy: The model to be improved (SL-CAI).
        helpful: The helpful-only model.
        names: What to call the two models in the rows.
        seed: The run's seed.

    Returns:
        The pair; state `tie` when the responses are the same, `too_long` when the prompt does not
        fit, `unparsed` when a response is empty.
    """
    prompt, against_helpful = item.inputs
    row = PairRow(
        key=item.key,
        kind=prompt.kind,
        messages=prompt.messages,
        task=prompt.task,
        responses=(_NOTHING, _NOTHING),
        provenance=Provenance(
            model=names[0],
            model_fingerprint=policy.fingerprint,
            template_hash=template_hash(),
            sampling=_sampling(settings),
            seed=seed,
        ),
    )
    samples: list[ResponseSample] = []
    try:
        for number in range(2):
            other = number == 1 and against_helpful
            completion = await (helpful if other else policy).generate(
                GenerateRequest(
                    Prompt(prompt.messages),
                    seed=derive_seed(seed, item.key, "response", number),
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                )
            )
            samples.append(
                ResponseSample(
                    text=strip_thinking(completion.text),
                    model=names[1] if other else names[0],
                    ended=completion.finish == "stop",
                )
            )
    except PromptTooLong as error:
        row.state, row.error = "too_long", str(error)
        return row
    row.responses = (samples[0], samples[1])
    if not samples[0].text or not samples[1].text:
        row.state, row.error = "unparsed", "a response is empty"
    elif samples[0].text == samples[1].text:
        row.state, row.error = "tie", "the two responses are the same"
    return row


def judgement_items(
    pair: PairRow,
    *,
    constitution: Constitution,
    settings: CompareSettings,
    model_fingerprint: str,
    seed: int,
) -> list[Item[JudgementInputs]]:
    """Draw the principles that a pair is judged under; one item each, none for unusable pairs."""
    if pair.state != "ok":
        return []
    principles: Sequence[Principle] = constitution.comparisons
    if settings.principles != "all":
        principles = draw_several(principles, settings.principles, seed=seed, key=pair.key)
    examples = constitution.few_shot.comparison[: settings.few_shot]
    items: list[Item[JudgementInputs]] = []
    for principle in principles:
        key = content_hash("judgement", pair.key, principle.id)
        fingerprint = content_hash(
            VERSION,
            model_fingerprint,
            pair.messages,
            [sample.text for sample in pair.responses],
            principle.comparison_hash,
            examples,
            template_hash(COMPARISON_TEMPLATES[settings.layout]),
            settings.reasoning and settings.reasoning_tokens,
            settings.both_orders,
            settings.temperature,
            seed,
        )
        items.append(Item(key, fingerprint, (pair, principle)))
    return items


async def judge(
    item: Item[JudgementInputs],
    *,
    constitution: Constitution,
    settings: CompareSettings,
    engine: Engine,
    model: str,
    seed: int,
) -> JudgementRow:
    """Ask the feedback model which response is better under one principle, in both orders.

    Returns:
        Raw evidence; no policy is applied. State `too_long` when the question does not fit,
        `unparsed` when a server does not tell how probable the options are.
    """
    pair, principle = item.inputs
    row = JudgementRow(
        key=item.key,
        pair=pair.key,
        principle=PrincipleUse(id=principle.id, text_hash=principle.comparison_hash),
        forward=None,
        backward=None,
        provenance=Provenance(
            model=model,
            model_fingerprint=engine.fingerprint,
            template_hash=template_hash(COMPARISON_TEMPLATES[settings.layout]),
            sampling={"temperature": settings.temperature, "layout": settings.layout},
            seed=seed,
        ),
    )
    # The examples stand under the principle that is asked about, so that rewording another one
    # touches nothing here, and all judgements under one principle share their opening.
    question = str(principle.comparison)
    examples = constitution.few_shot.comparison[: settings.few_shot]
    few_shot = [(example, question) for example in examples]

    async def ask(first: str, second: str, order: str) -> OrderEvidence:
        prompt = comparison_prompt(
            pair.messages,
            first,
            second,
            question,
            layout=settings.layout,
            few_shot=few_shot,
            reasoning=settings.reasoning,
        )
        reasoning = None
        if settings.reasoning:
            completion = await engine.generate(
                GenerateRequest(
                    prompt,
                    seed=derive_seed(seed, item.key, order),
                    max_tokens=settings.reasoning_tokens,
                    temperature=settings.temperature,
                    stop=(VERDICT,),
                )
            )
            reasoning = strip_thinking(completion.text)
            prompt = verdict_prompt(prompt, reasoning)
        scores = await engine.score(ScoreRequest(prompt, OPTIONS))
        first_logp, second_logp = scores.logprobs
        return OrderEvidence(
            logp_first=first_logp,
            logp_second=second_logp,
            mass=math.exp(first_logp) + math.exp(second_logp),
            reasoning=reasoning,
            bounded=scores.bounded,
        )

    texts = [sample.text for sample in pair.responses]
    try:
        row.forward = await ask(texts[0], texts[1], "forward")
        if settings.both_orders:
            row.backward = await ask(texts[1], texts[0], "backward")
    except PromptTooLong as error:
        row.state, row.error = "too_long", str(error)
    except Unscored as error:
        row.state, row.error = "unparsed", str(error)
    return row


def preference(judgement: JudgementRow, policy: LabelPolicy) -> float | None:
    """Return P(response 0 is better) from the raw evidence.

    The probability of an order is that of its option over both options' (paper, section 4.1).
    Averaging the two orders cancels a judge's liking for a position.

    Args:
        judgement: A pair under one principle.
        policy: Its `orders` and `min_mass` are used.

    Returns:
        A probability in [0, 1]; None if a verdict put less than `min_mass` on the options.
    """
    shown = (judgement.forward, judgement.backward)
    orders = [order for order in shown if order is not None]
    if policy.orders == "first":
        orders = orders[:1]
    if not orders or any(order.mass < policy.min_mass for order in orders):
        return None
    return sum(_first_order(judgement, order) for order in orders) / len(orders)


def is_consistent(judgement: JudgementRow) -> bool:
    """Whether both orders name the same response; True when only one was asked for."""
    orders = [order for order in (judgement.forward, judgement.backward) if order is not None]
    return len({_first_order(judgement, order) > 0.5 for order in orders}) < 2


def _first_order(judgement: JudgementRow, order: OrderEvidence) -> float:
    """Return P(response 0 is better) by one order alone."""
    first = _sigmoid(order.logp_first - order.logp_second)
    return first if order is judgement.forward else 1 - first


def label_pair(
    pair: PairRow,
    judgements: Sequence[JudgementRow],
    *,
    weights: dict[str, float],
    policy: LabelPolicy,
) -> ComparisonRow:
    """Derive a pair's label from its judgements: a pure function of rows and policy.

    The label is the weighted mean of the principles' log-odds, as a probability. Principles
    without an opinion (`policy.ignore_within`, `policy.consistent_only`) have no vote.

    Args:
        pair: The pair.
        judgements: Its judgements.
        weights: Principle id to weight.
        policy: How verdicts become labels.

    Returns:
        A comparison; its label is None unless its state is `ok`. Never an invented label.
    """
    row = ComparisonRow(
        key=content_hash("comparison", pair.key),
        state=pair.state,
        error=pair.error,
        kind=pair.kind,
        source="ai",
        messages=pair.messages,
        task=pair.task,
        responses=(pair.responses[0].text, pair.responses[1].text),
        label=None,
        judgements=[judgement.key for judgement in judgements],
    )
    if pair.state != "ok":
        return row
    votes: list[tuple[float, float]] = []
    problems: list[JudgementRow] = []
    for judgement in judgements:
        probability = preference(judgement, policy)
        if judgement.state != "ok" or probability is None:
            problems.append(judgement)
        elif abs(probability - 0.5) >= policy.ignore_within and (
            not policy.consistent_only or is_consistent(judgement)
        ):
            votes.append((weights[judgement.principle.id], _logit(probability)))
    if votes:
        total = sum(weight for weight, _ in votes)
        label = _sigmoid(sum(weight * odds for weight, odds in votes) / total)
        if policy.kind == "hard":
            label = _hard(label)
        low, high = policy.clamp
        row.label = min(max(label, low), high)
    elif len(problems) == len(judgements):
        bad = problems[0] if problems else None
        row.state = bad.state if bad and bad.state != "ok" else "unparsed"
        row.error = (bad.error if bad else None) or "no verdict put enough probability on (A), (B)"
    else:
        row.state, row.error = "tie", "no principle prefers either response"
    return row


_NOTHING = ResponseSample(text="", model="", ended=False)


def _sampling(settings: CompareSettings) -> dict[str, float | int | str]:
    return {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def _hard(label: float) -> float:
    """Return the side that a label is on; a label of one half is on neither."""
    return label if label == 0.5 else float(label > 0.5)


def _logit(probability: float) -> float:
    """Log-odds, bounded where float64 would overflow them to infinity."""
    bounded = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(bounded) - math.log1p(-bounded)
