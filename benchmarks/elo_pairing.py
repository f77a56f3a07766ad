"""Swiss matches against round-robin: how well does the order of simulated models come out?

    python -m benchmarks.elo_pairing

Strengths are drawn from a normal distribution (standard deviation 0.7 in log-odds, 122 Elo points);
at each question every model is better or worse than its strength by a draw of standard deviation 1.
Each match is won or lost with the probability that the two give. No judge is asked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from cai.evaluate.elo import Match, bradley_terry, wins_of
from cai.evaluate.swiss import next_round, swiss_rounds

NAME = "elo_pairing"
SPREAD, KNACK = 0.7, 1.0
QUESTIONS = 300
Meet = Callable[[str, str, Sequence[int]], list[Match]]


class World:
    """Simulated models, called `m0`, `m1` and so on."""

    def __init__(self, players: int, seed: int) -> None:
        """Draw strengths, and how much better or worse each model is at each question."""
        self.rng = np.random.default_rng(seed)
        self.names = [f"m{number}" for number in range(players)]
        self.strengths = self.rng.normal(0, SPREAD, players)
        self.at = self.strengths[:, None] + self.rng.normal(0, KNACK, (players, 2 * QUESTIONS))
        self.seed = seed

    def meet(self, one: str, other: str, questions: Sequence[int]) -> list[Match]:
        """Play one match a question."""
        gaps = (self.at[int(one[1:])] - self.at[int(other[1:])])[list(questions)]
        won = self.rng.random(len(questions)) < 1 / (1 + np.exp(-gaps))
        return [Match(one, other, float(w), str(q)) for q, w in zip(questions, won, strict=True)]

    def round_robin(self, questions: int) -> list[Match]:
        """Let everyone meet everyone on the first questions."""
        pairs = combinations(self.names, 2)
        return [match for pair in pairs for match in self.meet(*pair, range(questions))]

    def swiss(self, questions: int) -> list[Match]:
        """Play Swiss rounds, each on questions of its own."""
        rounds, pairs, matches = swiss_rounds(len(self.names)), [], []
        for number in range(rounds):
            pairs.append(next_round(self.names, pairs, matches, self.seed))
            for one, other in pairs[-1]:
                matches += self.meet(one, other, range(number, questions, rounds))
        return matches

    def agreement(self, matches: Sequence[Match]) -> float:
        """Return Kendall's tau between the true strengths and the Bradley-Terry ratings."""
        found = bradley_terry(wins_of(matches, self.names).sum(0))
        signs = [
            np.sign((self.strengths[i] - self.strengths[j]) * (found[i] - found[j]))
            for i, j in combinations(range(len(self.names)), 2)
        ]
        return float(np.mean(signs))


def measured(players: int, worlds: int) -> dict[str, float]:
    """Return the matches that each way takes, and its mean agreement with the truth."""
    taus: list[list[float]] = []
    counts = (0, 0, 0)
    for seed in range(worlds):
        world = World(players, seed)
        whole, swiss = world.round_robin(100), world.swiss(QUESTIONS)
        same = world.round_robin(round(len(swiss) / len(whole) * 100))
        counts = (len(whole), len(swiss), len(same))
        taus.append([world.agreement(matches) for matches in (whole, swiss, same)])
    means = np.mean(taus, axis=0).tolist()
    names = ("round_robin", "swiss", "round_robin_as_short")
    return {
        "models": players,
        **{f"{name}_matches": count for name, count in zip(names, counts, strict=True)},
        **{f"{name}_tau": tau for name, tau in zip(names, means, strict=True)},
    }


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=100, help="simulations of each size")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()
    rows = [measured(players, options.worlds) for players in (4, 8, 16, 20)]
    print("| models | round-robin, 100 questions | Swiss, 300 questions | round-robin, as short |")
    print("|---:|---:|---:|---:|")
    for row in rows:
        cells = [
            f"{row[f'{name}_tau']:.2f} ({row[f'{name}_matches']} matches)"
            for name in ("round_robin", "swiss", "round_robin_as_short")
        ]
        print(f"| {row['models']} | {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"name": NAME, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
