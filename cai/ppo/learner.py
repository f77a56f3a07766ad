"""What a PPO run trains, what it keeps frozen, and how it computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from cai.ppo.control import Control
from cai.ppo.forward import Critic, check_output_head
from cai.ppo.math import linear_decay
from cai.ppo.prompts import PromptFormat
from cai.settings import PPOSettings

ADAM_BETAS = (0.9, 0.95)
ADAM_EPSILON = 1e-8


@dataclass
class Learner:
    """Policy and critic with their optimizers, and the frozen reference.

    All in eval mode, training included: PPO's ratios compare two forward passes of one policy,
    which dropout would make differ (as it would policy and reference).
    """

    policy: PreTrainedModel
    reference: PreTrainedModel
    critic: Critic
    policy_optimizer: torch.optim.AdamW
    critic_optimizer: torch.optim.AdamW
    control: Control
    chat: PromptFormat
    dtype: torch.dtype
    """bfloat16 computes under autocast; weights and optimizers are float32 in any case."""
    max_batch_tokens: int

    @classmethod
    def start(
        cls,
        policy: PreTrainedModel,
        critic_backbone: nn.Module,
        chat: PromptFormat,
        settings: PPOSettings,
        *,
        dtype: torch.dtype = torch.float32,
        max_batch_tokens: int = 16384,
    ) -> Self:
        """Begin a run: the reference is a frozen copy of the policy, the critic's head is zero.

        Args:
            policy: SL-CAI in float32; trained in place.
            critic_backbone: The preference model's backbone in float32; trained in place.
            chat: The tokenizer, stop ids and pad id of all models.
            settings: Learning rates, and where coefficients start.
            dtype: float32, or bfloat16 for autocast.
            max_batch_tokens: Tokens that sampling keeps in flight.

        Raises:
            CaiError: The policy's architecture has an output head of its own kind.
        """
        policy.requires_grad_(True).eval()
        check_output_head(policy)
        reference = copy.deepcopy(policy).requires_grad_(False)
        critic = Critic(critic_backbone).to(policy.device).requires_grad_(True).eval()
        return cls(
            policy=policy,
            reference=reference,
            critic=critic,
            policy_optimizer=_adamw(policy, settings.learning_rate),
            critic_optimizer=_adamw(critic, settings.critic_learning_rate),
            control=Control.start(settings),
            chat=chat,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
        )

    @property
    def device(self) -> torch.device:
        """Where all models are."""
        return self.policy.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the precision that every forward pass runs in, sampling included."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def set_learning_rates(self, settings: PPOSettings, step: int) -> float:
        """Set both learning rates for a step (from 0) and return their share of the first."""
        share = linear_decay(step, settings.steps, settings.final_learning_rate)
        for optimizer, initial in (
            (self.policy_optimizer, settings.learning_rate),
            (self.critic_optimizer, settings.critic_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = initial * share
        return share

    def state_dict(self) -> dict[str, Any]:
        """Return all that training changes. There is no generator among it: draws are hashed."""
        return {name: part.state_dict() for name, part in self._trained().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, part in self._trained().items():
            part.load_state_dict(state[name])

    def _trained(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "critic": self.critic,
            "policy_optimizer": self.policy_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "control": self.control,
        }


def _adamw(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        lr=learning_rate,
        betas=ADAM_BETAS,
        eps=ADAM_EPSILON,
        weight_decay=0.0,
        fused=True,
    )
