"""The whole pipeline file, and its `report` section."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from cai.settings.base import Positive, Settings
from cai.settings.compare import CompareSettings
from cai.settings.evaluate import EvaluateSettings
from cai.settings.models import ModelsSettings
from cai.settings.ppo import PPOSettings
from cai.settings.prompts import PromptsSettings
from cai.settings.revise import ReviseSettings
from cai.settings.training import HarmfulnessSettings, PreferenceSettings, SftSettings


class ReportSettings(Settings, frozen=True):
    """The page at the end."""

    rows: Positive = 10_000
    """The most rows of each sort (revisions, comparisons, answers) that the page carries."""


class PipelineSettings(Settings, frozen=True):
    """A whole pipeline file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The run folder is `runs/NAME` unless `--out` says otherwise."""
    seed: int = 0
    """Decides every draw: principles, samples, splits, the order of training."""
    constitution: str
    """A built-in name (`harmless`) or a file."""
    models: ModelsSettings
    """Which model plays which role."""
    prompts: PromptsSettings
    """Where prompts come from; this stage always runs."""
    revise: ReviseSettings | None = None
    """Critique-revision chains."""
    sft: SftSettings | None = None
    """Fine-tuning into SL-CAI."""
    compare: CompareSettings | None = None
    """Response pairs and AI feedback."""
    preference: PreferenceSettings | None = None
    """The preference model."""
    ppo: PPOSettings | None = None
    """Reinforcement learning into RL-CAI."""
    harmfulness: HarmfulnessSettings | None = None
    """A model that rates harm, for the evaluation."""
    evaluate: EvaluateSettings | None = None
    """Answers to held-out prompts, graded."""
    report: ReportSettings | None = None
    """The page at the end."""

    @classmethod
    def stage_names(cls) -> tuple[str, ...]:
        """Return the stages in the method's order: `prompts`, then the sections of the others."""
        others = [name for name, field in cls.model_fields.items() if field.default is None]
        return ("prompts", *others)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this pipeline, in the method's order."""
        return tuple(name for name in self.stage_names() if getattr(self, name) is not None)

    @property
    def revise_or_default(self) -> ReviseSettings:
        """How chains are made, also where nobody says so."""
        return self.revise or ReviseSettings()

    @property
    def compare_or_default(self) -> CompareSettings:
        """How comparisons are made, also where nobody says so."""
        return self.compare or CompareSettings()

    @model_validator(mode="after")
    def _trained_models_are_here(self) -> PipelineSettings:
        """Refuse to train a model behind a server."""
        models = self.models
        base = models.base or models.helpful
        policy = base if self.sft else models.helpful
        trained = ([policy] if self.sft or self.preference or self.ppo else []) + (
            [base] if self.harmfulness else []
        )
        if any(model.engine == "openai" for model in trained):
            raise ValueError(
                "a model behind a server cannot be trained: name a model folder as `models.base` "
                "(with `sft:` or `harmfulness:`) or as `models.helpful`"
            )
        return self
