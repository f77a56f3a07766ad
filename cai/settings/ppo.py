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
from cai.settings.reward import RewardSettings


class GuardSettings(Settings, frozen=True):
    """Checks of PPO on prompts that it does not train on; `guard: null` turns them off."""

    every: Positive = 20
    """Steps between checks; there is also a check before the first step and after the last."""
    prompts: Positive = 32
    """The largest number of prompts of each kind that are kept from training for the guard."""
    action: Literal["warn", "stop", "roll_back"] = "warn"
    """On an alarm: `warn`, `stop` with the best policy so far, or return to it with a larger β."""
    evasive_rise: Fraction = 0.2
    """Alarm if the share of short refusals without a reason has risen by more since the start."""
    over_refusal_rise: Fraction = 0.2
    """The same for all refusals of benign prompts."""
    repeated_rise: Fraction = 0.3
    """The same for responses with equal openings, and for word 5-grams that responses share."""
    length_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """Alarm if responses have become longer or shorter by more than this factor."""
    max_kl: PositiveFloat = 100.0
    """Alarm if the KL from SL-CAI is larger, in nats per response."""
    independent: str | None = None
    """Folder of a preference model that PPO does not train on. Its score of the same responses is
    checked, and the best policy is chosen by it."""
    independent_fall: PositiveFloat = 0.2
    """Alarm if that score falls by more than this from its best value, in standard deviations of
    its scores at the start."""


COMPARING = ("rloo", "grpo", "dr_grpo", "online_dpo")
"""The values of `ppo.advantage` that compare the samples of a prompt with each other."""
MOST_RANKED = 9
"""Responses in one question."""


