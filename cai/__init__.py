"""Constitutional AI: from a YAML constitution to a harmless, helpful model.

The public names below load their modules on first use, so that `import cai` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.compare import FeedbackJudge as FeedbackJudge
    from cai.compare import Responder as Responder
    from cai.constitution import Constitution as Constitution
    from cai.constitution import load_constitution as load_constitution
    from cai.data.conversation import Message as Message
    from cai.data.conversation import Prompt as Prompt
    from cai.data.conversation import user as user
    from cai.engines import Engine as Engine
    from cai.engines import GenerateRequest as GenerateRequest
    from cai.engines import ScoreRequest as ScoreRequest
    from cai.engines.opening import open_engine as open_engine
    from cai.errors import CaiError as CaiError
    from cai.models.preference_model import PreferenceModel as PreferenceModel
    from cai.pipeline.context import Run as Run
    from cai.pipeline.load import load_pipeline as load_pipeline
    from cai.pipeline.runner import run_pipeline as run_pipeline
    from cai.ppo.train import PPO as PPO
    from cai.revise import Reviser as Reviser
    from cai.revise import single_prompt as single_prompt
    from cai.settings import CompareSettings as CompareSettings
    from cai.settings import ModelSettings as ModelSettings
    from cai.settings import ReviseSettings as ReviseSettings
    from cai.training.preference import train_preference as train_preference
    from cai.training.sft import train_sft as train_sft

__version__ = "0.1.0"

_PUBLIC = {
    "FeedbackJudge": "cai.compare",
    "Responder": "cai.compare",
    "Constitution": "cai.constitution",
    "load_constitution": "cai.constitution",
    "Message": "cai.data.conversation",
    "Prompt": "cai.data.conversation",
    "user": "cai.data.conversation",
    "Engine": "cai.engines",
    "GenerateRequest": "cai.engines",
    "ScoreRequest": "cai.engines",
    "open_engine": "cai.engines.opening",
    "CaiError": "cai.errors",
    "Run": "cai.pipeline.context",
    "load_pipeline": "cai.pipeline.load",
    "run_pipeline": "cai.pipeline.runner",
    "PPO": "cai.ppo.train",
    "Reviser": "cai.revise",
    "single_prompt": "cai.revise",
    "CompareSettings": "cai.settings",
    "ModelSettings": "cai.settings",
    "ReviseSettings": "cai.settings",
    "train_preference": "cai.training.preference",
    "PreferenceModel": "cai.models.preference_model",
    "train_sft": "cai.training.sft",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
