"""`revise`: critique-revision chains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cai.settings.base import Positive, SamplingSettings, StageSettings


class ReviseSettings(SamplingSettings, StageSettings, frozen=True):
    """Critique-revision chains (paper, section 3)."""

    rounds: Annotated[int, Field(ge=0)] = 4
    """Critique-revision pairs per red-team prompt; a principle is drawn for each."""
    helpful_samples: Positive = 1
    """Responses per helpful prompt, mixed into fine-tuning."""
    critique: bool = True
    """false: responses are revised without a critique (the paper's figure 7)."""
    wrappers: Literal["strip", "drop", "keep"] = "strip"
    """Words about a revision ("Sure! Here is …", quotation marks) are not trained on (`strip`), the
    revision is left out (`drop`), or it is trained on as it is (`keep`)."""
    concurrency: Positive = 256
    """Rows processed at the same time; changes speed and memory, not results."""
