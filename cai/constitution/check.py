"""What a valid constitution may still get wrong: cheap checks without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

from cai.constitution.findings import ConstitutionError, Finding, Place
from cai.constitution.load import Resolved, find, resolve
from cai.constitution.schema import Principle

NEAR_DUPLICATE = 0.75
"""Texts whose sets of word pairs overlap (Jaccard) at least so much say nearly the same."""
UNEVEN = 20.0
"""Weights further apart than this factor are worth a second look."""

_RESIDUE = re.compile(
    r"(Critique|Revision) ?(Request)?:|Options:|\([AB]\)|\{\{|\{%|<\||^(Human|Assistant|User):"
    r"|The answer is:",
    re.MULTILINE,
)
_TONE = re.compile(
    r"evasi|evade|preach|moraliz|moralis|lectur|sermon|condescend|overreact|over-react"
    r"|overly|needless(ly)? refus|judgmental|holier",
    re.IGNORECASE,
)


def check_constitution(ref: str | Path) -> list[Finding]:
    """Return everything that is wrong or doubtful in a constitution, in file order.

    Args:
        ref: A built-in name or a file.

    Raises:
        CaiError: When there is no such constitution. A broken one is not raised but found.
    """
    try:
        resolved = resolve(find(ref))
    except ConstitutionError as problem:
        return problem.findings
    lints = (_near_duplicates, _residue, _tone, _stages, _weights, _one_letter)
    findings = [finding for lint in lints for finding in lint(resolved)]
    return sorted(findings, key=lambda f: (str(f.place.path), f.place.line, f.place.column))


def _near_duplicates(resolved: Resolved) -> Iterator[Finding]:
    principles = resolved.constitution.principles
    for half in ("critique", "comparison"):
        pairs = {p.id: _word_pairs(text) for p in principles if (text := getattr(p, half))}
        for first, second in combinations(pairs, 2):
            shared = len(pairs[first] & pairs[second]) / len(pairs[first] | pairs[second])
            if shared >= NEAR_DUPLICATE:
                message = (
                    f"principles {first!r} and {second!r} have nearly the same `{half}`: keep one"
                    " and raise its weight, or make the other say something else"
                )
                yield _warning(resolved.places[second], "near-duplicate", message)


def _word_pairs(text: str) -> set[tuple[str, str]]:
    words = ["", *re.findall(r"\w+", text.casefold()), ""]
    return set(pairwise(words))


def _residue(resolved: Resolved) -> Iterator[Finding]:
    for principle in resolved.constitution.principles:
        for half in ("critique", "revision", "comparison"):
            found = _RESIDUE.search(getattr(principle, half) or "")
            if found:
                message = (
                    f"principle {principle.id!r}: its `{half}` holds {found[0]!r}, which looks like"
                    " a piece of a prompt: remove it, cai puts the principle in a prompt itself"
                )
                yield _warning(resolved.places[principle.id], "template-residue", message)


def _tone(resolved: Resolved) -> Iterator[Finding]:
    """The paper (sections 4.3 and 5) found that without such principles models turn harsh."""
    texts = (f"{p.critique} {p.revision} {p.comparison}" for p in resolved.constitution.principles)
    if not any(_TONE.search(text) for text in texts):
        message = (
            "no principle speaks against evasive or preachy answers, and training tends towards"
            " them: add one, or put `helpful` in `extends`"
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
    heaviest = max(constitution.principles, key=_weight)
    lightest = min(constitution.principles, key=_weight)
    if heaviest.weight / lightest.weight > UNEVEN:
        message = (
            f"principle {lightest.id!r} (weight {lightest.weight:g}) is hardly ever drawn beside"
            f" {heaviest.id!r} (weight {heaviest.weight:g}): bring the weights closer together"
        )
        yield _warning(resolved.places[lightest.id], "uneven-weights", message)


def _weight(principle: Principle) -> float:
    return principle.weight


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
