"""The building blocks of the sections: bounded numbers, the base class, sampling settings."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from cai.errors import CaiError
from cai.settings.wording import first_in_words, in_words, is_sentence

Positive = Annotated[int, Field(gt=0, le=2**63 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel, frozen=True):
    """The base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def several(value: Any) -> Any:  # noqa: ANN401
    """Accept one name for a list of them."""
    return (value,) if isinstance(value, str) else value


class StageSettings(Settings, frozen=True):
    """The section of a stage; `stage` and `from` define its place in the pipeline."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    stage: str | None = None
    """The stage, if the section's name is not the name of a stage."""
    start: Annotated[tuple[str, ...], BeforeValidator(several)] = Field(default=(), alias="from")
    """The names of the inputs that the stage reads instead of the default ones."""

    def checked(self, **changes: Any) -> Self:  # noqa: ANN401
        """Return these settings with some changed, all of them validated (copies never were).

        Raises:
            CaiError: They contradict each other.
        """
        try:
            return type(self).model_validate({**self.model_dump(), **changes})
        except ValidationError as problem:
            details = problem.errors(include_url=False)[0]
            said = in_words(details) if is_sentence(details) else first_in_words(problem)
            raise CaiError(said) from None

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write `stage` and `from` as in a pipeline file, and leave them out if unset."""
        values = write(self)
        stage, start = (
            values.pop("stage", None),
            values.pop("start", None) or values.pop("from", None),
        )
        placed = {"stage": stage, "from": list(start) if start else None}
        return {**{key: value for key, value in placed.items() if value}, **values}


class SamplingSettings(Settings, frozen=True):
    """How a stage samples, and when it gives up."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Logits are divided by it; 0 is greedy. The paper always samples at 1."""
    max_new_tokens: Positive = 256
    """The longest response, critique or revision, in tokens."""
    max_state_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The stage stops if more than this share of its rows (at least 20) end in one state other than
    `ok` and `tie`; 1: never."""

    @property
    def sampling(self) -> dict[str, float | int | str]:
        """The settings above by name, as rows keep them."""
        return {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
