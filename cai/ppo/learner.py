"""The models of a PPO run: trained and frozen ones, and their forward passes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.ppo.adapters import Adapted
from cai.ppo.control import Control
from cai.ppo.forward import Critic, check_output_head, recompute_layers
from cai.ppo.math import linear_decay
from cai.ppo.optimizers import Optimizer, optimizer_for
from cai.ppo.prompts import PromptFormat
from cai.ppo.sampling import Sampler, sample_here
from cai.settings import PPOSettings
from cai.training.lora import AdapterWeights
from cai.training.processes import ALONE, Processes
from cai.training.sharding import shard, whole

Role = Literal["policy", "reference", "critic", "preference"]


@dataclass
class Learner:
    """Policy and critic (if there is one) with their optimizers, and the frozen reference.

    All are in eval mode, also in training: PPO's ratios compare two forward passes of one policy,
    which must not differ by dropout. With LoRA, policy and reference are one model, perhaps with
    critic and preference model; `act_as` must be called before each forward pass to choose the
    adapter.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel
    critic: Critic | None
    """None where advantages need no values (`PPOSettings.has_critic`)."""
    policy_optimizer: Optimizer
    """With `critic: value_head` it trains the critic's backbone too."""
    critic_optimizer: Optimizer | None
    control: Control
    chat: PromptFormat
    dtype: torch.dtype
    """Of forward passes: bfloat16 by autocast. Trained weights are always float32."""
    max_batch_tokens: int
    adapters: dict[Role, tuple[Adapted, str | None]]
    """Whose adapter each role uses on which base; empty without LoRA."""
    processes: Processes = ALONE
    sampler: Sampler = sample_here
    replica: PreTrainedModel | None = None
    """Where a sharded policy's weights are gathered for sampling, in the precision of `dtype`."""

    @classmethod
    def start(
        cls,
        policy: PreTrainedModel,
        critic_backbone: nn.Module | None,
        chat: PromptFormat,
        settings: PPOSettings,
        *,
        dtype: torch.dtype = torch.float32,
        max_batch_tokens: int = 16384,
        preference_adapter: AdapterWeights | None = None,
        processes: Processes = ALONE,
        seed: int = 0,
    ) -> Self:
        """Begin a run: the reference is the policy as it is now, the critic's head is zero.

        Args:
            policy: SL-CAI, float32 unless LoRA freezes it; trained in place.
            critic_backbone: The preference model's backbone, from which the critic starts; trained
                in place, or with LoRA frozen under the critic's adapter. None: the policy's.
            chat: The tokenizer, stop ids and pad id of all models.
            settings: Which parts are trained, and how.
            dtype: float32, or bfloat16 for autocast.
            max_batch_tokens: Tokens that sampling keeps in flight.
            preference_adapter: A preference model that is an adapter of this policy; the critic
                starts from it.
            processes: The processes that share the work.
            seed: Of new adapters.

        Raises:
            CaiError: The policy's output head is not supported, see `check_output_head`.
        """
        policy.eval()
        check_output_head(policy)
        adapters: dict[Role, tuple[Adapted, str | None]] = {}
        own = cast("nn.Module", cast("Any", policy).base_model)
        if settings.lora_rank:
            reference = policy
            trunk, adapters = _adapted(
                policy, critic_backbone, settings, preference_adapter, seed=seed
            )
        else:
            policy.requires_grad_(True)
            reference = copy.deepcopy(policy).requires_grad_(False)
            trunk = _trunk(own, critic_backbone, settings)
        critic = None if trunk is None else Critic(trunk).to(policy.device).eval()
        if settings.gradient_checkpointing:
            for model in {own, own if trunk is None else trunk}:
                recompute_layers(model)
        replica = None
        if processes.sharded:
            frozen = cast("nn.Module", copy.deepcopy(policy).requires_grad_(False))
            replica = cast("PreTrainedModel", frozen.to(dtype))
            for model in (policy, reference, *([] if critic is None else [critic])):
                shard(model, reshard=processes.reshard)
        policy_weights, critic_weights = _trained_parameters(policy, critic, adapters)
        return cls(
            policy=policy,
            reference=reference,
            critic=critic,
            policy_optimizer=optimizer_for(policy_weights, settings.learning_rate, processes),
            critic_optimizer=None
            if critic is None
            else optimizer_for(critic_weights, settings.critic_learning_rate, processes),
            control=Control.start(settings),
            chat=chat,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
            adapters=adapters,
            processes=processes,
            replica=replica,
        )

    def act_as(self, role: Role) -> None:
        """Switch to the adapter of a role, if there are adapters."""
        if role in self.adapters:
            base, name = self.adapters[role]
            base.use(name)

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the policy's weights, gathered, with its adapter merged."""
        if "policy" not in self.adapters:
            return {name: whole(w) for name, w in self.policy.state_dict().items()}
        base, name = self.adapters["policy"]
        return base.merged(cast("str", name))

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
        """Set the learning rates for a step (from 0) and return their share of the first."""
        share = linear_decay(step, settings.steps, settings.final_learning_rate)
        self.policy_optimizer.set_learning_rate(share * settings.learning_rate)
        if self.critic_optimizer is not None:
            self.critic_optimizer.set_learning_rate(share * settings.critic_learning_rate)
        return share

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes. Draws are hashed, so there is no generator.

        All processes must call this; sharded parts are gathered in the main process only.
        """
        state: dict[str, Any] = {"control": self.control.state_dict()}
        for name, optimizer in self.optimizers.items():
            state[name], state[f"{name}_moments"] = optimizer.weights(), optimizer.moments()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`, also of another number of processes."""
        self.control.load_state_dict(state["control"])
        for name, optimizer in self.optimizers.items():
            optimizer.load(state[name], state[f"{name}_moments"])

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer of the policy, and of the critic if there is one, by these names."""
        both = {"policy": self.policy_optimizer, "critic": self.critic_optimizer}
        return {name: optimizer for name, optimizer in both.items() if optimizer is not None}


def _trunk(
    own: nn.Module, critic_backbone: nn.Module | None, settings: PPOSettings
) -> nn.Module | None:
    """Return the critic's backbone where all weights are trained; None without a critic."""
    if not settings.has_critic:
        return None
    if settings.critic == "value_head":
        return own
    return copy.deepcopy(own) if critic_backbone is None else critic_backbone


