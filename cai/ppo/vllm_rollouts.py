"""Rollouts on vLLM: weights go there after each update, and what it says is held to the trainer's.

It samples much faster than the trainer can. Its weights are a copy, and its arithmetic is its own:
so the log-probabilities that PPO learns from are always the trainer's, and those that vLLM gave
show whether the copy is true (fact 23, tests/on_vllm/).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from cai.engines.decode import TokenCompletion, TokenRequest
from cai.errors import CaiError
from cai.models.loading import model_folder
from cai.settings import ModelSettings

if TYPE_CHECKING:
    from cai.engines.vllm_sampler import VLLMSampler
    from cai.ppo.learner import Learner

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Nats by which the log-probabilities of sampled tokens may differ in the mean."""


class VLLMRollouts:
    """A `Sampler` with a vLLM of its own, which is started by the first call.

    Attributes:
        engine: vLLM; None before the first call.
    """

    def __init__(self, policy: ModelSettings | None) -> None:
        """Say where shape, tokenizer and engine `options` come from; None: from the learner."""
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
            if self._policy is not None:
                settings, folder = self._policy, model_folder(self._policy)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                settings = ModelSettings(path=str(folder), engine="vllm")
                learner.policy.save_pretrained(folder, state_dict=weights)
                cast("Any", learner.chat.tokenizer).save_pretrained(folder)
            settings = settings.model_copy(update={"dtype": dtype, "adapter": None})
            return VLLMSampler(settings, folder, stop_ids=learner.chat.stop_ids)


def check_agreement(ours_BT: Tensor, theirs_BT: Tensor, mask_BT: Tensor) -> float:
    """Compare the trainer's log-probabilities of sampled tokens with those of another engine.

    Args:
        ours_BT: The trainer's, in its own precision.
        theirs_BT: As they were sampled.
        mask_BT: Which are real.

    Returns:
        The mean absolute difference, nats.

    Raises:
        CaiError: It is so large that the engine has other weights, or computes something else.
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
