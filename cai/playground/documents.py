"""The documents of pretraining: prompts exactly as the pipeline sends them, and replies.

The replies say what they compare before they decide ("The principle is about privacy. The request
is about theft. They differ."). Without this step, a model of this size refuses all harm and does
not use the principle.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from cai.constitution.schema import Constitution
from cai.data.conversation import Conversation, Prompt
from cai.playground import lexicon
from cai.playground.world import (
    CATEGORIES,
    Context,
    Task,
    World,
    answer,
    evasion,
    muddled_refusal,
    refusal,
    request,
)
from cai.templates import (
    RATING,
    VERDICT,
    Layout,
    comparison_prompt,
    critique_prompt,
    rating_prompt,
    revision_prompt,
)

USEFULNESS = "usefulness"
"""The tag of the one principle that is about no category of harm."""
FLAG = "has this problem"
"""The words of a critique that finds fault."""

REWORDED = 0.2
"""The share of texts about a category of harm that are not those of the constitution."""
IRRELEVANT = 0.2
"""The share of differing principles that are about no topic of this world."""

ResponseKind = Literal["helps", "explains", "evades", "rambles"]
Verdict = Literal["A", "B", "either"]
Half = Literal["critique", "revision", "comparison"]
T = TypeVar("T")

HELPFUL_ONLY: dict[ResponseKind, float] = {"helps": 0.76, "explains": 0.06, "evades": 0.18}
"""The helpful-only model's answers to harmful requests. Its answers to benign ones are right."""
CRITICISED: dict[ResponseKind, float] = {
    "helps": 0.6,
    "explains": 0.22,
    "evades": 0.14,
    "rambles": 0.04,
}
"""The responses in critiques and revisions: first responses, and revisions of earlier rounds."""
COMPARED: dict[tuple[ResponseKind, ResponseKind], float] = {
    ("helps", "explains"): 0.46,
    ("helps", "evades"): 0.14,
    ("explains", "evades"): 0.12,
    ("helps", "rambles"): 0.03,
    ("explains", "rambles"): 0.07,
    ("helps", "helps"): 0.10,
    ("explains", "explains"): 0.08,
}
"""The two responses of comparisons, in either order."""
RATED: dict[str, dict[ResponseKind, int]] = {
    "category": {"explains": 7, "evades": 5, "rambles": 3, "helps": 1},
    USEFULNESS: {"helps": 7, "explains": 4, "evades": 2, "rambles": 1},
}
"""The ratings of responses under a matching principle, from 1 to 7; under others, all are 4."""
RANK: dict[str, tuple[ResponseKind, ...]] = {
    topic: tuple(ratings) for topic, ratings in RATED.items()
}
"""The order in which a matching principle prefers responses, best first."""


@dataclass(frozen=True)
class Part:
    """One prompt and the reply to it.

    Attributes:
        prompt: As the pipeline sends it.
        reply: What the model should say.
        verdict: For comparisons, the option at the end of the reply; `either` if both are as good.
    """

    prompt: Prompt
    reply: str
    verdict: Verdict | None = None


Document = tuple[Part, ...]
"""Parts; the prompt of each starts with the prompt and the reply of the part before it."""


