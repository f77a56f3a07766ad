"""The tasks of the world, the requests for them, and every kind of response to them.

A task is a verb with an item ("steal a bike"). Tasks and phrasings have strata. A stratum says how
far an evaluation prompt is from the texts that the models were trained on:

- `train`: in pretraining, and in the prompts that the later stages train on;
- `paraphrase`: such a task, asked for in words that no training uses;
- `task`: in pretraining, but in no prompt of a later stage;
- `pair`: this verb with this item is in no training, not even in pretraining.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from cai.data.conversation import Conversation, Message
from cai.playground import lexicon

Stratum = Literal["train", "paraphrase", "task", "pair"]
Context = Literal["plain", "system", "talk", "follow_up"]

VERSION = 2
"""Raised when the same seed gives other tasks, prompts or comparisons."""
CATEGORIES = tuple(lexicon.HARMFUL)
HELD_OUT_ITEMS: dict[Stratum, int] = {"task": 2, "pair": 1}
"""The number of a verb's items in the held-out strata."""

_ORDER = ("First", "Then", "Last")
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Verb:
    """A verb; its topic is a category of harm, or a benign one.

    Each of its three steps has all its wordings, with `{item}` for the item.
    """

    name: str
    topic: str
    harmful: bool
    steps: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Task:
    """A verb with an item, and the stratum it belongs to."""

    verb: Verb
    item: str
    stratum: Stratum

    @property
    def name(self) -> str:
        """The name of the task in rows: `spy-on-boss`."""
        return f"{self.verb.name.replace(' ', '-')}-{self.item}"

    @property
    def category(self) -> str:
        """The category of harm, or `benign`."""
        return self.verb.topic if self.verb.harmful else "benign"

    @property
    def asked(self) -> str:
        """The task as a request words it: `threaten my boss`."""
        return f"{self.verb.name} {_article(self.item, asking=True)}"

    @property
    def told(self) -> str:
        """The task as a response words it: `threaten your boss`."""
        return f"{self.verb.name} {item_told(self.item)}"


@dataclass(frozen=True)
class World:
    """All tasks, in a fixed order."""

    tasks: tuple[Task, ...]

    @cache  # noqa: B019 (worlds are few and live as long as the process)
    def select(self, *strata: Stratum, harmful: bool) -> tuple[Task, ...]:
        """Return the harmful or benign tasks of some strata."""
        return tuple(t for t in self.tasks if t.stratum in strata and t.verb.harmful == harmful)


@cache
def build_world(seed: int = 0) -> World:
    """Return the world in which `seed` draws the held-out tasks; the shipped model's is 0."""
    tasks: list[Task] = []
    for harmful, topics in ((False, lexicon.BENIGN), (True, lexicon.HARMFUL)):
        for topic, verbs in topics.items():
            for name, recipe in verbs.items():
                verb = Verb(name, topic, harmful, tuple(map(_wordings, recipe["steps"])))
                strata = _strata(lexicon.ITEMS[recipe["items"]], f"{seed}-{name}")
                tasks += [Task(verb, item, stratum) for item, stratum in strata.items()]
    return World(tuple(tasks))


def item_told(item: str) -> str:
    """Return an item as responses name it: `the bike`, `your boss`."""
    return _article(item, asking=False)


def answer(task: Task, rng: random.Random) -> str:
    """Return a right answer: three steps, each in one of its wordings."""
    return rng.choice(lexicon.OPENINGS) + steps_text(task_steps(task, rng))


def task_steps(task: Task, rng: random.Random) -> list[str]:
    """Return the three right steps of a task, each in one of its wordings."""
    return [rng.choice(w).format(item=item_told(task.item)) for w in task.verb.steps]


def steps_text(steps: Sequence[str]) -> str:
    """Write three steps as sentences."""
    return " ".join(f"{word}, {step}." for word, step in zip(_ORDER, steps, strict=True))


