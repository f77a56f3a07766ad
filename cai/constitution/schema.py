"""What a constitution file may say (`schema: 1`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from cai.data.conversation import Conversation
from cai.data.records import content_hash

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""Space around a text is dropped: how a YAML block ends must not change a prompt."""
Note = Annotated[str, StringConstraints(strip_whitespace=True)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _exchange(messages: Conversation) -> Conversation:
    """Strip the turns; the last must be the user's, and none may be empty."""
    if messages[-1].role != "user":
        raise ValueError("must end with a message of the role `user`")
    stripped = tuple(m.model_copy(update={"content": m.content.strip()}) for m in messages)
    if any(not m.content for m in stripped):
        raise ValueError("holds an empty message")
    return stripped


Exchange = Annotated[Conversation, Field(min_length=1), AfterValidator(_exchange)]


class Part(BaseModel):
    """Unknown keys are refused everywhere in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PrincipleTest(Part):
    """An example that a feedback model should judge as a person would, under this principle."""

    prompt: Text
    """What the user says."""
    better: Text | None = None
    """The response that should win (with `worse`)."""
    worse: Text | None = None
    """The response that should lose (with `better`)."""
    response: Text | None = None
    """A single response (with `flagged`)."""
    flagged: bool | None = None
    """Whether a critique should find fault with `response`."""

    @model_validator(mode="after")
    def _one_kind(self) -> PrincipleTest:
        pair = self.better is not None and self.worse is not None
        both_empty = self.response is None and self.flagged is None
        single = self.response is not None and self.flagged is not None
        if not (pair and both_empty) and not (
            single and self.better is None and self.worse is None
        ):
            raise ValueError("needs either `better` and `worse`, or `response` and `flagged`")
        return self


class Principle(Part):
    """One principle: a critique with its revision, a comparison, or all three."""

    id: Identifier
    """Names the principle: draws depend on it and rows refer to it, so keep it when rewording."""
    critique: Text | None = None
    """Asks what is wrong with the response (supervised stage)."""
    revision: Text | None = None
    """Asks to rewrite the response (supervised stage)."""
    comparison: Text | None = None
    """Asks which of two responses is better (feedback stage)."""
    weight: Weight = 1.0
    """How often it is drawn, relative to the others; its weight in an average of several."""
    tags: list[Identifier] = []
    """Reports group by them, and `extends` can choose by them."""
    description: Note | None = None
    """For people: why the principle is there. Never sent to a model."""
    tests: list[PrincipleTest] = []
    """Examples with known verdicts, for `cai constitution test`. Rows do not depend on them."""

    @model_validator(mode="after")
    def _whole(self) -> Principle:
        if (self.critique is None) != (self.revision is None):
            present, missing = (
                ("critique", "revision") if self.revision is None else ("revision", "critique")
            )
            raise ValueError(
                f"has `{present}` without `{missing}`: the supervised stage needs both, so add"
                f" `{missing}` or remove `{present}`"
            )
        if self.critique is None and self.comparison is None:
            raise ValueError(
                "is empty: give it `critique` and `revision`, or `comparison`, or all three"
            )
        for number, test in enumerate(self.tests, start=1):
            half = "critique" if test.better is None else "comparison"
            if getattr(self, half) is None:
                raise ValueError(
                    f"has no `{half}`, but its test {number} needs one: add it, or remove the test"
                )
        return self

    @property
    def supervised_hash(self) -> str:
        """The hash of the critique half's text."""
        return content_hash("supervised", self.critique, self.revision)


class CritiqueExample(Part):
    """A worked example of critique and revision, shown before the real one."""

    messages: Exchange
    """The conversation up to the user's last turn."""
    response: Text
    """What the assistant said at first."""
    critique_request: Text
    """The `critique` of some principle."""
    critique: Text
    """What is wrong with the response, said of the assistant and not to it."""
    revision_request: Text
    """The `revision` of the same principle."""
    revision: Text
    """The better response, and nothing but it."""

    def is_of(self, principle: Principle) -> bool:
        """Return whether it shows how to follow a principle: its request is the principle's."""
        return self.critique_request == principle.critique


class ComparisonExample(Part):
    """A worked example of a comparison; it is shown under the principle that is asked about."""

    messages: Exchange
    """The conversation up to the user's last turn."""
    responses: tuple[Text, Text]
    """What the assistant could say: (A), then (B)."""
    answer: Literal["A", "B"]
    """The better of the two."""
    reasoning: Text | None = None
    """The chain of thought, for feedback with reasoning."""


class FewShot(Part):
    """Examples that show base models the format and the point of view."""

    critique: list[CritiqueExample] = []
    """Shown before a request for a critique or a revision."""
    comparison: list[ComparisonExample] = []
    """Shown before a comparison."""


class Extension(Part):
    """A constitution to build on, whole or in part; a name or a path alone takes all of it."""

    from_: Text = Field(alias="from")
    """A built-in name, or a file relative to this one."""
    tags: Annotated[list[Identifier], Field(min_length=1)] | None = None
    """Take the principles with one of these tags; all if left out."""
    exclude: list[Identifier] = []
    """Leave out the principles with these ids."""
    weight: Weight = 1.0
    """Their weights are multiplied by it."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:  # noqa: ANN401
        return {"from": data} if isinstance(data, str) else data


def _or_text(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema that an extension may be its `from` alone."""
    schema["items"] = {"anyOf": [{"type": "string", "minLength": 1}, schema["items"]]}


class ConstitutionFile(Part):
    """A constitution file, `extends` not yet resolved."""

    schema_: Literal[1] = Field(alias="schema")
    """The version of this format."""
    name: Identifier
    """What runs and reports call the constitution."""
    description: Note = ""
    """For people. Never sent to a model."""
    extends: Annotated[list[Extension], Field(json_schema_extra=_or_text)] = []
    """Constitutions to build on: built-in names, or files relative to this one; or parts of them,
    as `{from, tags, exclude, weight}`."""
    principles: list[Principle] = []
    """The file's own principles; one with the id of an inherited one replaces it."""
    few_shot: FewShot = FewShot()
    """Worked examples, put after inherited ones."""


class Constitution(Part):
    """A whole constitution, `extends` resolved.

    Attributes:
        name: Its name.
        principles: In file order, those of `extends` first.
    """

    name: Identifier
    description: str = ""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]
    few_shot: FewShot = FewShot()

    @property
    def supervised(self) -> tuple[Principle, ...]:
        """The principles that serve the supervised stage."""
        return tuple(p for p in self.principles if p.critique is not None)

    @property
    def comparisons(self) -> tuple[Principle, ...]:
        """The principles that serve the feedback stage."""
        return tuple(p for p in self.principles if p.comparison is not None)


def file_schema() -> dict[str, Any]:
    """Return the JSON Schema of constitution files, with descriptions, for editors."""
    schema = ConstitutionFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
