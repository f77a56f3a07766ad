"""What can be known to go wrong before any model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig

from cai.chat import ChatFormat
from cai.conversation import Message, Prompt
from cai.errors import CaiError
from cai.models import model_folder
from cai.settings import ModelSettings, PPOSettings

_PROBE = (
    Message(role="user", content="Who wrote “Emma”?\n\n1) Austen"),
    Message(role="assistant", content=" Jane Austen, in 1815."),
    Message(role="user", content="naïve?"),
)


def check_settings(settings: PPOSettings) -> None:
    """Raise a CaiError if the minibatches cannot be of equal size."""
    if settings.batch_size % settings.minibatches:
        raise CaiError(
            f"`ppo.batch_size` {settings.batch_size} does not divide into `ppo.minibatches` "
            f"{settings.minibatches} equal parts. Make the batch size a multiple of it."
        )


def check_same_tokens(policy: ChatFormat, preference: ChatFormat, preference_model: Path) -> None:
    """Raise a CaiError unless both models write a conversation as the same ids.

    The preference model scores the sampled ids as they are, so an id must mean the same to both.
    """
    ours, theirs = cast("Any", policy.tokenizer), cast("Any", preference.tokenizer)
    if ours.get_vocab() != theirs.get_vocab():
        difference = "vocabularies differ"
    elif ours.chat_template != theirs.chat_template:
        difference = "chat templates differ"
    elif policy.prompt_ids(Prompt(_PROBE)) != preference.prompt_ids(Prompt(_PROBE)):
        difference = "tokenizers split a text differently"
    else:
        return
    raise CaiError(
        f"The policy and the preference model in {preference_model} cannot be used together: their "
        f"{difference}. Train the preference model from the same model as the policy."
    )


def shared_context(*models: ModelSettings) -> int:
    """Return how many tokens all of the models can read."""
    configs = [AutoConfig.from_pretrained(model_folder(model)) for model in models]
    return min(config.get_text_config().max_position_embeddings for config in configs)
