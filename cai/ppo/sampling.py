"""Who samples for PPO. Whatever does gets token requests and returns what the policy says now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cai.engines.decode import DecodeLoop, TokenCompletion, TokenRequest

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
    """Sample with the trainer's own weights, in this process."""
    loop = DecodeLoop(
        learner.policy,
        stop_ids=learner.chat.stop_ids,
        pad_id=learner.chat.pad_id,
        max_batch_tokens=learner.max_batch_tokens,
    )
    learner.act_as("policy")
    with learner.autocast():
        return loop.run(requests)
