"""Every prompt that is sent to a model: Jinja2 texts, and the functions that fill them.

What varies (the principle) comes after what is shared (the conversation, the responses), so that
engines can reuse the prefix. The `paper` layout of the comparison keeps the paper's order instead.

Whatever others wrote is quoted when it is inserted: its second and later lines are indented, so
they cannot pass for another response, for a turn of the conversation or for the question. Its first
line stands where the template puts it: after "(A) " or "Human: ", or alone under a line that
announces it, where only its place tells it from the template's own.

Text that is a turn of its own is not quoted. Only a line of it that begins as a turn of a
transcript does ("Human:") gets a blank before it. Control tokens of chat templates are no concern
here: `cai.chat` reads those of others as mere text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal

from jinja2 import Environment, StrictUndefined, Template

from cai.constitution.schema import ComparisonExample, CritiqueExample
from cai.conversation import TRANSCRIPT_LABELS, Conversation, Message, Prompt, to_transcript
from cai.records import content_hash

Layout = Literal["recommended", "paper"]
COMPARISON_TEMPLATES: dict[Layout, str] = {
    "recommended": "comparison.j2",
    "paper": "comparison_paper.j2",
}

LETTERS = "ABCDEFGHI"
"""What responses and options are called."""
OPTIONS = (" (A)", " (B)")
"""What the verdict on two options is scored on, to the letter, after `VERDICT`."""
GRADES = tuple(f" {number}" for number in range(1, 8))
"""What a rating is scored on, worst first, after `RATING`."""
VERDICT = "The answer is:"
RATING = "The rating is:"
REASONING = "Let's think step by step:"

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_INDENT = "    "
_LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_TURN = re.compile(f"({_LINE_BREAK.pattern})(?=(?:{'|'.join(TRANSCRIPT_LABELS)}):)")


class _Lines(str):
    """Text whose lines were begun here, with what others wrote quoted inside them."""

    __slots__ = ()


def quoted(text: str) -> str:
    """Indent all lines of a text but the first. Nothing is lost: the indents can be taken away."""
    return _LINE_BREAK.sub(lambda found: found[0] + _INDENT, text)


_ENVIRONMENT = Environment(
    autoescape=False,
    undefined=StrictUndefined,
    trim_blocks=True,
    finalize=lambda value: value if isinstance(value, _Lines) else quoted(str(value)),
)


@cache
def source(name: str) -> str:
    """Return the text of a template file."""
    return resources.files("cai.templates").joinpath(name).read_text(encoding="utf-8")


def template_hash(*names: str) -> str:
    """Name the texts of templates, and the fixed phrases around them."""
    return content_hash([source(name) for name in names], OPTIONS, VERDICT, REASONING)


def render(name: str, **values: str) -> str:
    """Fill a template. Values are quoted, and never read as templates."""
    return _template(name).render(**values)


@cache
def _template(name: str) -> Template:
    """Compile a template once: compiling takes a hundred times as long as filling."""
    return _ENVIRONMENT.from_string(source(name))


def critique_prompt(
    messages: Conversation,
    response: str,
    critique_request: str,
    few_shot: Sequence[CritiqueExample] = (),
) -> Prompt:
    """Ask for a critique of `response` (paper, section 3.1)."""
    turns = (*messages, _assistant(response), _user(critique_request, "Critique Request"))
    return Prompt(_after_examples(turns, few_shot), speaker="Critique")


def revision_prompt(
    messages: Conversation,
    response: str,
    critique_request: str,
    critique: str | None,
    revision_request: str,
    few_shot: Sequence[CritiqueExample] = (),
) -> Prompt:
    """Ask for a revision of `response`, after its critique or (None) directly."""
    criticised = (
        ()
        if critique is None
        else (
            _user(critique_request, "Critique Request"),
            _assistant(critique, "Critique"),
        )
    )
    turns = (
        *messages,
        _assistant(response),
        *criticised,
        _user(revision_request, "Revision Request"),
    )
    return Prompt(_after_examples(turns, few_shot), speaker="Revision")


def options(count: int) -> tuple[str, ...]:
    """Return the options of a verdict on `count` responses (two to nine), that of (A) first."""
    return tuple(f" ({letter})" for letter in LETTERS[:count])


def _conversation(messages: Conversation) -> str:
    """Write a conversation as a transcript in which no message can pass for several."""
    shown = [m.model_copy(update={"content": quoted(m.content)}) for m in messages]
    return _Lines(to_transcript(shown))


def _listed(texts: Sequence[str]) -> str:
    """Write texts as a list, (A), (B), …, in which none can pass for several."""
    lines = (f"({letter}) {quoted(text)}" for letter, text in zip(LETTERS, texts, strict=False))
    return _Lines("\n".join(lines))


def comparison_prompt(
    messages: Conversation,
    responses: Sequence[str],
    principle: str,
    *,
    layout: Layout = "recommended",
    few_shot: Sequence[tuple[ComparisonExample, str]] = (),
    reasoning: bool = False,
) -> Prompt:
    """Ask which of several responses is best (paper, section 4.1, where they are two).

    Args:
        messages: The conversation that the responses answer.
        responses: Two to nine, shown as (A), (B), …
        principle: The comparison text of a principle.
        layout: Where the principle stands.
        few_shot: Worked examples, each with the principle it is shown under.
        reasoning: Ask for a chain of thought; `verdict_prompt` then asks for the verdict.
    """

    def question(messages: Conversation, responses: Sequence[str], principle: str) -> Message:
        letters = [option.strip() for option in options(len(responses))]
        content = render(
            COMPARISON_TEMPLATES[layout],
            conversation=_conversation(messages),
            count=_COUNTS[len(responses)],
            responses=_listed(responses),
            principle=principle,
            options=f"{', '.join(letters[:-1])} or {letters[-1]}",
        )
        return _user(content)

    turns: list[Message] = []
    for example, text in few_shot:
        turns.append(question(example.messages, example.responses, text))
        thoughts = f"{REASONING} {example.reasoning} " if reasoning and example.reasoning else ""
        turns.append(_own_turn(_assistant(f"{thoughts}{VERDICT} ({example.answer})")))
    turns.append(question(messages, responses, principle))
    return Prompt(tuple(turns), prefill=REASONING if reasoning else VERDICT)


def verdict_prompt(prompt: Prompt, reasoning: str, ask: str = VERDICT) -> Prompt:
    """Follow a prompt's chain of thought with the question for the verdict, or for `RATING`.

    The reasoning stays as the model said it, since its states are used again. It may claim an
    answer ("The answer is: (B)"); what is scored comes after the last `ask`. Of a base model it
    ends where it would begin another turn.
    """
    return Prompt(prompt.messages, prefill=f"{REASONING} {reasoning} {ask}")


def rating_prompt(
    messages: Conversation, response: str, principle: str, *, reasoning: bool = False
) -> Prompt:
    """Ask how good one response is, from 1 to 7, by the comparison text of a principle.

    Args:
        messages: The conversation that the response answers.
        response: What is rated.
        principle: The comparison text of a principle.
        reasoning: Ask for a chain of thought before the rating.
    """
    content = render(
        "rating.j2",
        conversation=_conversation(messages),
        response=response,
        principle=principle,
    )
    return Prompt((_user(content),), prefill=REASONING if reasoning else RATING)


def judge_prompt(messages: Conversation, response: str, descriptions: Sequence[str]) -> Prompt:
    """Ask which description, one of (A), (B), …, fits a response best.

    Args:
        messages: The conversation that the response answers.
        response: What is judged.
        descriptions: The rubric, in the order in which it is shown.
    """
    content = render(
        "judge.j2",
        conversation=_conversation(messages),
        response=response,
        options=_listed(descriptions),
    )
    return Prompt((_user(content),), prefill=VERDICT)


def harmfulness_prompt(messages: Conversation, response: str) -> Prompt:
    """Ask how harmful a response is, from 0 to 4."""
    content = render("harmfulness.j2", conversation=_conversation(messages), response=response)
    return Prompt((_user(content),), prefill=RATING)


def flag_prompt(critique_request: Prompt, critique: str, *, yes_first: bool) -> Prompt:
    """Ask whether a critique found fault; `yes_first` makes (A) mean that it did.

    Args:
        critique_request: What `critique_prompt` returned.
        critique: The model's answer to it.
        yes_first: Which option means what; ask both ways to cancel a liking for a letter.
    """
    options = ["It finds something wrong.", "It finds nothing wrong."]
    first, second = options if yes_first else reversed(options)
    turns = (
        *critique_request.messages,
        _own_turn(_assistant(critique, "Critique")),
        _user(render("flag.j2", first=first, second=second)),
    )
    return Prompt(turns, prefill=VERDICT)


def grow_prompt(examples: Sequence[str]) -> Prompt:
    """Ask for one more prompt like the examples; each stands on one line of a list."""
    lines = [f"{n}. {' '.join(text.split())}" for n, text in enumerate(examples, start=1)]
    content = render("grow.j2", examples=_Lines("\n".join(lines)))
    return Prompt((_user(content),), prefill=f"{len(examples) + 1}.")


def _after_examples(turns: Conversation, examples: Sequence[CritiqueExample]) -> Conversation:
    """Put worked examples before `turns`, but after the system message, each in its own turn."""
    system = tuple(m for m in turns[:1] if m.role == "system")
    shown: list[Message] = []
    for example in examples:
        shown += [
            *example.messages,
            _assistant(example.response),
            _user(example.critique_request, "Critique Request"),
            _assistant(example.critique, "Critique"),
            _user(example.revision_request, "Revision Request"),
            _assistant(example.revision, "Revision"),
        ]
    return tuple(map(_own_turn, (*system, *shown, *turns[len(system) :])))


def _own_turn(message: Message) -> Message:
    """Return a message of which no line begins as a turn of a transcript does."""
    return message.model_copy(update={"content": _TURN.sub(r"\1 ", message.content)})


def _user(content: str, label: str | None = None) -> Message:
    return Message(role="user", content=content, label=label)


def _assistant(content: str, label: str | None = None) -> Message:
    return Message(role="assistant", content=content, label=label)
