"""What is seen while PPO runs: names people know, conversations, a line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_references import (
    LENGTH,
    SETTINGS,
    LearnerOf,
    PromptsOf,
    naive_logprobs,
    rollout_of,
    rows_of,
)
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cai.ppo import PPO, progress_line
from cai.ppo.batch import Rollout
from cai.ppo.step_log import conversations, rollout_metrics
from cai.ppo.update import update
from cai.settings import ModelSettings

TRL_NAMES = {
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/num_eos_tokens",
    "lr",
    "episode",
}
"""As `trl.PPOTrainer` logged them while there was one."""


def test_tensorboard_has_the_names_people_know_and_a_few_conversations(
    tmp_path: Path, tiny: Callable[[str], ModelSettings]
) -> None:
    settings = SETTINGS.model_copy(update={"steps": 3, "checkpoint_steps": 2})
    lines = io.StringIO()
    line = progress_line(3, Console(file=lines, width=40))
    reward = LENGTH.scorers["test"][0]
    PPO(tiny("llama"), reward, settings).train(["How?", "Why?"], tmp_path, on_step=line)
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    assert set(board.Tags()["scalars"]) >= TRL_NAMES
    events = board.Tensors("conversations/0/text_summary")
    assert [event.step for event in events] == [1, 2, 3]
    text = events[0].tensor_proto.string_val[0].decode()
    assert text.startswith("score ")
    assert "<|start_header_id|>user<|end_header_id|>" in text
    shown = lines.getvalue().splitlines()
    assert len(shown) == 3
    assert shown[0].startswith("step 1/3: reward ")
    for word in ("score", "KL", "tokens", "episodes/s", "s left"):
        assert word in shown[1]


def test_conversations_are_prompt_response_and_score_to_the_letter(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    learner = learner_of("llama", SETTINGS)
    prompts = token_prompts("llama")
    rollout = rollout_of(learner, prompts)
    some = conversations(learner.chat, prompts, rollout, count=3)
    assert len(some) == 3
    ids = rows_of(rollout.episodes)
    for place, conversed in zip((0, 2, 4), some, strict=True):
        assert conversed.prompt == learner.chat.tokenizer.decode(ids[place][0])
        assert conversed.response == learner.chat.tokenizer.decode(ids[place][1])
        assert conversed.score == rollout.scores_B[place].item()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2"])
def test_fact_21_metrics_are_means_over_real_tokens_and_episodes(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Against a loop over the episodes; entropies are never negative, padding reaches nothing."""
    learner = learner_of(family, SETTINGS)
    with torch.no_grad():  # away from the reference
        for weight in learner.policy.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    prompts = token_prompts(family)
    rollout = rollout_of(learner, prompts)
    assert not rollout.episodes.mask_BT.all()
    metrics = rollout_metrics(rollout, prompts, 0.3)
    kls: list[float] = []
    entropies: list[float] = []
    for prompt, response in rows_of(rollout.episodes):
        new, ref = (
            naive_logprobs(model, prompt, response, SETTINGS.temperature)
            for model in (learner.policy, learner.reference)
        )
        kls.append((new - ref).sum().item())
        entropies.append(-new.sum().item())
    kl = sum(kls) / len(kls)
    expected: dict[str, Any] = {
        "objective/kl": kl,
        "objective/entropy": sum(entropies) / len(entropies),
        "objective/non_score_reward": -0.3 * kl,
        "objective/rlhf_reward": sum(rollout.scores_B.tolist()) / 6 - 0.3 * kl,
        "response/length": sum(len(r) for _, r in rows_of(rollout.episodes)) / 6,
        "tokens": sum(len(r) for _, r in rows_of(rollout.episodes)),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    seen = update(learner, rollout, SETTINGS, seed=0, step=0)
    assert seen["policy/entropy_avg"] >= 0
    assert 0 <= seen["policy/clipfrac_avg"] <= 1
    assert 0 <= seen["val/clipfrac_avg"] <= 1


def test_fact_21_padding_reaches_no_metric(learner_of: LearnerOf, token_prompts: PromptsOf) -> None:
    prompts = token_prompts("llama")
    learner = learner_of("llama", SETTINGS)
    clean = rollout_of(learner, prompts)
    pad = lambda x: torch.nn.functional.pad(x, (0, 5))  # noqa: E731
    wide = Rollout(
        type(clean.episodes)(
            clean.episodes.prompt_ids_BP,
            clean.episodes.prompt_lengths_B,
            pad(clean.episodes.response_ids_BT),
            clean.episodes.response_lengths_B,
        ),
        pad(clean.logprobs_BT),
        pad(clean.ref_logprobs_BT),
        pad(clean.values_BT),
        clean.scores_B,
        clean.ended_B,
    )
    seen = [
        rollout_metrics(rollout, prompts, 0.1)
        | update(learner_of("llama", SETTINGS), rollout, SETTINGS, seed=0, step=0)
        for rollout in (clean, wide)
    ]
    assert seen[0].keys() == seen[1].keys() | {"reward/test"}
    for name, value in seen[1].items():
        assert value == pytest.approx(seen[0][name], rel=1e-4, abs=1e-6), name
