"""What an edit changes, principle by principle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cai.constitution.schema import Constitution, FewShot, Principle

Kind = Literal["added", "dropped", "reworded", "reformatted", "reweighted", "noted", "examples"]
Half = Literal["critique", "revision", "comparison"]
HALVES: tuple[Half, ...] = ("critique", "revision", "comparison")
_NOTES = ("description", "tags", "tests")


@dataclass(frozen=True)
class Change:
    """One change to a constitution.

    Attributes:
        kind: `reworded` has other words; `reformatted` other blanks or line breaks alone, which a
            model sees as well; `noted` is what no model sees (description, tags, tests).
        subject: The id of the principle; for `examples`, `critique` or `comparison`.
        before: The constitution it was made to.
        after: The constitution after all changes.
        fields: What of the principle changed; empty for `added` and `dropped`.
    """

    kind: Kind
    subject: str
    before: Constitution
    after: Constitution
    fields: tuple[str, ...] = ()

    @property
    def old(self) -> Principle | None:
        """The principle as it was."""
        return _by_id(self.before).get(self.subject)

    @property
    def new(self) -> Principle | None:
        """The principle as it is now."""
        return _by_id(self.after).get(self.subject)

    def alone(self) -> Constitution:
        """Return the earlier constitution with this change and no other."""
        before = self.before
        if self.kind == "examples":
            examples = {self.subject: getattr(self.after.few_shot, self.subject)}
            return before.model_copy(
                update={"few_shot": before.few_shot.model_copy(update=examples)}
            )
        principles = _by_id(before)
        new = self.new
        if new is None:
            del principles[self.subject]
        elif self.old is None:
            principles[self.subject] = new
        else:
            update = {name: getattr(new, name) for name in self.fields}
            principles[self.subject] = self.old.model_copy(update=update)
        # Nothing may be left: an edit can replace every principle.
        return before.model_copy(update={"principles": tuple(principles.values())})


def changes(before: Constitution, after: Constitution) -> list[Change]:
    """List what differs between two constitutions, dropped principles first.

    The order of principles is no difference: draws do not depend on it.
    """
    old, new = _by_id(before), _by_id(after)
    found = [Change("dropped", name, before, after) for name in old if name not in new]
    found += [Change("added", name, before, after) for name in new if name not in old]
    for name in new:
        if name in old:
            found += [
                Change(kind, name, before, after, fields)
                for kind, fields in _edits(old[name], new[name])
            ]
    return found + [
        Change("examples", half, before, after, (half,))
        for half in FewShot.model_fields
        if getattr(before.few_shot, half) != getattr(after.few_shot, half)
    ]


def _edits(old: Principle, new: Principle) -> list[tuple[Kind, tuple[str, ...]]]:
    def differing(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(old, name) != getattr(new, name))

    texts = differing(*HALVES)
    worded = tuple(name for name in texts if _words(old, name) != _words(new, name))
    formatted = tuple(name for name in texts if name not in worded)
    edits: list[tuple[Kind, tuple[str, ...]]] = [
        ("reworded", worded),
        ("reformatted", formatted),
        ("reweighted", differing("weight")),
        ("noted", differing(*_NOTES)),
    ]
    return [edit for edit in edits if edit[1]]


def _words(principle: Principle, half: str) -> list[str] | None:
    text = getattr(principle, half)
    return None if text is None else str(text).split()


def _by_id(constitution: Constitution) -> dict[str, Principle]:
    return {principle.id: principle for principle in constitution.principles}
