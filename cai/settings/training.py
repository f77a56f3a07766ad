"""`sft`, `preference` and `harmfulness`: the stages that train on rows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cai.settings.base import Positive, PositiveFloat, StageSettings
from cai.settings.prompts import AnySources, SourceSettings


class OptimizerSettings(StageSettings, frozen=True):
    """Settings of every training stage."""

    learning_rate: PositiveFloat = 1e-5
    """The learning rate of AdamW, after a short warm-up."""
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate falls linearly to this share of its first value; 1: constant."""
    batch_size: Positive = 32
    """Sequences (or pairs) per optimizer step."""
    micro_batch_size: Positive | None = None
    """Sequences (or pairs) per forward pass; if left out, the whole batch of a process, on a CPU as
    many as keep 1 GiB for the backward pass. Changes memory, not results."""
    epochs: Positive = 1
    """Passes over the data."""
    max_length: Positive = 1024
    """Longer rows are left out of training and counted, never truncated."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; otherwise LoRA of this rank, merged when saved."""
    checkpoint_steps: Positive = 200
    """Optimizer steps between checkpoints; an interrupted training continues from the last one."""
    launch: str | None = None
    """Train with several processes: `ddp`, `fsdp2`, `fsdp2_no_reshard`, `deepspeed`, or your own
    file from `accelerate config`; null: this process only."""
    processes: Positive | None = None
    """Processes of `launch`; null: the number in its file, or one for each GPU."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse settings that contradict each other, before any stage runs."""
        processes, micro = self.processes or 1, self.micro_batch_size or 1
        if self.batch_size % (processes * micro):
            raise ValueError(
                f"`batch_size` {self.batch_size} cannot be split among {processes} processes in "
                f"micro-batches of {micro} (`micro_batch_size`). Make it a multiple of "
                f"{processes * micro}."
            )
        return self


class PolicySettings(OptimizerSettings, frozen=True):
    """Settings of every training on rows that makes a policy."""

    snapshot_steps: Positive | None = None
    """Optimizer steps between the policies kept in `STAGE/snapshots` for the evaluation; null:
    none."""


class SftSettings(PolicySettings, frozen=True):
    """Fine-tuning on the revisions (paper, section 3.2)."""

    helpful_ratio: Annotated[float, Field(ge=0)] = 1.0
    """Helpful samples per revision row, as far as there are enough."""


class DemonstrationsSettings(StageSettings, frozen=True):
    """Answers to imitate (behaviour cloning, instruction tuning)."""

    files: AnySources = Field(default=[])
    """Prompts with answers; without any, the better response of each comparison is imitated."""
    probability: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    """Only responses of comparisons that are better with a larger probability."""


class ComparisonSettings(OptimizerSettings, frozen=True):
    """Settings of every training on comparisons."""

    ai_weight: PositiveFloat = 1.0
    """The weight of an AI-labelled comparison in the loss."""
    human_weight: PositiveFloat = 1.0
    """The weight of a human (or simulated) helpfulness comparison in the loss."""


class PreferenceSettings(ComparisonSettings, frozen=True):
    """The preference model (paper, section 4.2)."""


class LogRatioSettings(ComparisonSettings, frozen=True):
    """Settings of every training on the log-ratios of comparisons."""

    beta: PositiveFloat = 0.1
    """β: how much a nat of log-ratio against the start counts; smaller values move further."""
    loss: Literal["sigmoid", "ipo", "hinge", "apo_zero", "apo_down"] = "sigmoid"
    """DPO's own loss, or a variant of it; each row counts by its label's probability."""
    normalise_length: bool = False
    """Divide log-ratios by the tokens of the response; `ipo` always does."""

    @property
    def normalises_length(self) -> bool:
        """Whether log-ratios are means over tokens."""
        return self.normalise_length or self.loss == "ipo"


class DpoSettings(LogRatioSettings, PolicySettings, frozen=True):
    """Direct preference optimisation on the labels, without a preference model."""


class VerifierSettings(LogRatioSettings, frozen=True):
    """A policy trained by DPO, used as a preference model by its log-ratio to its start."""


class KtoSettings(PolicySettings, frozen=True):
    """KTO: a policy from single responses that are good or bad."""

    ratings: SourceSettings | None = None
    """Rated responses (docs/evaluate.md), from 0 (harmless) to 4; without any, the responses of
    the comparisons count as good with their labels' probabilities."""
    acceptable: Annotated[float, Field(ge=0, lt=4)] = 1.0
    """A rated response is good up to this rating."""
    beta: PositiveFloat = 0.1
    """β: how much a nat of log-ratio against the start counts; smaller values move further."""
    desirable_weight: PositiveFloat = 1.0
    """λ_D, the weight of good responses. Where they are rare, raise it so that both sorts weigh
    about the same."""
    undesirable_weight: PositiveFloat = 1.0
    """λ_U, the weight of bad responses."""


class HarmfulnessSettings(OptimizerSettings, frozen=True):
    """A regression head that rates harm from 0 to 4 (paper, section 4.5)."""

    ratings: SourceSettings
    """Rated conversations (docs/evaluate.md), or `playground:ratings`."""