def _adapted(
    policy: PreTrainedModel,
    critic_backbone: nn.Module | None,
    settings: PPOSettings,
    preference: AdapterWeights | None,
    *,
    seed: int,
) -> tuple[nn.Module | None, dict[Role, tuple[Adapted, str | None]]]:
    """Freeze the bases under adapters; return the critic's backbone, and the adapter by role."""
    base = Adapted(policy, seed=seed)
    base.add("policy", rank=settings.lora_rank)
    roles: dict[Role, tuple[Adapted, str | None]] = {
        "policy": (base, "policy"),
        "reference": (base, None),
    }
    if preference is not None:
        base.add("preference", rank=preference.rank, weights=preference.matrices)
        roles["preference"] = (base, "preference")
    if not settings.has_critic:
        return None, roles
    if settings.critic == "value_head":
        roles["critic"] = (base, "policy")
        return base.backbone, roles
    if critic_backbone is None:
        rank, weights = settings.lora_rank, None
        if preference is not None:
            rank, weights = preference.rank, preference.matrices
        base.add("critic", rank=rank, weights=weights)
        roles["critic"] = (base, "critic")
        return base.backbone, roles
    other = Adapted(critic_backbone, seed=seed)
    other.add("critic", rank=settings.lora_rank)
    roles |= {"critic": (other, "critic"), "preference": (other, None)}
    return critic_backbone, roles


def _trained_parameters(
    policy: PreTrainedModel,
    critic: Critic | None,
    adapters: Mapping[Role, tuple[Adapted, str | None]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the weights of each optimizer; a shared backbone is trained by the policy's."""

    def of(role: Role, model: nn.Module) -> list[nn.Parameter]:
        if role not in adapters:
            return list(model.parameters())
        base, name = adapters[role]
        return base.parameters(cast("str", name))

    policy_parameters = of("policy", policy)
    if critic is None:
        return policy_parameters, []
    shared = {id(weight) for weight in policy_parameters}
    backbone = [w for w in of("critic", critic.backbone) if id(w) not in shared]
    return policy_parameters, [*backbone, *critic.value_head.parameters()]
