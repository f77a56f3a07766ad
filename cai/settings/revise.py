"""`revise`: critique-revision chains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cai.settings.base import Fraction, Positive, SamplingSettings, Settings, StageSettings

Flaw = Literal[
    "copied", "echo", "describes", "dialogue", "off_topic", "language", "repetitive", "refusal"
]
"""What can be wrong with a critique or a revision; docs/revisions.md describes each."""


class RevisionGateSettings(Settings, frozen=True):
    """A bound that the revisions must meet before anything is trained on them."""

    flawed: Fraction = 0.5
    """The largest share of revisions with one of the `flaws`."""
    action: Literal["stop", "warn"] = "stop"
    """What happens when the bound is missed."""


class ReviseSettings(SamplingSettings, StageSettings, frozen=True):
    """Critique-revision chains (paper, section 3)."""

    rounds: Annotated[int, Field(ge=0)] = 4
    """Critique-revision pairs per red-team prompt; a principle is drawn for each."""
    helpful_samples: Positive = 1
    """Responses per helpful prompt, mixed into fine-tuning."""
    critique: bool = True
    """false: responses are revised without a critique (the paper's figure 7)."""
    asking: Literal["dialogue", "question"] = "dialogue"
    """Critiques and revisions are asked for as further turns of the conversation (the paper's way),
    or as one question that shows the conversation."""
    few_shot: Annotated[int, Field(ge=0)] = 5
    """Worked examples of the constitution that are shown, at most."""
    few_shot_order: Literal["file", "principle"] = "file"
    """`principle`: the examples of the drawn principle come first, which matters if fewer are shown
    than there are. `file`: all in the order of the constitution."""
    wrappers: Literal["strip", "drop", "keep"] = "strip"
    """Words about a revision ("Sure! Here is …", quotation marks) are not trained on (`strip`), the
    revision is left out (`drop`), or it is trained on as it is (`keep`)."""
    flaws: tuple[Flaw, ...] = (
        "copied",
        "echo",
        "describes",
        "dialogue",
        "off_topic",
        "language",
        "repetitive",
    )
    """The flaws that make a revision unfit for training. All flaws are counted and shown."""
    keep: Literal["sound", "all"] = "sound"
    """Which revisions are trained on: those without `flaws`, or all."""
    gate: RevisionGateSettings | None = None
    """Stop the run, or warn, if too many revisions have `flaws`."""
    concurrency: Positive = 256
    """Rows processed at the same time; changes speed and memory, not results."""