class PPOSettings(StageSettings, frozen=True):
    """Policy optimisation against the preference model: PPO, RLOO, GRPO, REINFORCE, online DPO."""

    reward: RewardSettings | None = None
    """The constitution's principles as the reward; null: the preference model alone."""
    max_left_out: Fraction = 0.5
    """The run stops if more than this share of a step's episodes gets no score. They are left out
    of the update and counted (`reward/left_out`)."""
    steps: Positive = 100
    """The number of rollouts, each followed by an update."""
    batch_size: Positive = 64
    """Episodes (sampled responses) per step."""
    samples_per_prompt: Positive = 1
    """Responses sampled for each prompt; all of them are in one batch, an episode each."""
    advantage: Literal["gae", "rloo", "grpo", "dr_grpo", "reinforce", "online_dpo"] = "gae"
    """GAE with a critic; or without one: a response is compared with the others to its prompt
    (`rloo`, `grpo`, `dr_grpo`, pairs for `online_dpo`) or with the whole batch (`reinforce`)."""
    minibatches: Positive = 2
    """Optimizer steps per epoch over a rollout; the batch is split into as many equal parts."""
    micro_batch_size: Positive | None = None
    """Episodes per forward pass; by default as many as fit 512 tokens on a CPU, 16384 on a GPU."""
    epochs: Positive = 2
    """Passes over each rollout."""
    learning_rate: PositiveFloat = 1e-5
    """The learning rate of the policy."""
    final_learning_rate: Fraction = 0.2
    """The learning rates fall linearly to this share of their first value."""
    critic_learning_rate: PositiveFloat = 2e-5
    """The learning rate of the critic, which has its own optimizer. Settings of the critic and of
    values are used with `advantage: gae` only."""
    kl_coef: NotNegative = 0.05
    """β: the per-token KL penalty against SL-CAI, on normalised scores; if β adapts, its start."""
    kl_target: PositiveFloat | None = None
    """The target KL per response, in nats, to which β adapts; null: β is constant."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL penalty is: in the reward of each token, or a term of the loss with a gradient
    of its own (as in GRPO). `online_dpo` has it in neither: `kl_coef` is the β of its pairs."""
    kl_horizon: Positive = 10000
    """Episodes over which β adapts; larger is slower."""
    objective: Literal["clip", "kl_penalty", "policy_gradient"] = "clip"
    """Clipped; with a penalty on the KL from the policy before the step (PPO paper, section 4); or
    the plain policy gradient, for one optimizer step per rollout."""
    loss_average: Literal["tokens", "responses", "response_sums"] = "tokens"
    """The policy loss of a minibatch: the mean over its tokens; over its responses of the mean over
    their tokens (GRPO); or over its responses of the sum over their tokens (RLOO, online DPO)."""
    clip_range: PositiveFloat = 0.2
    """ε of the clipped policy objective."""
    penalty_coef: PositiveFloat = 1.0
    """The first coefficient of `objective: kl_penalty`; doubled or halved to reach the target."""
    penalty_target: PositiveFloat = 0.01
    """The target KL per token of one step, in nats, for `objective: kl_penalty`."""
    value_clip_range: PositiveFloat | None = 0.2
    """The clip range of values around the old ones in the value loss; null: no clipping."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of a batch to mean 0 and variance 1."""
    normalise_rewards: bool = False
    """Shift and scale scores by the mean and deviation of all so far (preference models already do
    so)."""
    ptx_coef: NotNegative = 0.0
    """γ of PPO-ptx: the weight of log-likelihood on pretraining texts in every policy step."""
    ptx_data: str | None = None
    """The pretraining texts: a text file, separated by blank lines, or JSON Lines with `text`."""
    ptx_length: Annotated[int, Field(ge=2)] = 512
    """The longest piece of a text, in tokens; a minibatch has as many pieces as episodes."""
    gamma: Fraction = 1.0
    """The discount factor γ of rewards."""
    lam: Fraction = 0.95
    """λ of generalised advantage estimation."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it, in the rollout and in the update."""
    rollouts: Literal["transformers", "vllm"] = "transformers"
    """What samples: the trainer's own loop, or vLLM, which gets the weights after each update."""
    max_new_tokens: Positive = 128
    """The longest response, in tokens."""
    no_eos_reward: Annotated[float, Field(allow_inf_nan=False)] | None = -1.0
    """The fixed score of a response cut off by the token limit; null: it is scored as usual."""
    no_eos_penalty: NotNegative = 0.0
    """Subtracted from the score of a response cut off by the token limit."""
    length_penalty: NotNegative = 0.0
    """Weight of a reward that falls by 1 for every `length_free` words after the first ones."""
    length_free: Positive = 100
    """The words of a response without a length penalty."""
    repetition_penalty: NotNegative = 0.0
    """Weight of a penalty: the share of a response's word trigrams that are repeated."""
    critic: Literal["separate", "value_head"] = "separate"
    """A separate model (from the preference model), or a value head on the policy's backbone."""
    value_coef: PositiveFloat = 0.1
    """Weight of the value loss in the shared backbone of `critic: value_head`."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; otherwise LoRA of this rank, merged when saved."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, about a third more time."""
    red_team_fraction: Fraction = 0.5
    """The share of red-team prompts in each batch."""
    checkpoint_steps: Positive = 20
    """Steps between checkpoints."""
    snapshot_steps: Positive | None = None
    """Steps between the policies kept in `ppo/snapshots` for the evaluation; null: none."""
    launch: str | None = None
    """Train with several processes: `ddp`, `fsdp2`, `fsdp2_no_reshard`, `deepspeed`, or your own
    file from `accelerate config`; null: this process only."""
    processes: Positive | None = None
    """Processes of `launch`; null: the number in its file, or one for each GPU."""
    guard: GuardSettings | None = GuardSettings()
    """Checks on held-out prompts."""
    keep: Literal["last", "best"] = "last"
    """The policy to keep. `best` is the highest score - β·KL on the guard's prompts, among its
    checks without an alarm. The score is the independent one if there is one."""

    @property
    def has_critic(self) -> bool:
        """Whether advantages are taken from a critic's values."""
        return self.advantage == "gae"

    @property
    def samples_compared(self) -> int:
        """How many samples of a prompt are compared with each other; 1 if they are not."""
        return self.samples_per_prompt if self.advantage in COMPARING else 1

    @model_validator(mode="after")
    def _samples_suit_the_advantage(self) -> PPOSettings:
        """Refuse batches that split the samples of a prompt, and settings without a critic's."""
        name = f"`ppo.advantage: {self.advantage}`"
        if self.batch_size % self.samples_per_prompt:
            together = math.lcm(self.samples_per_prompt, self.minibatches * (self.processes or 1))
            raise ValueError(
                f"`ppo.batch_size` counts episodes, and {self.batch_size} cannot be split into "
                f"prompts with `ppo.samples_per_prompt` {self.samples_per_prompt} episodes each. "
                f"Make it a multiple of {together}."
            )
        if self.advantage in COMPARING and self.samples_per_prompt < 2:
            raise ValueError(
                f"{name} compares a response with the others to its prompt, and "
                "`ppo.samples_per_prompt` is 1. Set it to 2 or more."
            )
        if self.has_critic:
            return self
        if self.critic != "separate":
            raise ValueError(
                f"{name} has no critic, and `ppo.critic` is `{self.critic}`. Leave "
                "`critic` out, or set `ppo.advantage: gae`."
            )
        if self.gamma != 1:
            raise ValueError(
                f"{name} uses the reward of whole responses, and `ppo.gamma` "
                f"{self.gamma:g} discounts tokens. Leave `gamma` out, or set `ppo.advantage: gae`."
            )
        return self

    @model_validator(mode="after")
    def _pairs_of_online_dpo(self) -> PPOSettings:
        """Refuse settings under which online DPO would not have the gradient of DPO."""
        if self.advantage != "online_dpo":
            return self
        wanted: dict[str, object] = {
            "loss_average": "response_sums",
            "whiten_advantages": False,
            "kl_in": "reward",
            "normalise_rewards": False,
            "minibatches": 1,
            "epochs": 1,
        }
        wrong = [key for key, value in wanted.items() if getattr(self, key) != value]
        if wrong:
            fixed = ", ".join(f"{key}: {str(wanted[key]).lower()}" for key in wrong)
            raise ValueError(
                "`ppo.advantage: online_dpo` has the gradient of DPO's loss only with one "
                "optimizer step per rollout, sums over responses, and advantages, scores and KL as "
                f"they are. Set `ppo: {{{fixed}}}`."
            )
        if not self.kl_coef:
            raise ValueError(
                "`ppo.kl_coef` is β of `ppo.advantage: online_dpo`, and 0 leaves no loss. Set it "
                "to a positive number, such as 0.1."
            )
        return self

    @model_validator(mode="after")
    def _reward_fits(self) -> PPOSettings:
        """Refuse rewards that need other samples, or a guard."""
        reward = self.reward
        if reward is None:
            return self
        if reward.compares and self.samples_per_prompt < 2:
            raise ValueError(
                f"`ppo.reward.form: {reward.form}` compares the samples of a prompt, and "
                "`ppo.samples_per_prompt` is 1. Set it to 2 or more, or use `form: rating`."
            )
        if reward.form == "ranking" and self.samples_per_prompt > MOST_RANKED:
            raise ValueError(
                f"`ppo.reward.form: ranking` shows at most {MOST_RANKED} responses at once, and "
                f"`ppo.samples_per_prompt` is {self.samples_per_prompt}. Use `form: comparison`."
            )
        if reward.held_out and (self.guard is None or self.guard.independent is not None):
            raise ValueError(
                "`ppo.reward.held_out` is the independent score of the guard. Leave out "
                "`ppo.guard: null` and `ppo.guard.independent`, or `held_out`."
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> PPOSettings:
        """Refuse settings that contradict each other, before any stage runs."""
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
