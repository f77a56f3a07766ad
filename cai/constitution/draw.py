"""The draw of the principle for a critique or a judgement.

A principle is drawn as the argmax of `log weight + Gumbel noise` (the Gumbel-max trick: its
probability is its share of the weights), and each principle's noise comes from a hash of the row
and the principle's id. So an edit to one principle leaves the draws of all other rows alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from hashlib import blake2b

from cai.constitution.schema import Principle
from cai.errors import CaiError


def draw(principles: Sequence[Principle], *, seed: int, key: str, round: int) -> Principle:  # noqa: A002
    """Draw one principle with probability proportional to its weight (paper, section 3.1).

    Args:
        principles: Those that serve the stage (`constitution.supervised` or `.comparisons`).
        seed: The run's seed.
        key: The key of the row.
        round: Which draw of the row this is; rounds are independent, with replacement.

    Raises:
        CaiError: When there is no principle to draw.
    """
    if not principles:
        raise CaiError(
            "there is no principle to draw, because the constitution has none for this stage: add"
            " `critique` and `revision` for the supervised stage, or `comparison` for feedback"
        )
    return max(principles, key=lambda p: _perturbed(p, seed, key, round))


def draw_several(
    principles: Sequence[Principle], k: int, *, seed: int, key: str
) -> list[Principle]:
    """Draw `k` different principles, the first as by `draw` in round 0.

    Raises:
        CaiError: When there are fewer than `k` principles.
    """
    if k > len(principles):
        raise CaiError(
            f"{k} principles were asked for, but the constitution has {len(principles)} for this"
            f" stage: ask for at most {len(principles)}, or add principles"
        )
    return sorted(principles, key=lambda p: _perturbed(p, seed, key, 0), reverse=True)[:k]


def _perturbed(principle: Principle, seed: int, key: str, round: int) -> tuple[float, str]:  # noqa: A002
    """Return log weight + Gumbel noise, and the id to settle ties whatever the file's order."""
    uniform = _uniform(seed, key, round, principle.id)
    return math.log(principle.weight) - math.log(-math.log(uniform)), principle.id


def _uniform(*parts: object) -> float:
    """Hash `parts` to 53 bits in the open interval (0, 1)."""
    digest = blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 1) / (2**53 + 1)
