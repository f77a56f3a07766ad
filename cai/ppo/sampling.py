"""Samplers of PPO: they get token requests and return samples of the current policy.

vLLM samples much faster than the trainer can, with a copy of the weights and its own arithmetic. So
PPO learns from the trainer's log-probabilities, and vLLM's show whether the copy is right (fact 23,
tests/on_vllm/).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cai.engines.decode import TokenCompletion, TokenRequest
from cai.engines.plain import loop_for
from cai.errors import CaiError
from cai.models.loading import model_folder
from cai.settings import ModelSettings
from cai.training.sharding import copy_whole

if TYPE_CHECKING:
    from cai.engines.vllm_sampler import VLLMSampler
    from cai.ppo.learner import Learner

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Nats by which the log-probabilities of sampled tokens may differ in the mean."""


class Sampler(Protocol):
    """Samples from a learner's policy as it is at the moment of the call.

    It must use the full softmax of logits divided by the temperature, and return the
    log-probabilities of that distribution; the update differentiates all of it.
    """

    def __call__(
        self, learner: Learner, requests: Sequence[TokenRequest]
    ) -> Sequence[TokenCompletion]:
        """Return one completion for each request, in order."""
        ...


def sample_here(learner: Learner, requests: Sequence[TokenRequest]) -> Sequence[TokenCompletion]:
    """Sample with the trainer's own weights, in this process; sharded ones are gathered first."""
    if learner.replica is not None:
        copy_whole(learner.policy, learner.replica)
    loop = loop_for(
        learner.replica or learner.policy,
        stop_ids=learner.chat.stop_ids,
        max_batch_tokens=learner.max_batch_tokens,
    )
    if not requests:
        return []
    learner.act_as("policy")
    with learner.autocast():
        return loop.run(requests)


class VLLMRollouts:
    """A `Sampler` with a vLLM of its own (`engine`), which is started by the first call."""

    def __init__(self, policy: ModelSettings | PreTrainedModel) -> None:
        """Take shape, tokenizer and `options` from settings; with a model, from the learner."""
        self.engine: VLLMSampler | None = None
        self._policy = policy

    def __call__(
        self, learner: Learner, requests: Sequence[TokenRequest]
    ) -> Sequence[TokenCompletion]:
        """Push the learner's weights unless vLLM has them, and sample."""
        from cai.engines.vllm_sampler import weights_fingerprint

        weights = learner.plain_weights()
        engine = self.engine = self.engine or self._start(learner, weights)
        if engine.fingerprint != weights_fingerprint(weights):
            engine.push(weights)
        return engine.run(requests)

    def close(self) -> None:
        """Stop vLLM."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def _start(self, learner: Learner, weights: dict[str, Tensor]) -> VLLMSampler:
        from cai.engines.vllm_sampler import VLLMSampler

        dtype = "float32" if learner.dtype == torch.float32 else "bfloat16"
        with ExitStack() as stack:
            if isinstance(self._policy, ModelSettings):
                settings, folder = self._policy, model_folder(self._policy)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                settings = ModelSettings(path=str(folder), engine="vllm")
                learner.policy.save_pretrained(folder, state_dict=weights)
                learner.chat.tokenizer.save_pretrained(folder)
            settings = settings.model_copy(update={"dtype": dtype, "adapter": None})
            return VLLMSampler(settings, folder, stop_ids=learner.chat.stop_ids)


def check_agreement(ours_BT: Tensor, theirs_BT: Tensor, mask_BT: Tensor) -> float:
    """Compare the trainer's log-probabilities of sampled tokens with those of another engine.

    Returns:
        The mean absolute difference, nats.

    Raises:
        CaiError: It is above `TOLERANCE`: the engine has other weights, or computes something else.
    """
    difference = float((ours_BT - theirs_BT)[mask_BT].abs().mean())
    dtype = torch.bfloat16 if torch.is_autocast_enabled(ours_BT.device.type) else torch.float32
    if not difference <= TOLERANCE[dtype]:
        raise CaiError(
            f"The engine that sampled the rollout disagrees with the policy by {difference:.4f} "
            "nats a token: its weights are stale, or its computation is wrong. Set "
            "`ppo.rollouts: transformers`, and report the model and the version of vLLM."
        )
    return difference
