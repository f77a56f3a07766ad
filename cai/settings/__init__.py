"""Every setting of a pipeline file, typed, in one place. `docs/settings.md` is made from here.

Unknown keys are refused. A stage runs when its section is present in the file.
"""

from cai.settings.base import Settings, StageSettings
from cai.settings.compare import LABEL_POLICIES, CompareSettings, GateSettings, LabelPolicy
from cai.settings.evaluate import OWN_GRADER, EvaluateSettings
from cai.settings.models import ModelSettings, ServerSettings
from cai.settings.pipeline import PipelineSettings, ReportSettings
from cai.settings.ppo import GuardSettings, PPOSettings
from cai.settings.prompts import PromptsSettings, SourceSettings
from cai.settings.revise import ReviseSettings, RevisionGateSettings
from cai.settings.training import (
    ComparisonSettings,
    DpoSettings,
    HarmfulnessSettings,
    OptimizerSettings,
    PreferenceSettings,
    SftSettings,
)

__all__ = [
    "LABEL_POLICIES",
    "OWN_GRADER",
    "CompareSettings",
    "ComparisonSettings",
    "DpoSettings",
    "EvaluateSettings",
    "GateSettings",
    "GuardSettings",
    "HarmfulnessSettings",
    "LabelPolicy",
    "ModelSettings",
    "OptimizerSettings",
    "PPOSettings",
    "PipelineSettings",
    "PreferenceSettings",
    "PromptsSettings",
    "ReportSettings",
    "ReviseSettings",
    "RevisionGateSettings",
    "ServerSettings",
    "Settings",
    "SftSettings",
    "SourceSettings",
    "StageSettings",
]
