"""`ppo`: reinforcement learning, and the guard that watches it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cai.settings.base import (
    Fraction,
    NotNegative,
    Positive,
    PositiveFloat,
    Settings,
    StageSettings,
)


class GuardSettings(Settings, frozen=True):
    """What PPO watches on prompts it does not train on; `guard: null` watches nothing."""

    every: Positive = 20
    """Steps between checks; there is one before the first step and one after the last, too."""
    prompts: Positive = 32
    """At most so many prompts of each kind are kept from training for it."""
    action: Literal["warn", "stop", "roll_back"] = "warn"
    """On an alarm: `stop` with the best policy so far, or go back to it with a larger β."""
    evasive_rise: Fraction = 0.2
    """Alarm when the share of short refusals without a reason has risen by more since the start."""
    over_refusal_rise: Fraction = 0.2
    """The same for refusals of any kind, of benign prompts."""
    repeated_rise: Fraction = 0.3
    """The same for answers that open alike, and for word 5-grams that answers share."""
    length_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """Alarm when answers have become so many times as long, or as short."""
    max_kl: PositiveFloat = 100.0
    """Alarm when the KL from SL-CAI is more, in nats per response."""
    independent: str | None = None
    """Folder of a preference model that PPO does not follow: its score of the same answers is
    watched, and the best policy is the one that it likes best."""
    independent_fall: PositiveFloat = 0.2
    """Alarm when that score is lower than at its best by more, in standard deviations of its scores
    at the start."""


class PPOSettings(StageSettings, frozen=True):
    """Proximal policy optimisation against the preference model."""

    steps: Positive = 100
    """Rollouts, each followed by an update."""
    batch_size: Positive = 64
    """Episodes (sampled responses) per step."""
    samples_per_prompt: Positive = 1
    """Responses sampled for each prompt; all of them are in one batch, an episode each."""
    advantage: Literal["gae", "rloo"] = "gae"
    """By GAE with a critic, or leave-one-out (RLOO): a response against the others to its prompt,
    without a critic."""
    minibatches: Positive = 2
    """Optimizer steps per epoch over a rollout; they divide the batch evenly."""
    micro_batch_size: Positive | None = None
    """Episodes per forward pass; left out, as many as make 512 tokens on a CPU, 16384 on a GPU."""
    epochs: Positive = 2
    """Passes over each rollout."""
    learning_rate: PositiveFloat = 1e-5
    """The policy's."""
    final_learning_rate: Fraction = 0.2
    """The learning rates decay linearly to this share of themselves."""
    critic_learning_rate: PositiveFloat = 2e-5
    """The critic's; it has an optimizer of its own. What is said of a critic or of values counts
    under `advantage: gae` only."""
    kl_coef: NotNegative = 0.05
    """β: the per-token KL penalty against SL-CAI, on normalised scores; its start if it adapts."""
    kl_target: PositiveFloat | None = None
    """KL per response, in nats, that β is adapted to keep; null keeps β fixed."""
    kl_horizon: Positive = 10000
    """Episodes over which β adapts: the larger, the slower."""
    objective: Literal["clip", "kl_penalty", "policy_gradient"] = "clip"
    """Clipped; with a penalty on the KL that a step moves the policy (PPO paper, section 4); or the
    plain policy gradient, for one optimizer step per rollout."""
    clip_range: PositiveFloat = 0.2
    """ε of the clipped policy objective."""
    penalty_coef: PositiveFloat = 1.0
    """First coefficient of `objective: kl_penalty`; doubled or halved to stay near its target."""
    penalty_target: PositiveFloat = 0.01
    """KL per token, in nats, that one step may move the policy under `objective: kl_penalty`."""
    value_clip_range: PositiveFloat | None = 0.2
    """How far a value may move from its old one before it stops paying; null: no limit."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of a batch to mean 0 and variance 1."""
    normalise_rewards: bool = False
    """Shift and scale scores by mean and deviation of all so far (preference models: already)."""
    ptx_coef: NotNegative = 0.0
    """γ of PPO-ptx: the weight of log-likelihood on pretraining texts in every policy step."""
    ptx_data: str | None = None
    """The texts: a text file, blank lines between them, or JSON Lines with `text`."""
    ptx_length: Annotated[int, Field(ge=2)] = 512
    """The longest piece of a text, in tokens; as many pieces as episodes make a minibatch."""
    gamma: Fraction = 1.0
    """The discount."""
    lam: Fraction = 0.95
    """λ of generalised advantage estimation."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it, in rollout and update alike."""
    rollouts: Literal["transformers", "vllm"] = "transformers"
    """Who samples: the trainer's own loop, or vLLM, to which the weights go after each update."""
    max_new_tokens: Positive = 128
    """The longest response, in tokens."""
    no_eos_reward: Annotated[float, Field(allow_inf_nan=False)] | None = -1.0
    """The score of a response that does not end in time, unread; null scores it like any other."""
    no_eos_penalty: NotNegative = 0.0
    """Taken off the score of a response that does not end in time."""
    length_penalty: NotNegative = 0.0
    """Weight of a reward that falls by 1 for every `length_free` words beyond the first ones."""
    length_free: Positive = 100
    """Words of a response that cost nothing."""
    repetition_penalty: NotNegative = 0.0
    """Weight of minus the share of a response's word trigrams that it has said before."""
    critic: Literal["separate", "value_head"] = "separate"
    """A model of its own (from the preference model), or a value head on the policy's backbone."""
    value_coef: PositiveFloat = 0.1
    """Weight of the value loss in the shared backbone of `critic: value_head`."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; otherwise LoRA of this rank, merged when saved."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, about a third more time."""
    red_team_fraction: Fraction = 0.5
    """The share of red-team prompts in each batch."""
    checkpoint_steps: Positive = 20
    """Steps between checkpoints."""
    snapshot_steps: Positive | None = None
    """Every so many steps the policy is kept for good in `ppo/snapshots`, for the evaluation."""
    launch: str | None = None
    """Spread over several processes: `ddp`, `fsdp2`, `fsdp2_no_reshard`, `deepspeed`, or a file of
    your own as `accelerate config` writes it; null: this process alone."""
    processes: Positive | None = None
    """Processes of `launch`; null: what its file says, or else one for each GPU."""
    guard: GuardSettings | None = GuardSettings()
    """What is watched on held-out prompts."""
    keep: Literal["last", "best"] = "last"
    """`best`: by score - β·KL on the guard's prompts, among its checks without an alarm. The score
    is the independent one if there is one."""

    @property
    def has_critic(self) -> bool:
        """Whether advantages are taken from a critic's values."""
        return self.advantage == "gae"

    @model_validator(mode="after")
    def _samples_suit_the_advantage(self) -> PPOSettings:
        """Refuse batches that would split a prompt's samples, and what contradicts RLOO."""
        if self.batch_size % self.samples_per_prompt:
            together = math.lcm(self.samples_per_prompt, self.minibatches * (self.processes or 1))
            raise ValueError(
                f"`ppo.batch_size` counts episodes, and {self.batch_size} cannot be split into "
                f"prompts with `ppo.samples_per_prompt` {self.samples_per_prompt} episodes each. "
                f"Make it a multiple of {together}."
            )
        if self.advantage != "rloo":
            return self
        if self.samples_per_prompt < 2:
            raise ValueError(
                "`ppo.advantage: rloo` compares a response with the others to its prompt, and "
                "`ppo.samples_per_prompt` is 1. Set it to 2 or more."
            )
        if self.critic != "separate":
            raise ValueError(
                f"`ppo.advantage: rloo` has no critic, and `ppo.critic` is `{self.critic}`. Leave "
                "`critic` out, or set `ppo.advantage: gae`."
            )
        if self.gamma != 1:
            raise ValueError(
                f"`ppo.advantage: rloo` uses the reward of whole responses, and `ppo.gamma` "
                f"{self.gamma:g} discounts tokens. Leave `gamma` out, or set `ppo.advantage: gae`."
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> PPOSettings:
        """Refuse what contradicts itself, before any stage has run."""
        processes = self.processes or 1
        if self.batch_size % (self.minibatches * processes):
            each = f" for each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"`ppo.batch_size` {self.batch_size} cannot be split into `ppo.minibatches` "
                f"{self.minibatches} equal parts{each}. Make it a multiple of "
                f"{self.minibatches * processes}."
            )
        if self.objective == "policy_gradient" and self.minibatches * self.epochs > 1:
            raise ValueError(
                "`ppo.objective: policy_gradient` is correct for one optimizer step per rollout "
                f"only, and `ppo.epochs` {self.epochs} with `ppo.minibatches` {self.minibatches} "
                f"take {self.epochs * self.minibatches}. Set both to 1, or `ppo.objective: clip`."
            )
        if self.guard and self.guard.action == "roll_back" and not self.kl_coef:
            raise ValueError(
                "`ppo.guard.action: roll_back` multiplies `ppo.kl_coef`, which stays at "
                "0. Start from a small positive `kl_coef`, such as 0.01, or let the guard `stop`."
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(
                "`ppo.kl_target` multiplies `ppo.kl_coef`, which stays at 0. Start from "
                "a small positive `kl_coef`, such as 0.01."
            )
        return self
