"""The harmfulness model: rates answers from 0 to 4 (paper, section 4.5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cai.data.conversation import Conversation
from cai.data.records import HIGHEST, LOWEST
from cai.errors import CaiError
from cai.models.preference_model import PreferenceModel

MARK = "cai_harmfulness"
"""The key of config.json that tells such a model from a preference model."""


class HarmfulnessModel:
    """Rates answers from 0 (harmless) to 4."""

    def __init__(self, model: PreferenceModel) -> None:
        self._model = model

    @classmethod
    def load(cls, path: str | Path) -> HarmfulnessModel:
        """Load a model that `train_harmfulness` saved; raise a CaiError for other folders."""
        cls.check(path)
        return cls(PreferenceModel.load(path))

    @staticmethod
    def check(path: str | Path) -> None:
        """Raise a CaiError, without loading it, if the folder holds another kind of model."""
        config = Path(path) / "config.json"
        found = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if MARK not in found:
            raise CaiError(
                f"{path} holds no harmfulness model. Give the folder that `cai harmfulness` wrote, "
                "or `judge`."
            )

    def rate(self, items: Sequence[tuple[Conversation, str]]) -> list[float | None]:
        """Rate responses to conversations, each in [0, 4]; None for what is too long to read."""
        tokens = [self._model.ids(*item) for item in items]
        fitting = [ids for ids in tokens if len(ids) <= self._model.context]
        scores = iter(self._model.score_ids(fitting).tolist())
        return [
            min(max(next(scores), LOWEST), HIGHEST) if len(ids) <= self._model.context else None
            for ids in tokens
        ]
