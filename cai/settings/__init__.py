"""Every setting of a pipeline file, typed, in one place. `docs/settings.md` is made from here.

Unknown keys are refused. A stage runs when its section is present in the file.
"""

from cai.settings.base import Settings as Settings
from cai.settings.base import StageSettings as StageSettings
from cai.settings.compare import LABEL_POLICIES as LABEL_POLICIES
from cai.settings.compare import CompareSettings as CompareSettings
from cai.settings.compare import GateSettings as GateSettings
from cai.settings.compare import LabelPolicy as LabelPolicy
from cai.settings.evaluate import OWN_GRADER as OWN_GRADER
from cai.settings.evaluate import EvaluateSettings as EvaluateSettings
from cai.settings.models import BestOfSettings as BestOfSettings
from cai.settings.models import ModelSettings as ModelSettings
from cai.settings.models import ServerSettings as ServerSettings
from cai.settings.pipeline import PipelineSettings as PipelineSettings
from cai.settings.pipeline import ReportSettings as ReportSettings
from cai.settings.ppo import GuardSettings as GuardSettings
from cai.settings.ppo import PPOSettings as PPOSettings
from cai.settings.prompts import PromptsSettings as PromptsSettings
from cai.settings.prompts import SourceSettings as SourceSettings
from cai.settings.revise import ReviseSettings as ReviseSettings
from cai.settings.revise import RevisionGateSettings as RevisionGateSettings
from cai.settings.reward import RewardSettings as RewardSettings
from cai.settings.samples import BestOfNSettings as BestOfNSettings
from cai.settings.samples import PairSettings as PairSettings
from cai.settings.samples import SampleSettings as SampleSettings
from cai.settings.samples import SelectSettings as SelectSettings
from cai.settings.training import ComparisonSettings as ComparisonSettings
from cai.settings.training import DemonstrationsSettings as DemonstrationsSettings
from cai.settings.training import DpoSettings as DpoSettings
from cai.settings.training import HarmfulnessSettings as HarmfulnessSettings
from cai.settings.training import KtoSettings as KtoSettings
from cai.settings.training import LogRatioSettings as LogRatioSettings
from cai.settings.training import OptimizerSettings as OptimizerSettings
from cai.settings.training import PolicySettings as PolicySettings
from cai.settings.training import PreferenceSettings as PreferenceSettings
from cai.settings.training import SftSettings as SftSettings
from cai.settings.training import VerifierSettings as VerifierSettings
