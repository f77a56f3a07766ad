"""Checks before any model is loaded."""

from __future__ import annotations

from pathlib import Path

from cai.data.conversation import Message, Prompt
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.ppo.prompts import PromptFormat
from cai.settings import PPOSettings
from cai.training.processes import Processes

_PROBE = (
    Message(role="user", content="Who wrote “Emma”?\n\n1) Austen"),
    Message(role="assistant", content=" Jane Austen, in 1815."),
    Message(role="user", content="naïve?"),
)


def check_shares(settings: PPOSettings, processes: Processes) -> None:
    """Raise a CaiError if the processes cannot share the work evenly, or with these settings."""
    settings.checked(processes=processes.count)
    value_head = settings.critic == "value_head"
    if processes.sharded and (settings.lora_rank or value_head):
        raise CaiError(
            "FSDP2 needs a separate policy and critic, with all weights trained. Set "
            "`ppo.lora_rank: 0` and `ppo.critic: separate`, or launch with `ddp`."
        )
    if processes.deepspeed and value_head:
        raise CaiError(
            "DeepSpeed needs a separate policy and critic. Set `ppo.critic: separate`, or "
            "launch with `ddp`."
        )


def check_same_tokens(
    policy: PromptFormat, preference: ChatFormat, preference_model: object
) -> None:
    """Raise a CaiError unless both models write a conversation as the same ids.

    The preference model scores the sampled ids as they are, so an id must mean the same to both.
    """
    ours, theirs = policy.tokenizer, preference.tokenizer
    probe = Prompt(_PROBE)
    if ours.get_vocab() != theirs.get_vocab():
        difference = "vocabularies differ"
    elif not isinstance(policy, ChatFormat) or ours.chat_template != theirs.chat_template:
        difference = "chat templates differ"
    elif policy.prompt_ids(probe) != preference.prompt_ids(probe):
        difference = "tokenizers split a text differently"
    else:
        return
    name = f" in {preference_model}" if isinstance(preference_model, Path) else ""
    raise CaiError(
        f"The policy and the preference model{name} cannot be used together: their "
        f"{difference}. Train the preference model from the same model as the policy."
    )
