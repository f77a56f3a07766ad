"""Samplers of PPO: they get token requests and return samples of the current policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cai.engines.decode import DecodeLoop, TokenCompletion, TokenRequest
from cai.ppo.sharding import copy_whole

if TYPE_CHECKING:
    from cai.ppo.learner import Learner


class Sampler(Protocol):
    """Samples from the policy of a learner as it is at the moment of the call.

    It must sample from the full softmax of logits divided by the temperature, and return the log-
    probabilities of that distribution; the update differentiates all of it. An engine with weights
    of its own takes over the learner's (`Learner.plain_weights`) before it samples.
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
    loop = DecodeLoop(
        learner.replica or learner.policy,
        stop_ids=learner.chat.stop_ids,
        max_batch_tokens=learner.max_batch_tokens,
    )
    if not requests:
        return []
    learner.act_as("policy")
    with learner.autocast():
        return loop.run(requests)
