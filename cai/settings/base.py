"""What the sections are built from: bounded numbers, their base, how to sample."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel, frozen=True):
    """The base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class SamplingSettings(Settings, frozen=True):
    """How a stage samples."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Logits are divided by it; 0 is greedy. The paper samples at 1 throughout."""
    max_new_tokens: Positive = 256
    """The longest response, critique or revision, in tokens."""
