"""`revise`: critique-revision chains."""

from __future__ import annotations

from typing import Annotated

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
    concurrency: Positive = 256
    """Rows processed at the same time; changes speed and memory, not results."""
