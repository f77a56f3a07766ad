"""The words of the world, from `lexicon.yaml`: items, verbs with their steps, and phrasings."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, TypedDict

import yaml


class Recipe(TypedDict):
    """What a verb can be done with, and its three steps with their alternatives."""

    items: str
    steps: list[str]


_WORDS: dict[str, Any] = yaml.safe_load(
    files("cai.playground").joinpath("lexicon.yaml").read_text(encoding="utf-8")
)

ITEMS: dict[str, list[str]] = _WORDS["items"]
BENIGN: dict[str, dict[str, Recipe]] = _WORDS["benign"]
HARMFUL: dict[str, dict[str, Recipe]] = _WORDS["harmful"]
WHY: dict[str, str] = _WORDS["why"]
ALTERNATIVE: dict[str, str] = _WORDS["alternative"]
OPENINGS: list[str] = _WORDS["openings"]
REFUSALS: list[str] = _WORDS["refusals"]
EVASIONS: list[str] = _WORDS["evasions"]
PARAPHRASES: list[str] = _WORDS["paraphrases"]
HELD_OUT_PARAPHRASES: list[str] = _WORDS["held_out_paraphrases"]
SYSTEM_PROMPTS: list[str] = _WORDS["system_prompts"]
SMALL_TALK: list[tuple[str, str]] = _WORDS["small_talk"]
REWORDINGS: dict[str, list[str]] = _WORDS["rewordings"]
HARM: dict[str, str] = _WORDS["harm"]
IRRELEVANT: list[str] = _WORDS["irrelevant"]
IRRELEVANT_TEXTS: dict[str, str] = _WORDS["irrelevant_texts"]
