"""The responses that are compared: samples of SL-CAI, some of the helpful-only model."""

from __future__ import annotations

from cai.conversation import Prompt, strip_thinking
from cai.engines import Engine, GenerateRequest, PromptTooLong
from cai.records import (
    PairRow,
    PromptRow,
    Provenance,
    ResponseSample,
    content_hash,
    derive_seed,
)
from cai.rows import Item
from cai.settings import CompareSettings
from cai.templates import template_hash

VERSION = 3
PairInputs = tuple[PromptRow, bool]


def pair_item(
    prompt: PromptRow,
    sample: int,
    *,
    settings: CompareSettings,
    policy_fingerprint: str,
    helpful_fingerprint: str,
    seed: int,
) -> Item[PairInputs]:
    """Decide whether a pair has a response of the helpful-only model, and name its inputs."""
    key = content_hash("pair", prompt.key, sample)
    against_helpful = derive_seed(seed, key, "against") / 2**63 < settings.against_helpful
    fingerprint = content_hash(
        VERSION,
        policy_fingerprint,
        helpful_fingerprint if against_helpful else policy_fingerprint,
        prompt.messages,
        prompt.task,
        _sampling(settings),
        settings.responses,
        seed,
    )
    return Item(key, fingerprint, (prompt, against_helpful))


async def respond(
    item: Item[PairInputs],
    *,
    settings: CompareSettings,
    policy: Engine,
    helpful: Engine,
    names: tuple[str, str],
    seed: int,
) -> PairRow:
    """Sample responses to one prompt: all of the policy, or the last of the helpful-only model.

    Args:
        item: Made by `pair_item`.
        settings: Sampling, and how many.
        policy: The model to be improved (SL-CAI).
        helpful: The helpful-only model.
        names: What to call the two models in the rows.
        seed: The run's seed.

    Returns:
        The responses; state `tie` when they are all the same, `too_long` when
        the prompt does not fit, `unparsed` when one is empty.
    """
    prompt, against_helpful = item.inputs
    row = PairRow(
        key=item.key,
        kind=prompt.kind,
        messages=prompt.messages,
        task=prompt.task,
        responses=(_NOTHING,) * settings.responses,
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
        for number in range(settings.responses):
            other = against_helpful and number == settings.responses - 1
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
    row.responses = tuple(samples)
    if not all(sample.text for sample in samples):
        row.state, row.error = "unparsed", "a response is empty"
    elif len({sample.text for sample in samples}) == 1:
        row.state, row.error = "tie", "the responses are the same"
    return row


_NOTHING = ResponseSample(text="", model="", ended=False)


def _sampling(settings: CompareSettings) -> dict[str, float | int | str]:
    return {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
