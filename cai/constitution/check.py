"""Probable mistakes in a valid constitution: cheap checks without a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

from cai.constitution.diff import HALVES
from cai.constitution.findings import ConstitutionError, Finding, Place
from cai.constitution.load import Resolved, find, resolve

NEAR_DUPLICATE = 0.75
"""There is a warning if the sets of word pairs of two texts overlap (Jaccard) at least so much."""
UNEVEN = 20.0
"""There is a warning if the ratio of two weights is larger."""

_RESIDUE = re.compile(
    r"(Critique|Revision) ?(Request)?:|Options:|\([AB]\)|\{\{|\{%|<\||^(Human|Assistant|User):"
    r"|The answer is\b|\[/?INST\]|^#+ ?(Instruction|Response)",
    re.MULTILINE,
)
_TONE = re.compile(
    r"evasi|evade|preach|moraliz|moralis|lectur|sermon|condescend|overreact|over-react"
    r"|overly|needless(ly)? refus|judgmental|holier",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    r"not|no|never|none|neither|nor|without|less|least|fewer|fewest|worse|avoids?"
)
_POSITIVE = re.compile(r"more|most|better|best|greater|greatest")
"""Words that are often replaced by `_NEGATIVE` ones, which reverse the meaning of a wish."""
_BAD = (
    r"(harmful|hurtful|dangerous|unsafe|illegal|unlawful|criminal|unethical|immoral|toxic|racist"
    r"|sexist|offensive|hateful|dishonest|deceptive|misleading|biased|abusive|violent|rude)"
)
_PRESUMED = re.compile(
    rf"\b(since|because|as|given that|now that) the (user|human|request|prompt|question)\b"
    rf"|\b(the (user|human)'s|the|this|such an?) {_BAD} (request|question|prompt|demand|wish)\b"
    rf"|\bwhy (is |was )?(the|this) (assistant's )?(last )?(response|answer|reply) (is |was )?"
    rf"{_BAD}",
    re.IGNORECASE,
)


def check_constitution(ref: str | Path) -> list[Finding]:
    """Return all errors and warnings about a constitution (a built-in name or file), in file order.

    Raises:
        CaiError: When there is no such constitution. The errors of a broken one are returned.
    """
    try:
        resolved = resolve(find(ref))
    except ConstitutionError as problem:
        return problem.findings
    return doubts(resolved)


def doubts(resolved: Resolved) -> list[Finding]:
    """Return what is doubtful in a valid constitution, in file order."""
    lints = (_alike, _wording, _tone, _stages, _weights, _one_letter)
    findings = [finding for lint in lints for finding in lint(resolved)]
    return sorted(findings, key=lambda f: (str(f.place.path), f.place.line, f.place.column))


def _alike(resolved: Resolved) -> Iterator[Finding]:
    """Find principles that say the same, or the opposite in the same words."""
    principles = resolved.constitution.principles
    for half in ("critique", "comparison"):
        texts = {p.id: _words(text) for p in principles if (text := getattr(p, half))}
        for first, second in combinations(texts, 2):
            one, other = texts[first], texts[second]
            both = f"principles {first!r} and {second!r}"
            if _negated(one) != _negated(other) and _overlap(_unsigned(one), _unsigned(other)):
                message = (
                    f"{both} ask for opposite things in nearly the same words (`{half}`), so what"
                    " one teaches the other undoes: drop one, or say when each applies"
                )
                yield _warning(resolved.places[second], "contradiction", message)
            elif _overlap(one, other):
                message = (
                    f"{both} have nearly the same `{half}`: keep one and raise its weight, or make"
                    " the other say something else"
                )
                yield _warning(resolved.places[second], "near-duplicate", message)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace("n't", " not"))


def _unsigned(words: Iterable[str]) -> list[str]:
    return [w for w in words if not _NEGATIVE.fullmatch(w) and not _POSITIVE.fullmatch(w)]


def _negated(words: Iterable[str]) -> bool:
    return sum(bool(_NEGATIVE.fullmatch(word)) for word in words) % 2 == 1


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    first, second = (set(pairwise(["", *words, ""])) for words in (one, other))
    return len(first & second) / len(first | second) >= NEAR_DUPLICATE


def _wording(resolved: Resolved) -> Iterator[Finding]:
    """Find pieces of prompts, and assumptions that are not true of every prompt."""
    for principle in resolved.constitution.principles:
        place = resolved.places[principle.id]
        for half in HALVES:
            text = getattr(principle, half) or ""
            if found := _RESIDUE.search(text):
                message = (
                    f"principle {principle.id!r}: its `{half}` holds {found[0]!r}, which looks like"
                    " a piece of a prompt: remove it, cai puts the principle in a prompt itself"
                )
                yield _warning(place, "template-residue", message)
            if found := _PRESUMED.search(text):
                message = (
                    f"principle {principle.id!r}: its `{half}` takes something for granted"
                    f" ({found[0]!r}), but it is drawn for prompts of every kind: ask whether it is"
                    " so, or begin with `if`"
                )
                yield _warning(place, "presumption", message)


def _tone(resolved: Resolved) -> Iterator[Finding]:
    """The paper (sections 4.3 and 5) found that without such principles models turn harsh."""
    constitution = resolved.constitution
    halves = {
        "critique": [f"{p.critique} {p.revision}" for p in constitution.supervised],
        "comparison": [str(p.comparison) for p in constitution.comparisons],
    }
    silent = [half for half, texts in halves.items() if texts and not _TONE.search(" ".join(texts))]
    if silent:
        where = "" if len(silent) == sum(map(bool, halves.values())) else f" in its `{silent[0]}`"
        message = (
            f"no principle speaks against evasive or preachy answers{where}, and training tends"
            " towards them: add one, or put `helpful` in `extends`"
        )
        yield _warning(Place(resolved.path), "no-tone-principle", message)


def _stages(resolved: Resolved) -> Iterator[Finding]:
    constitution, place = resolved.constitution, Place(resolved.path)
    if not constitution.comparisons:
        message = (
            "no principle has a `comparison`: this constitution serves the supervised stage only"
        )
        yield Finding(place, "note", "supervised-only", message)
    if not constitution.supervised:
        message = "no principle has a `critique`: this constitution serves the feedback stage only"
        yield Finding(place, "note", "comparison-only", message)


def _weights(resolved: Resolved) -> Iterator[Finding]:
    constitution = resolved.constitution
    heaviest = max(constitution.principles, key=lambda p: p.weight)
    lightest = min(constitution.principles, key=lambda p: p.weight)
    if heaviest.weight / lightest.weight > UNEVEN:
        message = (
            f"principle {lightest.id!r} (weight {lightest.weight:g}) is hardly ever drawn beside"
            f" {heaviest.id!r} (weight {heaviest.weight:g}): bring the weights closer together"
        )
        yield _warning(resolved.places[lightest.id], "uneven-weights", message)


def _one_letter(resolved: Resolved) -> Iterator[Finding]:
    examples = resolved.constitution.few_shot.comparison
    answers = {example.answer for example in examples}
    if len(examples) > 1 and len(answers) == 1:
        message = (
            f"all comparison examples are answered ({answers.pop()}), which teaches a feedback"
            " model the letter: swap the responses of some"
        )
        yield _warning(Place(resolved.path), "one-letter", message)


def _warning(place: Place, code: str, message: str) -> Finding:
    return Finding(place, "warning", code, message)
