"""What a constitution file may say (`schema: 1`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.conversation import Conversation
from cai.records import content_hash

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Part(BaseModel):
    """Unknown keys are refused everywhere in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PrincipleTest(Part):
    """An example that a feedback model should judge as a person would, under this principle."""

    prompt: Text
    better: Text | None = None
    worse: Text | None = None
    response: Text | None = None
    flagged: bool | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> PrincipleTest:
        pair = self.better is not None and self.worse is not None
        single = self.response is not None and self.flagged is not None
        both_empty = self.response is None and self.flagged is None
        if not (pair and both_empty) and not (single and self.better is None and self.worse is None):
            raise ValueError("a test has either `better` and `worse`, or `response` and `flagged`")
        return self


class Principle(Part):
    """One principle: a critique with its revision, a comparison, or all three."""

    id: Identifier
    critique: Text | None = None
    """Asks what is wrong with the response (supervised stage)."""
    revision: Text | None = None
    """Asks to rewrite the response (supervised stage)."""
    comparison: Text | None = None
    """Asks which of two responses is better (feedback stage)."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How often it is drawn, relative to the others; its weight in an average of several."""
    tags: list[Identifier] = []
    description: str | None = None
    tests: list[PrincipleTest] = []

    @model_validator(mode="after")
    def _whole(self) -> Principle:
        if (self.critique is None) != (self.revision is None):
            present, missing = (
                ("critique", "revision") if self.revision is None else ("revision", "critique")
            )
            raise ValueError(f"`{present}` without `{missing}`: a supervised principle needs both")
        if self.critique is None and self.comparison is None:
            raise ValueError("a principle needs `critique` and `revision`, or `comparison`")
        return self

    @property
    def supervised_hash(self) -> str:
        """Names the text of the critique half."""
        return content_hash("supervised", self.critique, self.revision)

    @property
    def comparison_hash(self) -> str:
        """Names the text of the comparison half."""
        return content_hash("comparison", self.comparison)


class CritiqueExample(Part):
    """A worked example of critique and revision, shown before the real one."""

    messages: Annotated[Conversation, Field(min_length=1)]
    """The conversation up to the user's last turn."""
    response: Text
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text


class ComparisonExample(Part):
    """A worked example of a comparison; its principle is drawn anew each time."""

    messages: Annotated[Conversation, Field(min_length=1)]
    responses: tuple[Text, Text]
    answer: Literal["A", "B"]
    reasoning: Text | None = None
    """The chain of thought, for feedback with reasoning."""


class FewShot(Part):
    """Examples that show base models the format and the point of view."""

    critique: list[CritiqueExample] = []
    comparison: list[ComparisonExample] = []


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
