"""Policy optimisation for language models, on any reward (docs/ppo.md)."""

from cai.ppo.principles import PrincipleReward as PrincipleReward
from cai.ppo.rewards import LengthPenalty as LengthPenalty
from cai.ppo.rewards import RepetitionPenalty as RepetitionPenalty
from cai.ppo.step_log import progress_line as progress_line
from cai.ppo.train import PPO as PPO
from cai.settings import PPOSettings as PPOSettings
from cai.settings import RewardSettings as RewardSettings
