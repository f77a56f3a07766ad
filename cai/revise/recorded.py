"""Chains of critiques and revisions that another tool has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from cai.data.prompts.extraction import prompt_of
from cai.data.prompts.readers import read_records
from cai.data.prompts.record import Record
from cai.data.prompts.turns import checked_text
from cai.data.records import (
    PrincipleUse,
    Provenance,
    RevisionRow,
    RevisionStep,
    content_hash,
)
from cai.errors import CaiError
from cai.settings.wording import first_in_words

_PROMPTS = ("rl_prompt", "init_prompt", "red_team_prompt")
"""Columns of prompts that other sources do not have."""
_FIRST = (
    "initial_response",
    "init_response",
    "original_response",
    "response",
    "completion",
    "output",
    "answer",
)
_CRITIQUES = ("critique", "critiques", "critic_response")
_REVISIONS = ("revision", "revisions", "revision_response", "revised_response")
_ROUNDS = ("cst", "rounds", "steps")
"""A list with an object for each round."""
_PRINCIPLES = ("principle", "cst_key", "constitution")
_LAYOUTS = (
    "a prompt, `response`, `critique` and `revision` (a text, or a list with one for each round); "
    "or a prompt, `initial_response` and a list of rounds, each with `critique` and `revision`"
)


def read_chains(path: str) -> list[RevisionRow]:
    """Read the chains of a file: rows of a `revise` stage, or of another tool (docs/revisions.md).

    Raises:
        CaiError: The file cannot be read, or a row is no chain.
    """
    return [_chain(record, number) for number, record in enumerate(read_records(path))]


def _chain(record: Record, number: int) -> RevisionRow:
    if record.has("steps", "provenance", "messages"):
        try:
            return RevisionRow.model_validate(dict(record.fields))
        except ValidationError as error:
            raise CaiError(
                f"{record.where}: this is no row of a `revise` stage: {first_in_words(error)}. Fix "
                "or remove it."
            ) from error
    for names in (_PROMPTS, _FIRST, (*_REVISIONS, *_ROUNDS)):
        given = [name for name in names if record.peek(name) is not None]
        if len(given) > 1:
            raise CaiError(
                f"{record.where}: `{given[0]}` and `{given[1]}` are the same part of a chain. "
                "Remove one of the columns."
            )
    column = next((name for name in _PROMPTS if record.has(name)), None)
    messages = prompt_of(record, column)
    response = _first(record, _FIRST)
    steps = _steps(record)
    if messages is None or response is None or not steps:
        raise CaiError(
            f"{record.where}: no chain of critiques and revisions was found in the columns "
            f"{record.columns()}. A row has {_LAYOUTS}."
        )
    return RevisionRow(
        key=content_hash("recorded", number, messages),
        kind="red_team",
        messages=messages,
        task=content_hash(messages),
        response=_text(response, "response", record.where),
        ended=True,
        steps=steps,
        provenance=Provenance(
            model="recorded", model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
    )


def _steps(record: Record) -> list[RevisionStep]:
    rounds = _first(record, _ROUNDS)
    if rounds is not None:
        items = cast("list[object]", rounds) if isinstance(rounds, list) else [rounds]
        parts = [Record.of(item, record.where) for item in items]
        return [step for part in parts for step in _steps_of(part)]
    return _steps_of(record)


def _steps_of(record: Record) -> list[RevisionStep]:
    """Return the rounds of one object; critiques, if there are any, are as many as revisions."""
    revisions = _texts(_first(record, _REVISIONS), "revision", record.where)
    critiques = _texts(_first(record, _CRITIQUES), "critique", record.where)
    if critiques and len(critiques) != len(revisions):
        raise CaiError(
            f"{record.where}: {len(critiques)} critiques and {len(revisions)} revisions do not "
            "belong together."
        )
    said = _first(record, _PRINCIPLES)
    principle = PrincipleUse(id=said if isinstance(said, str) else "", text_hash="")
    return [
        RevisionStep(
            principle=principle,
            critique=critiques[i] if critiques else None,
            revision=r,
            ended=True,
        )
        for i, r in enumerate(revisions)
    ]


def _first(record: Record, names: Sequence[str]) -> object:
    return next((v for v in map(record.get, names) if v is not None), None)


def _texts(value: object, name: str, where: str) -> list[str]:
    if value is None:
        return []
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [_text(item, name, where) for item in items]


def _text(value: object, name: str, where: str) -> str:
    """Return a text that may stand in a list of one, or in an object as its `sample`."""
    if isinstance(value, list) and len(cast("list[Any]", value)) == 1:
        value = cast("list[Any]", value)[0]
    if isinstance(value, Mapping):
        held = cast("Mapping[str, object]", value)
        value = next((held[key] for key in ("sample", "text", "content") if key in held), value)
    return checked_text(value, name, where)
