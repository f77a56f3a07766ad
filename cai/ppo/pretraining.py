"""Texts that PPO-ptx mixes into its updates (Ouyang et al. 2022, arXiv 2203.02155, equation 2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from cai.errors import CaiError
from cai.ppo.batch import Episodes
from cai.ppo.prompts import PromptFormat, permutation


def read_texts(path: Path) -> list[str]:
    """Read pretraining texts: JSON Lines with `text`, or a text file with blank lines between.

    Raises:
        CaiError: The file is missing, or a line has no text.
    """
    if not path.is_file():
        raise CaiError(f"The file of pretraining texts {path} (`ppo.ptx_data`) does not exist.")
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return [text.strip() for text in content.split("\n\n") if text.strip()]
    texts: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CaiError(
                f'{path}:{number}: not a line like {{"text": "…"}}. Fix or remove the line.'
            ) from error
    return texts


class Pretraining:
    """Pieces of text, each drawn once before any is drawn again."""

    def __init__(self, texts: Sequence[str], chat: PromptFormat, *, length: int, seed: int) -> None:
        """Tokenise the texts, each with its end, and cut them into pieces.

        Raises:
            CaiError: All texts are empty.
        """
        end = min(chat.stop_ids)
        whole = [[*chat.tokenizer(text)["input_ids"], end] for text in texts if text.strip()]
        pieces = [ids[i : i + length] for ids in whole for i in range(0, len(ids), length)]
        self.pieces = [piece for piece in pieces if len(piece) > 1]
        self._chat = chat
        self._seed = seed
        if not self.pieces:
            raise CaiError("All pretraining texts of PPO are empty.")

    def draw(self, start: int, count: int, device: torch.device) -> Episodes:
        """Return pieces number `start` to `start + count` of an endless series of shuffles.

        A piece is an episode whose prompt is its first token.
        """
        drawn = [self._nth(n) for n in range(start, start + count)]
        return Episodes.from_lists(
            [piece[:1] for piece in drawn],
            [piece[1:] for piece in drawn],
            pad_id=self._chat.pad_id,
            device=device,
        )

    def _nth(self, n: int) -> list[int]:
        shuffle, place = divmod(n, len(self.pieces))
        return self.pieces[permutation(len(self.pieces), self._seed, "pretraining", shuffle)[place]]
