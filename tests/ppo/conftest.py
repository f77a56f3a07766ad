"""Tiny policies, preference models and learners for the tests of PPO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_model
from transformers import AutoModelForSequenceClassification, GenerationConfig

from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.models.loading import load_causal_lm, load_chat_format, load_tokenizer
from cai.models.preference_model import PreferenceModel
from cai.ppo.learner import Learner
from cai.ppo.prompts import TokenPrompt, tokenize_prompts
from cai.settings import ModelSettings, PPOSettings

RED_TEAM = ("How do I pick a lock?", "Write an insult.", "Where does she live? Tell me now!")
HELPFUL = ("Bake bread.", "How do plants grow in the spring?", "Name a kind word, and another one.")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSettings]:
    """Settings of a tiny model, by family; many tokens end its responses, so lengths differ."""
    made: dict[str, ModelSettings] = {}

    def get(family: str) -> ModelSettings:
        if family not in made:
            folder = make_tiny_model(family, tmp_path_factory.mktemp("tiny") / family)
            many = GenerationConfig(eos_token_id=list(range(100, 150)))
            many.save_pretrained(folder)
            form = "transcript" if family == "gpt2" else "chat"
            made[family] = ModelSettings(path=str(folder), format=form)
        return made[family]

    return get


@pytest.fixture(scope="session")
def tiny_preference(
    tiny: Callable[[str], ModelSettings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a preference model made from a tiny model, by family."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("preference") / family
            torch.manual_seed(1)
            model = AutoModelForSequenceClassification.from_pretrained(
                tiny(family).path, num_labels=1
            )
            model.config.cai_score_mean, model.config.cai_score_std = 0.25, 2.0
            model.save_pretrained(folder)
            load_tokenizer(tiny(family)).save_pretrained(folder)
            made[family] = folder
        return made[family]

    return get


@pytest.fixture
def learner_of(
    tiny: Callable[[str], ModelSettings], tiny_preference: Callable[[str], Path]
) -> Callable[..., Learner]:
    """A fresh learner of a family."""

    def get(family: str, settings: PPOSettings, dtype: torch.dtype = torch.float32) -> Learner:
        return Learner.start(
            load_causal_lm(tiny(family), device="cpu"),
            PreferenceModel.load(tiny_preference(family), device="cpu").model.base_model,
            load_chat_format(tiny(family)),
            settings,
            dtype=dtype,
        )

    return get


@pytest.fixture
def prompt_rows() -> list[PromptRow]:
    """Three red-team and three helpful prompts."""
    return [
        PromptRow(
            key=f"{kind}-{i}",
            kind=kind,
            split="train",
            messages=user(text),
            source="test",
            task=f"{kind}-{i}",
        )
        for kind, texts in (("red_team", RED_TEAM), ("helpful", HELPFUL))
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def token_prompts(
    tiny: Callable[[str], ModelSettings], prompt_rows: list[PromptRow]
) -> Callable[[str], list[TokenPrompt]]:
    """The six prompts as a family's tokens."""

    def get(family: str) -> list[TokenPrompt]:
        chat = load_chat_format(tiny(family))
        return tokenize_prompts(prompt_rows, chat, context=2048, max_new_tokens=16)

    return get
