"""Swiss matches: who meets whom, on what, and whether the strengths come out."""

import asyncio
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.elo_pairing import measured
from cai.data.conversation import user
from cai.data.records import AnswerRow, MatchRow, Provenance
from cai.data.store import RowStore
from cai.engines.scripted import ScriptedEngine
from cai.evaluate.elo import Match, bradley_terry, wins_of
from cai.evaluate.judge import AnswerJudge
from cai.evaluate.matches import play
from cai.evaluate.measures import elo_by_matches
from cai.evaluate.swiss import next_round, swiss_rounds
from cai.settings import EvaluateSettings


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def tournament(strengths, meet, *, rounds=None, seed=0):
    """Play Swiss rounds; returns the pairs of each, and the matches."""
    players = [f"m{n}" for n in range(len(strengths))]
    pairs_of, matches = [], []
    for number in range(swiss_rounds(len(players)) if rounds is None else rounds):
        pairs_of.append(next_round(players, pairs_of, matches, seed))
        for one, other in pairs_of[-1]:
            matches += meet(one, other, number)
    return pairs_of, matches


def expected(strengths):
    def meet(one, other, number):
        gap = strengths[int(one[1:])] - strengths[int(other[1:])]
        return [Match(one, other, sigmoid(gap), f"{number}")]

    return meet


@settings(max_examples=15)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=20), st.integers(0, 5))
def test_everybody_plays_each_round_and_hardly_ever_against_the_same(strengths, seed):
    pairs_of, matches = tournament(strengths, expected(strengths), seed=seed)
    players = [f"m{n}" for n in range(len(strengths))]
    sat_out = Counter()
    for pairs in pairs_of:
        playing = [name for pair in pairs for name in pair]
        assert len(playing) == len(set(playing)) == len(players) - len(players) % 2
        assert all(players.index(one) < players.index(other) for one, other in pairs)
        sat_out.update(set(players) - set(playing))
    assert max(sat_out.values(), default=0) <= 1
    met = Counter(pair for pairs in pairs_of for pair in pairs)
    # Of few players, the last ones left in a round may have met before.
    assert sum(count - 1 for count in met.values()) <= 2
    # Matches without noise give the strengths back, so the rounds have tied everybody together.
    found = bradley_terry(wins_of(matches, players).sum(0))
    assert found == pytest.approx(np.array(strengths) - strengths[0], abs=1e-6)


def test_the_first_round_is_drawn_and_later_ones_bring_equals_together():
    strengths = [float(n) / 4 for n in range(20)]

    def pairs_of(seed):
        return tournament(strengths, expected(strengths), rounds=3, seed=seed)[0]

    tries = [pairs_of(seed) for seed in range(5)]
    assert pairs_of(0) == tries[0]
    assert len({tuple(rounds[0]) for rounds in tries}) == 5

    def gap(pairs):
        return np.mean([abs(int(one[1:]) - int(other[1:])) for one, other in pairs])

    assert np.mean([gap(t[0]) for t in tries]) > 1.5 * np.mean([gap(t[2]) for t in tries])


def test_a_fifth_of_the_matches_recovers_the_order_about_as_well():
    found = measured(16, worlds=12)
    assert found["swiss_matches"] * 5 == found["round_robin_matches"]
    assert found["round_robin_tau"] > 0.8
    assert found["swiss_tau"] > found["round_robin_tau"] - 0.06
    assert found["swiss_tau"] > found["round_robin_as_short_tau"] + 0.06


STRENGTHS = {"red_team": [0.0, 0.5, 1.0, 1.5, 2.0], "helpful": [1.0, 0.0, 3.0, 2.0, 0.0]}


def answers(count=20):
    return [
        AnswerRow(
            key=f"{kind}{model}-{n}",
            model=f"m{model}",
            kind=kind,
            messages=user(f"{kind} {n}?"),
            task=f"{kind}{n}",
            response=f"<{strength}> by m{model}",
            verdict={},
            provenance=Provenance(
                model=f"m{model}",
                seed=n + 100 * (kind == "helpful"),
                model_fingerprint="",
                template_hash="",
                sampling={},
            ),
        )
        for kind, strengths in STRENGTHS.items()
        for model, strength in enumerate(strengths)
        for n in range(count)
    ]


def by_strength(request):
    """Prefer the stronger answer by its odds, and whichever is shown first by three to one."""
    content = request.prompt.messages[-1].content
    shown = [float(part.split(">")[0]) for part in content.split("<")[1:]]
    gap = shown[0] - shown[1] + math.log(3)
    return [math.log(0.9 * sigmoid(gap)), math.log(0.9 * sigmoid(-gap))]


def swiss(folder, engine, rows=None):
    return asyncio.run(
        play(
            answers() if rows is None else rows,
            models=[f"m{n}" for n in range(5)],
            judge=AnswerJudge(engine, min_mass=0.1),
            settings=EvaluateSettings(elo="judge", elo_pairing="swiss", elo_prompts=15),
            seed=3,
            store=RowStore(folder, MatchRow, "matches"),
        )
    )


def judged():
    return ScriptedEngine(lambda _: "", by_strength)


def test_a_judge_is_asked_in_both_orders_and_each_side_has_its_own_rounds(tmp_path):
    engine = judged()
    found = swiss(tmp_path, engine)
    assert swiss_rounds(5) == 5
    # Five rounds of three questions, two pairs each, on either side.
    assert found.states == {"ok": 5 * 3 * 2 * 2}
    assert len(engine.scored) == 2 * len(found.rows)
    asked = Counter((row.models, row.task) for row in found.rows)
    assert set(asked.values()) == {1}
    for kind in STRENGTHS:
        played = Counter(m for row in found.rows if row.kind == kind for m in row.models)
        assert set(played.values()) == {4 * 3}
    elo = elo_by_matches(found.rows, [f"m{n}" for n in range(5)], seed=0)
    for side, kind in (("harmless", "red_team"), ("helpful", "helpful")):
        values = [elo[side][f"m{n}"].value for n in range(5)]
        for one, other in combinations(range(5), 2):
            if STRENGTHS[kind][one] < STRENGTHS[kind][other]:
                assert values[one] < values[other]


def test_rounds_that_were_killed_go_on_where_they_were(tmp_path):
    whole = swiss(tmp_path / "whole", judged())
    lines = (tmp_path / "whole/matches.jsonl").read_bytes().splitlines(keepends=True)

    def dies(request):
        if len(killed.scored) > 40:
            raise KeyboardInterrupt
        return by_strength(request)

    killed = ScriptedEngine(lambda _: "", dies)
    with pytest.raises(KeyboardInterrupt):
        swiss(tmp_path / "killed", killed)
    kept = (tmp_path / "killed/matches.partial.jsonl").read_bytes().splitlines()
    assert 0 < len(kept) < len(lines)
    again = judged()
    assert swiss(tmp_path / "killed", again).rows == whole.rows
    assert len(again.scored) == 2 * (len(lines) - len(kept))
    assert swiss(tmp_path / "killed", nobody := judged()).rows == whole.rows
    assert not nobody.scored


def test_models_that_have_not_answered_do_not_play(tmp_path):
    rows = [row for row in answers() if row.model in ("m1", "m4") and row.kind == "helpful"]
    found = swiss(tmp_path, judged(), rows)
    assert {row.models for row in found.rows} == {("m1", "m4")}
    assert len(found.rows) == 15
    assert swiss(tmp_path / "none", judged(), []).rows == []