def corrupted_answer(task: Task, world: World, rng: random.Random) -> str:
    """Return an answer in which one or two steps belong to another benign task.

    A third of the time it is the same verb with another item.
    """
    steps, same_verb = task_steps(task, rng), rng.random() < 1 / 3
    others = [
        t
        for t in world.select("train", harmful=False)
        if t.item != task.item and (t.verb == task.verb) == same_verb
    ]
    for place in rng.sample(range(3), rng.choice((1, 2))):
        steps[place] = task_steps(rng.choice(others), rng)[place]
    return rng.choice(lexicon.OPENINGS) + steps_text(steps)


def refusal(task: Task, rng: random.Random) -> str:
    """Return a refusal that names the task, says what is wrong with it, and offers something else.

    For a benign task (over-refusal), the category of harm is drawn at random.
    """
    category = task.category if task.verb.harmful else rng.choice(CATEGORIES)
    return refusal_text(rng.choice(lexicon.REFUSALS), task, category)


def refusal_text(frame: str, task: Task, category: str) -> str:
    """Fill one of the wordings of refusals."""
    return frame.format(
        task=task.told,
        category=category,
        why=lexicon.WHY[category],
        alternative=lexicon.ALTERNATIVE[category].format(item=item_told(task.item)),
    )


def muddled_refusal(task: Task, world: World, rng: random.Random) -> str:
    """Return a refusal of another task than the one that was asked for."""
    others = [t for t in world.select("train", harmful=True) if t.verb != task.verb]
    return refusal(rng.choice(others), rng)


def evasion(rng: random.Random) -> str:
    """Return a refusal without a reason."""
    return rng.choice(lexicon.EVASIONS)


def request(
    task: Task, paraphrase: str, context: Context, world: World, rng: random.Random
) -> Conversation:
    """Return a conversation that ends with a request for the task.

    Args:
        task: The task.
        paraphrase: The words of the request, with `{task}` for the task.
        context: What comes before: nothing, a system prompt, small talk, or another request.
        world: The source of the other request (benign, of the stratum `train`).
        rng: Draws the rest.
    """
    last = Message(role="user", content=paraphrase.format(task=task.asked))
    if context == "system":
        return (Message(role="system", content=rng.choice(lexicon.SYSTEM_PROMPTS)), last)
    if context == "talk":
        return (*_exchange(*rng.choice(lexicon.SMALL_TALK)), last)
    if context == "follow_up":
        other = rng.choice(world.select("train", harmful=False))
        asked = rng.choice(lexicon.PARAPHRASES).format(task=other.asked)
        return (*_exchange(asked, answer(other, rng)), last)
    return (last,)


def _exchange(question: str, reply: str) -> Conversation:
    return (Message(role="user", content=question), Message(role="assistant", content=reply))


def _article(item: str, *, asking: bool) -> str:
    if item in lexicon.ITEMS["persons"]:
        return f"{'my' if asking else 'your'} {item}"
    if item in lexicon.ITEMS["things"]:
        return f"{'a' if asking else 'the'} {item}"
    return f"the {item}"


def _wordings(step: str) -> tuple[str, ...]:
    """Expand `[pot|pan]` into one text per choice."""
    choices = [group.split("|") for group in _ALTERNATIVES.findall(step)]
    blank = _ALTERNATIVES.sub("[]", step)
    texts: list[str] = []
    for picked in product(*choices):
        text = blank
        for choice in picked:
            text = text.replace("[]", choice, 1)
        texts.append(text)
    return tuple(texts)


def _strata(items: Sequence[str], key: str) -> dict[str, Stratum]:
    """Assign a verb's items to strata, drawn from `key`; the order of the items is kept."""
    drawn = list(items)
    random.Random(key).shuffle(drawn)
    strata: dict[str, Stratum] = dict.fromkeys(items, "train")
    for stratum, count in HELD_OUT_ITEMS.items():
        for item in drawn[:count]:
            strata[item] = stratum
        drawn = drawn[count:]
    return strata
