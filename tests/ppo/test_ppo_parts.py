"""Prompts, micro-batches, checkpoints and output heads: the parts around the arithmetic."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    PreTrainedConfig,
)

from cai.data.records import Kind
from cai.errors import CaiError
from cai.ppo.batch import MICRO_BATCH_TOKENS, Episodes, length_sorted
from cai.ppo.checkpoint import load_checkpoint, save_checkpoint
from cai.ppo.forward import check_output_head, response_logprobs
from cai.ppo.prompts import PromptPool, TokenPrompt
from cai.ppo.step_log import StepLog

CPU = torch.device("cpu")


def prompts_of(kind: Kind, count: int) -> list[TokenPrompt]:
    return [TokenPrompt((i, 0 if kind == "helpful" else 1), kind) for i in range(count)]


def pool_of(red_team: int, helpful: int, batch: int, fraction: float, seed: int = 0) -> PromptPool:
    prompts = prompts_of("red_team", red_team) + prompts_of("helpful", helpful)
    return PromptPool(prompts, batch_size=batch, red_team_fraction=fraction, seed=seed)


def test_every_step_has_the_asked_for_mixture() -> None:
    pool = pool_of(10, 10, 8, 0.25)
    for step in range(5):
        assert Counter(p.kind for p in pool.draw(step)) == {"red_team": 2, "helpful": 6}


def test_all_prompts_of_a_kind_are_drawn_before_any_is_drawn_again() -> None:
    pool = pool_of(5, 7, 6, 0.5)
    drawn = [p for step in range(35) for p in pool.draw(step)]
    for kind, count in (("red_team", 5), ("helpful", 7)):
        ids = [p.ids for p in drawn if p.kind == kind]
        rounds = [ids[i : i + count] for i in range(0, len(ids), count)]
        assert all(len(set(one)) == count for one in rounds)
        assert len({tuple(one) for one in rounds}) > 1  # each round is shuffled anew


def test_draws_depend_on_seed_and_step_alone() -> None:
    first, again, other = (pool_of(20, 20, 8, 0.5, seed) for seed in (1, 1, 2))
    later = again.draw(3)
    assert [first.draw(step) for step in range(4)][3] == later
    assert other.draw(3) != later


@pytest.mark.parametrize(("fraction", "red_team", "helpful"), [(1.0, 3, 0), (0.0, 0, 3)])
def test_one_kind_alone_is_enough_when_asked_for(
    fraction: float, red_team: int, helpful: int
) -> None:
    assert len(pool_of(red_team, helpful, 4, fraction).draw(0)) == 4
    with pytest.raises(CaiError, match="red_team_fraction"):
        pool_of(red_team, helpful, 4, 1 - fraction)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.none() | st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_micro_batches_hold_every_row_once_in_order_of_length(
    lengths: list[int], size: int | None
) -> None:
    parts = length_sorted(torch.tensor(lengths), size)
    rows = torch.cat(parts).tolist()
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for part, following in pairwise([*parts, torch.tensor([], dtype=torch.long)]):
        longest = lengths[int(part[0])]
        if size is not None:
            assert len(part) <= size
        else:  # as full as the budget allows; a row that is longer than it goes alone
            assert len(part) == 1 or len(part) * longest <= MICRO_BATCH_TOKENS["cpu"]
            assert not len(following) or (len(part) + 1) * longest > MICRO_BATCH_TOKENS["cpu"]


ids = st.integers(0, 50)
row = st.tuples(st.lists(ids, min_size=1, max_size=6), st.lists(ids, min_size=1, max_size=6))


@given(st.lists(row, min_size=1, max_size=5), ids)
@settings(max_examples=100, deadline=None)
def test_forward_inputs_are_the_rows_without_padding(
    rows: list[tuple[list[int], list[int]]], pad_id: int
) -> None:
    """For every row: its ids without the last, and positions that stand just before each token."""
    prompts, responses = [p for p, _ in rows], [r for _, r in rows]
    episodes = Episodes.from_lists(prompts, responses, pad_id=pad_id, device=CPU)
    assert episodes.sequences() == [p + r for p, r in rows]
    inputs = episodes.input_ids_BS()
    assert inputs.shape[1] == max(len(p) + len(r) for p, r in rows) - 1
    for i, (prompt, response) in enumerate(rows):
        whole = prompt + response
        assert inputs[i, : len(whole) - 1].tolist() == whole[:-1]
    places = list(zip(*(x.tolist() for x in episodes.predicting_positions()), strict=True))
    assert places == [(i, len(p) - 1 + t) for i, (p, r) in enumerate(rows) for t in range(len(r))]
    real = episodes.response_ids_BT[episodes.mask_BT].tolist()
    assert real == [token for response in responses for token in response]


SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.5,
}


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SHAPE, final_logit_softcapping=2.0),
        GraniteConfig(**SHAPE, logits_scaling=3.0),
        CohereConfig(**SHAPE, logit_scale=0.25),
    ],
    ids=lambda config: config.model_type,
)
def test_heads_that_cap_or_scale_logits_do_so_here_too(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    check_output_head(model)
    episodes = Episodes.from_lists([[5, 6]], [[7, 8]], pad_id=0, device=CPU)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0]
        got, _ = response_logprobs(model, episodes, 1.0)
    expected = [torch.log_softmax(logits[p], -1)[token] for p, token in ((1, 7), (2, 8))]
    torch.testing.assert_close(got[0], torch.stack(expected), rtol=0, atol=1e-4)


def test_a_head_of_its_own_kind_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE)).eval()
    real = model.forward

    def shifted(*args: object, **kwargs: object) -> object:
        output = real(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = shifted
    with pytest.raises(CaiError, match="PPO cannot train a Gemma2ForCausalLM"):
        check_output_head(model)


def test_the_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, "run", {"weight": torch.full((2,), float(step))})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000010"]
    found = load_checkpoint(tmp_path, "run", CPU)
    assert found is not None
    assert found[0] == 10
    assert found[1]["weight"].tolist() == [10.0, 10.0]


def test_checkpoints_that_are_torn_or_foreign_are_removed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_checkpoint(tmp_path / "none", "run", CPU) is None
    for step in (1, 2):
        save_checkpoint(tmp_path, step, "run", {"step": step})
    (tmp_path / "step-000002" / "meta.json").write_text('{"step": 2, "ru')
    assert load_checkpoint(tmp_path, "run", CPU) == (1, {"step": 1})
    assert "step-000002 and removes it: it is incomplete" in caplog.text
    assert load_checkpoint(tmp_path, "another", CPU) is None
    assert "are others" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_metric_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    with StepLog(tmp_path / "steps.jsonl", tmp_path / "logs", done=0) as log:
        log.write(1, {"a": 1.5, "b": float("-inf")})
    assert log.records == [{"step": 1, "a": 1.5}]
    assert (tmp_path / "steps.jsonl").read_text() == '{"step": 1, "a": 1.5}\n'
