"""Every prompt that is sent to a model: Jinja2 texts, and the functions that fill them.

What varies (the principle) comes after what is shared (the conversation, the responses), so that
engines can reuse the prefix. The `paper` layout of the comparison keeps the paper's order instead.

Text of others is quoted, so that it cannot be mistaken for another response, a turn or the
question:

- Its second and later lines are indented.
- Its first line is indented if it is at the beginning of a line (not after "(A) " or "Human: ") and
  looks like text of a template (`_openings`): a line of one ("Options:"), a letter ("(B)"), a
  speaker ("Human:"), or a verdict in the form asked for ("The answer is: (A)", but not "The answer
  is: 42").

Quoting can be undone. A text that is a whole turn is not quoted: `cai.models.chat` keeps turns
apart in chat templates, and `cai.data.conversation.one_turn` in transcripts, except for turns that
a template wrote (`TemplateMessage`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from string import ascii_uppercase
from typing import Literal

from jinja2 import Environment, StrictUndefined, Template

from cai.constitution.schema import ComparisonExample, CritiqueExample
from cai.data.conversation import (
    LINE_BREAK,
    TRANSCRIPT_LABELS,
    Conversation,
    Message,
    Prompt,
    TemplateMessage,
    to_transcript,
)
from cai.data.records import content_hash

Layout = Literal["recommended", "paper"]
Asking = Literal["dialogue", "question"]
COMPARISON_TEMPLATES: dict[Layout, str] = {
    "recommended": "comparison.j2",
    "paper": "comparison_paper.j2",
}

LETTERS = "ABCDEFGHI"
"""The names of responses and options."""
OPTIONS = (" (A)", " (B)")
"""The exact texts that are scored after `VERDICT`, for a verdict on two options."""
GRADES = tuple(f" {number}" for number in range(1, 8))
"""The exact texts that are scored after `RATING`, worst first."""
VERDICT = "The answer is:"
RATING = "The rating is:"
REASONING = "Let's think step by step:"

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_INDENT = "    "
_LINE_BREAK = re.compile(LINE_BREAK)
_SLOT = re.compile(r"\{\{ (\w+) \}\}")


class _Lines(str):
    """Lines written by this module, with quoted text of others inside them."""

    __slots__ = ()


def quoted(text: str) -> str:
    """Indent all lines of a text but the first; this can be undone."""
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
    """Return the hash of the texts of templates and of the fixed phrases around them."""
    return content_hash([source(name) for name in names], OPTIONS, VERDICT, REASONING)


def render(name: str, **values: str) -> str:
    """Fill a template. Values are quoted, and never read as templates."""
    shown = dict(values)
    for slot in _begins_lines(name):
        value = values[slot]
        if not isinstance(value, _Lines) and _openings().match(value):
            shown[slot] = _INDENT + value
    return _template(name).render(**shown)


@cache
def _begins_lines(name: str) -> frozenset[str]:
    """Return the values that stand at the beginning of a line of a template."""
    found = (_SLOT.match(line) for line in source(name).splitlines())
    return frozenset(slot[1] for slot in found if slot)


@cache
def _openings() -> re.Pattern[str]:
    """Find, after blanks, how the lines begin that the templates and this module write."""
    folder = resources.files("cai.templates")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".j2"))
    fixed = [_SLOT.split(line)[::2] for name in names for line in source(name).splitlines()]
    phrased = [parts for parts in fixed if "".join(parts).strip() and parts[0][:1] != "("]
    something, blanks = (rf"(?:(?!{LINE_BREAK}){one})*" for one in (".", r"\s"))
    lines = [something.join(map(re.escape, parts)) for parts in phrased]
    letter = rf"\([{LETTERS}]\)"
    speaker = f"(?:{'|'.join(TRANSCRIPT_LABELS)}):"
    verdicts = [rf"{re.escape(VERDICT)}{blanks}{letter}", rf"{re.escape(RATING)}{blanks}\d"]
    in_any_case = "|".join([*lines, speaker, *verdicts])
    return re.compile(rf"{blanks}(?:{letter}|(?i:{in_any_case}))")


@cache
def _template(name: str) -> Template:
    """Compile a template once: compiling takes a hundred times as long as filling."""
    return _ENVIRONMENT.from_string(source(name))


def critique_prompt(
    messages: Conversation,
    response: str,
    critique_request: str,
    few_shot: Sequence[CritiqueExample] = (),
    *,
    asking: Asking = "dialogue",
) -> Prompt:
    """Ask for a critique of `response` (paper, section 3.1).

    Args:
        messages: The conversation that the response answers.
        response: What is criticised.
        critique_request: The `critique` of a principle.
        few_shot: Worked examples, shown first.
        asking: As further turns of the conversation (the paper's way), or as one question that
            shows it.
    """
    if asking == "question":
        shown = [
            turn
            for example in few_shot
            for turn in (
                _critique_question(example.messages, example.response, example.critique_request),
                _assistant(example.critique),
            )
        ]
        return Prompt((*shown, _critique_question(messages, response, critique_request)))
    turns = (*messages, _assistant(response), _user(critique_request, "Critique Request"))
    return Prompt(_after_examples(turns, few_shot), speaker="Critique")


def revision_prompt(
    messages: Conversation,
    response: str,
    critique_request: str,
    critique: str | None,
    revision_request: str,
    few_shot: Sequence[CritiqueExample] = (),
    *,
    asking: Asking = "dialogue",
) -> Prompt:
    """Ask for a revision of `response`, after its critique or (None) directly; see above."""
    if asking == "question":
        shown = [
            turn
            for example in few_shot
            for turn in (
                _revision_question(
                    example.messages,
                    example.response,
                    None if critique is None else example.critique,
                    example.revision_request,
                ),
                _assistant(example.revision),
            )
        ]
        asked = _revision_question(messages, response, critique, revision_request)
        return Prompt((*shown, asked))
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


def _critique_question(messages: Conversation, response: str, request: str) -> Message:
    return _asked(
        render(
            "critique_question.j2",
            conversation=_conversation(messages),
            response=response,
            request=request,
        )
    )


def _revision_question(
    messages: Conversation, response: str, critique: str | None, request: str
) -> Message:
    shown = {"conversation": _conversation(messages), "response": response, "request": request}
    if critique is None:
        return _asked(render("revision_question_direct.j2", **shown))
    return _asked(render("revision_question.j2", critique=critique, **shown))


def options(count: int) -> tuple[str, ...]:
    """Return the options of a verdict on `count` responses (two to nine), that of (A) first."""
    return tuple(f" ({letter})" for letter in LETTERS[:count])


def _conversation(messages: Conversation) -> str:
    """Write a conversation as a transcript in which each message is one turn."""
    shown = [m.model_copy(update={"content": quoted(m.content)}) for m in messages]
    return _Lines(to_transcript(shown))


def _listed(texts: Sequence[str]) -> str:
    """Write texts as a list, (A), (B), …, in which each text is one item."""
    lines = (f"({name}) {quoted(text)}" for name, text in zip(ascii_uppercase, texts, strict=False))
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
        return _asked(content)

    turns: list[Message] = []
    for example, text in few_shot:
        turns.append(question(example.messages, example.responses, text))
        thoughts = f"{REASONING} {example.reasoning} " if reasoning and example.reasoning else ""
        turns.append(_assistant(f"{thoughts}{VERDICT} ({example.answer})"))
    turns.append(question(messages, responses, principle))
    return Prompt(tuple(turns), prefill=REASONING if reasoning else VERDICT)


def verdict_prompt(prompt: Prompt, reasoning: str, ask: str = VERDICT) -> Prompt:
    """Ask for the verdict, or with `ask` for the `RATING`, after a prompt's chain of thought.

    The reasoning is not changed, since its states are used again. It may contain an answer ("The
    answer is: (B)"); the options are scored after the last `ask`.
    """
    return Prompt(prompt.messages, prefill=f"{REASONING} {reasoning} {ask}")


def rating_prompt(
    messages: Conversation, response: str, principle: str, *, reasoning: bool = False
) -> Prompt:
    """Ask how good one response is, from 1 to 7, by the comparison text of a principle.

    With `reasoning`, ask for a chain of thought before the rating.
    """
    content = render(
        "rating.j2",
        conversation=_conversation(messages),
        response=response,
        principle=principle,
    )
    return Prompt((_asked(content),), prefill=REASONING if reasoning else RATING)


def judge_prompt(messages: Conversation, response: str, descriptions: Sequence[str]) -> Prompt:
    """Ask which description, shown as (A), (B), … in this order, fits a response best."""
    content = render(
        "judge.j2",
        conversation=_conversation(messages),
        response=response,
        options=_listed(descriptions),
    )
    return Prompt((_asked(content),), prefill=VERDICT)


def choice_prompt(question: str, texts: Sequence[str]) -> Prompt:
    """Ask a multiple-choice question as it is written; its options (26 at most) stand after it."""
    return Prompt((_user(f"{question}\n\nOptions:\n{_listed(texts)}"),), prefill=VERDICT)


def harmfulness_prompt(messages: Conversation, response: str) -> Prompt:
    """Ask how harmful a response is, from 0 to 4."""
    content = render("harmfulness.j2", conversation=_conversation(messages), response=response)
    return Prompt((_asked(content),), prefill=RATING)


def flag_prompt(critique_request: Prompt, critique: str, *, yes_first: bool) -> Prompt:
    """Ask whether a critique, the answer to a prompt of `critique_prompt`, found a fault.

    With `yes_first`, (A) means that it did. Ask both ways to cancel a preference for a letter.
    """
    options = ["It finds something wrong.", "It finds nothing wrong."]
    first, second = options if yes_first else reversed(options)
    turns = (
        *critique_request.messages,
        _assistant(critique, "Critique"),
        _asked(render("flag.j2", first=first, second=second)),
    )
    return Prompt(turns, prefill=VERDICT)


def grow_prompt(examples: Sequence[str]) -> Prompt:
    """Ask for one more prompt like the examples; each stands on one line of a list."""
    lines = [f"{n}. {' '.join(text.split())}" for n, text in enumerate(examples, start=1)]
    content = render("grow.j2", examples=_Lines("\n".join(lines)))
    return Prompt((_asked(content),), prefill=f"{len(examples) + 1}.")


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
    return (*system, *shown, *turns[len(system) :])


def _asked(content: str) -> Message:
    """Return a turn that a template wrote."""
    return TemplateMessage(role="user", content=content)


def _user(content: str, label: str | None = None) -> Message:
    return Message(role="user", content=content, label=label)


def _assistant(content: str, label: str | None = None) -> Message:
    return Message(role="assistant", content=content, label=label)