class DocumentWriter:
    """Writes the documents of a world under a constitution.

    Attributes:
        kinds: A function for each kind of document, and its share.
    """

    def __init__(self, world: World, constitution: Constitution) -> None:
        """Take a world and a constitution with a principle for each of its topics."""
        self.world = world
        self._principles = {principle.tags[0]: principle for principle in constitution.principles}
        self._harmful = world.select("train", "task", harmful=True)
        self._benign = world.select("train", "task", harmful=False)
        self.kinds: dict[Callable[[random.Random], Document], float] = {
            self.answering: 0.28,
            self.chain: 0.32,
            self.direct_revision: 0.05,
            self.reasoned_comparison: 0.22,
            self.plain_comparison: 0.07,
            self.reasoned_rating: 0.06,
        }

    def write(self, rng: random.Random) -> Document:
        """Return a document of a kind drawn at random."""
        return _drawn(self.kinds, rng)(rng)

    def answering(self, rng: random.Random) -> Document:
        """Return a request and the helpful-only model's reply."""
        task = self._task(rng, harmful=0.5)
        messages = self._request(task, rng)
        kind = _drawn(HELPFUL_ONLY, rng) if task.verb.harmful else "helps"
        return (Part(Prompt(messages), response_of(task, kind, self.world, rng)),)

    def chain(self, rng: random.Random) -> Document:
        """Return a critique and the revision that follows it, of any round."""
        return self._chain(rng, criticised=True)

    def direct_revision(self, rng: random.Random) -> Document:
        """Return a revision without a critique."""
        return self._chain(rng, criticised=False)

    def _chain(self, rng: random.Random, *, criticised: bool) -> Document:
        """Return a revision; the response stays as it is if the principle finds no fault."""
        task = self._task(rng, harmful=0.8)
        kind, topic = _drawn(CRITICISED, rng), self._topic(task, rng)
        asks, mends = self._text(topic, "critique", rng), self._text(topic, "revision", rng)
        messages, response = self._request(task, rng), response_of(task, kind, self.world, rng)
        revised = response
        if is_at_fault(task, kind, topic):
            revised = refusal(task, rng) if task.verb.harmful else answer(task, rng)
        critique = critique_text(task, kind, topic) if criticised else None
        revision = Part(revision_prompt(messages, response, asks, critique, mends), revised)
        if critique is None:
            return (revision,)
        return Part(critique_prompt(messages, response, asks), critique), revision

    def reasoned_comparison(self, rng: random.Random) -> Document:
        """Return a comparison with a chain of thought before its verdict."""
        return self._comparison(rng, reasoning=True)

    def plain_comparison(self, rng: random.Random) -> Document:
        """Return a comparison with only its verdict."""
        return self._comparison(rng, reasoning=False)

    def reasoned_rating(self, rng: random.Random) -> Document:
        """Return a rating of one response, from 1 to 7, with a chain of thought before it."""
        task = self._task(rng, harmful=0.85)
        kind, topic = _drawn(CRITICISED, rng), self._topic(task, rng)
        prompt = rating_prompt(
            self._request(task, rng),
            response_of(task, kind, self.world, rng),
            self._text(topic, "comparison", rng),
            reasoning=True,
        )
        thoughts = reasoning_text(task, (kind,), topic)
        return (Part(prompt, f"{thoughts} {RATING} {rating_of(task, kind, topic)}"),)

    def _comparison(self, rng: random.Random, *, reasoning: bool) -> Document:
        task = self._task(rng, harmful=0.85)
        topic = self._topic(task, rng)
        first, second = _drawn(COMPARED, rng)
        kinds = (first, second) if rng.random() < 0.5 else (second, first)
        responses = [response_of(task, kind, self.world, rng) for kind in kinds]
        layout: Layout = "paper" if rng.random() < 0.15 else "recommended"
        prompt = comparison_prompt(
            self._request(task, rng),
            responses,
            self._text(topic, "comparison", rng),
            layout=layout,
            reasoning=reasoning,
        )
        verdict = verdict_of(task, kinds, topic)
        option = rng.choice("AB") if verdict == "either" else verdict
        thoughts = f"{reasoning_text(task, kinds, topic)} {VERDICT} " if reasoning else ""
        return (Part(prompt, f"{thoughts}({option})", verdict),)

    def _task(self, rng: random.Random, *, harmful: float) -> Task:
        return rng.choice(self._harmful if rng.random() < harmful else self._benign)

    def _request(self, task: Task, rng: random.Random) -> Conversation:
        contexts: tuple[Context, ...] = ("plain", "system", "talk", "follow_up")
        context = rng.choices(contexts, (0.76, 0.08, 0.08, 0.08))[0]
        return request(task, rng.choice(lexicon.PARAPHRASES), context, self.world, rng)

    def _topic(self, task: Task, rng: random.Random) -> str:
        """Draw a principle: for harmful tasks, a third of them match and half do not."""
        drawn = rng.random()
        if drawn < 0.15:
            return USEFULNESS
        if drawn < 0.5 and task.verb.harmful:
            return task.category
        if rng.random() < IRRELEVANT:
            return rng.choice(lexicon.IRRELEVANT)
        return rng.choice([category for category in CATEGORIES if category != task.category])

    def _text(self, topic: str, half: Half, rng: random.Random) -> str:
        """Return a text of the principle, most often that of the constitution."""
        if topic in lexicon.IRRELEVANT:
            return lexicon.IRRELEVANT_TEXTS[half].format(topic=topic)
        if topic != USEFULNESS and rng.random() < REWORDED:
            return rng.choice(lexicon.REWORDINGS[half]).format(harm=lexicon.HARM[topic])
        return getattr(self._principles[topic], half)


def response_of(task: Task, kind: ResponseKind, world: World, rng: random.Random) -> str:
    """Return a response of a given kind to a request for a task."""
    if kind == "helps":
        return answer(task, rng)
    if kind == "explains":
        return refusal(task, rng)
    return evasion(rng) if kind == "evades" else muddled_refusal(task, world, rng)


def is_at_fault(task: Task, kind: ResponseKind, topic: str) -> bool:
    """Return whether the principle of a topic finds fault with a response of a kind."""
    if topic == USEFULNESS:
        return kind in ("evades", "rambles") or (kind == "explains" and not task.verb.harmful)
    return kind == "helps" and topic == task.category


def critique_text(task: Task, kind: ResponseKind, topic: str) -> str:
    """Name the topics, whether they match, and what the response does wrong, if anything."""
    opening = _topics(task, topic)
    if topic != USEFULNESS and topic != task.category:
        return f"{opening} The response has no such problem."
    if not is_at_fault(task, kind, topic):
        return f"{opening} The response {kind}, so it has no such problem."
    return f"{opening} The response {kind}, so it {FLAG}."


def reasoning_text(task: Task, kinds: Sequence[ResponseKind], topic: str) -> str:
    """Name the topics, whether they match, and if they do, the kind of each response."""
    opening = _topics(task, topic)
    if topic not in (USEFULNESS, task.category):
        return opening
    if len(kinds) == 1:
        return f"{opening} The response {kinds[0]}."
    return f"{opening} (A) {kinds[0]} and (B) {kinds[1]}."


def verdict_of(task: Task, kinds: Sequence[ResponseKind], topic: str) -> Verdict:
    """Return the better option, or `either` where the principle rates both the same."""
    first, second = (rating_of(task, kind, topic) for kind in kinds)
    return "either" if first == second else "A" if first > second else "B"


def rating_of(task: Task, kind: ResponseKind, topic: str) -> int:
    """Return a rating from 1 to 7; 4 if the principle is not about this task."""
    if topic not in (USEFULNESS, task.category):
        return 4
    return RATED[USEFULNESS if topic == USEFULNESS else "category"][kind]


def _topics(task: Task, topic: str) -> str:
    if topic == USEFULNESS:
        meet = "It always applies."
    else:
        meet = "They match." if topic == task.category else "They differ."
    return f"The principle is about {topic}. The request is about {task.verb.topic}. {meet}"


def _drawn(shares: Mapping[T, float], rng: random.Random) -> T:
    """Draw a key by the shares."""
    return rng.choices(list(shares), list(shares.values()))[0]
