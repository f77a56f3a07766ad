"""A policy as a preference model: its log-ratio to the policy that it was trained from.

Training by DPO makes β (log π(y|x) - log π_ref(y|x)) a reward whose differences are log-odds that
one response is the better one (Rafailov et al. 2023, equation 5). V-STaR ranks samples by such a
verifier (Hosseini et al. 2024, arXiv 2402.06457).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from cai.data.conversation import Conversation, Prompt
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import (
    PLAYGROUND,
    load_causal_lm,
    load_chat_format,
    model_folder,
    resolve_model,
)
from cai.models.preference_model import MICRO_BATCH, PreferenceModel, pad_right
from cai.settings import ModelSettings

FILE = "implicit_reward.json"
"""In the folder of the policy: β, and the settings of the reference."""


class ImplicitReward:
    """Scores whole conversations in nats, as `PreferenceModel` does; higher is better.

    Differences of scores are log-odds, so `std`, which turns scores into nats, is 1.
    """

    std = 1.0

    def __init__(
        self, policy: PreTrainedModel, reference: PreTrainedModel, chat: ChatFormat, beta: float
    ) -> None:
        """Take both models, in eval mode and on one device, and β."""
        self.chat = chat
        self._models = (policy, reference)
        self._beta = beta

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what a stage `verifier` has saved.

        Raises:
            CaiError: The folder, or that of the reference, is unusable.
        """
        settings = ModelSettings(path=str(path))
        folder = model_folder(settings)
        file = folder / FILE
        try:
            said = json.loads(file.read_text("utf-8"))
            start, beta = ModelSettings.model_validate(said["reference"]), float(said["beta"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise CaiError(
                f"{file} is damaged ({type(error).__name__}). Run the stage `verifier` again."
            ) from error
        beside = folder / start.path
        if beside.is_dir():
            start = start.model_copy(update={"path": str(beside)})
        reference = load_causal_lm(start)
        return cls(load_causal_lm(settings), reference, load_chat_format(settings), beta)

    @property
    def context(self) -> int:
        """The longest conversation that it can score, in tokens."""
        return min(model.config.get_text_config().max_position_embeddings for model in self._models)

    def ids(self, messages: Conversation, response: str) -> list[int]:
        """Return the tokens of a conversation and the response that ends it, turn end included."""
        return [*self.chat.prompt_ids(Prompt(messages)), *self.chat.completion_ids(response)]

    @torch.no_grad()
    def score(
        self, items: Sequence[tuple[Conversation, str]], micro_batch_size: int | None = None
    ) -> list[float]:
        """Return the scores of responses, in nats and in the order of the items.

        See `PreferenceModel.score` for the arguments.

        Raises:
            CaiError: One is longer than the models' context.
        """
        prompts = [self.chat.prompt_ids(Prompt(messages)) for messages, _ in items]
        answers = [self.chat.completion_ids(response) for _, response in items]
        sequences = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max(map(len, sequences), default=0)
        if longest > self.context:
            raise CaiError(
                f"A conversation of {longest} tokens does not fit the verifier's context of "
                f"{self.context}. Leave it out, or train one with a longer context."
            )
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        scores = torch.empty(len(sequences))
        device = self._models[0].device
        size = micro_batch_size or MICRO_BATCH.get(device.type, MICRO_BATCH["cuda"])
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            ids, mask = pad_right([sequences[index] for index in batch], self.chat.pad_id)
            response = mask.bool() & (
                torch.arange(ids.shape[1])
                >= torch.tensor([len(prompts[i]) for i in batch])[:, None]
            )
            inputs = (ids.to(device), mask.to(device), response.to(device))
            policy, reference = (_log_likelihoods(model, *inputs) for model in self._models)
            scores[batch] = (self._beta * (policy - reference)).cpu()
        return scores.tolist()


def load_scorer(path: str | Path) -> PreferenceModel | ImplicitReward:
    """Load a model that scores responses: a preference model, or a verifier.

    Raises:
        CaiError: The folder is unusable, or holds another kind of model.
    """
    folder = model_folder(ModelSettings(path=str(path)))
    return ImplicitReward.load(folder) if (folder / FILE).is_file() else PreferenceModel.load(path)


def write_reward(folder: Path, reference: ModelSettings, beta: float) -> None:
    """Make a policy's folder that of a verifier; a reference beside it is named relative to it."""
    path = Path(resolve_model(reference.path))
    if path.is_dir() and path != PLAYGROUND:
        beside = os.path.relpath(path.resolve(), folder.resolve())
        reference = reference.model_copy(update={"path": beside})
    said = {"beta": beta, "reference": reference.model_dump(mode="json")}
    (folder / FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _log_likelihoods(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, response_BT: Tensor
) -> Tensor:
    """Return log π of the tokens of each response, summed, `(B,)` float32 nats."""
    logits = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    logprobs_BT = logits[:, :-1].float().log_softmax(-1)
    found_BT = logprobs_BT.gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    return (found_BT * response_BT[:, 1:]).sum(dim=1)
