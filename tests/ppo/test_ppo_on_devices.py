"""PPO on a CPU and on a GPU: steps of every role, its memory, and runs that are killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from devices import ON_EACH_DEVICE, peak_memory
from ppo_references import SETTINGS, SHORT, PromptsOf, naive_logprobs, rows_of
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cai.data.records import PromptRow
from cai.models.loading import load_causal_lm, load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO
from cai.ppo.batch import Episodes, Rollout
from cai.ppo.learner import Learner
from cai.ppo.loading import open_models
from cai.ppo.memory import Shape, estimate, needed
from cai.ppo.rollout import collect_rollout
from cai.ppo.update import update
from cai.settings import ModelSettings, PPOSettings, PreferenceSettings
from cai.training.preference import train_preference

Tiny = Callable[[str], ModelSettings]
pytestmark = ON_EACH_DEVICE
LORA_RANK = {"lora_rank": 2}

WIDE = LlamaConfig(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=3000,
)
PROMPT, RESPONSE, ROWS, MICRO = 48, 48, 16, 8
ROLES = {
    "all weights": {},
    "LoRA": {"lora_rank": 4},
    "value head": {"critic": "value_head"},
    "recomputed": {"gradient_checkpointing": True},
    "recomputed LoRA": {"gradient_checkpointing": True, "lora_rank": 4},
}


def made_up(device: torch.device) -> Rollout:
    torch.manual_seed(0)
    ids = torch.randint(5, 3000, (ROWS, PROMPT + RESPONSE)).tolist()
    episodes = Episodes.from_lists(
        [row[:PROMPT] for row in ids], [row[PROMPT:] for row in ids], pad_id=0, device=device
    )
    some = torch.randn(ROWS, RESPONSE, device=device)
    return Rollout(
        episodes=episodes,
        logprobs_BT=some - 8,
        ref_logprobs_BT=some - 8,
        values_BT=some,
        scores_B=some[:, 0],
        ended_B=torch.ones(ROWS, dtype=torch.bool, device=device),
    )


def lasting(learner: Learner) -> dict[int, Tensor]:
    models = [learner.policy, learner.reference, learner.critic]
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    for optimizer in learner.optimizers.values():
        tensors += [t for state in optimizer.inner.state.values() for t in state.values()]
    return {t.data_ptr(): t for t in tensors}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("roles", ROLES)
def test_the_estimate_of_memory_is_within_15_percent_of_the_peak(
    roles: str, precision: torch.dtype, chosen: torch.device, tiny: Tiny
) -> None:
    settings = PPOSettings(
        batch_size=ROWS,
        minibatches=1,
        epochs=1,
        micro_batch_size=MICRO,
        max_new_tokens=RESPONSE,
        **ROLES[roles],
    )
    low = bool(settings.lora_rank) and precision == torch.bfloat16
    model = LlamaForCausalLM(WIDE).to(chosen, precision if low else torch.float32)
    learner = Learner.start(model, None, load_chat_format(tiny("llama")), settings, dtype=precision)
    rollout = made_up(chosen)
    update(learner, rollout, settings, seed=0, step=0)
    for optimizer in learner.optimizers.values():
        optimizer.zero_grad()
    there = lasting(learner)
    with peak_memory(chosen, there.values()) as added:
        update(learner, rollout, settings, seed=0, step=1)
    found = sum(t.nbytes for t in there.values()) + added.value
    estimated = estimate(
        Shape.of(WIDE, precision),
        None,
        settings,
        precision=precision,
        longest=PROMPT + RESPONSE,
        batch_tokens=0,
        micro_batch_size=MICRO,
    )
    assert needed(estimated) == pytest.approx(found, rel=0.15)
    # The update alone: what was added, without the gradients, which the roles have.
    trained = {id(p): p for it in learner.optimizers.values() for p in it.parameters}
    gradients = sum(p.nbytes for p in trained.values())
    assert estimated["update"] == pytest.approx(added.value - gradients, rel=0.25)


@pytest.mark.parametrize("changes", [{}, {"critic": "value_head"}, LORA_RANK], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_step_learns_from_the_log_probabilities_of_the_policy(
    family: str,
    changes: dict[str, Any],
    chosen: torch.device,
    tiny: Tiny,
    tiny_preference: Callable[[str], Path],
    token_prompts: PromptsOf,
) -> None:
    settings = SETTINGS.model_copy(update={**changes, "epochs": 1, "minibatches": 1})
    policy = tiny(family)
    chat = load_chat_format(policy)
    scorers = {"r": (tiny_preference(family), 1.0)}
    learner, reward = open_models(policy, scorers, settings, chat, seed=0)
    assert learner.device.type == chosen.type
    assert learner.dtype == (torch.float32 if chosen.type == "cpu" else torch.bfloat16)
    rollout = collect_rollout(learner, token_prompts(family), reward, settings, seed=3, step=0)

    # What it learns from, against one row at a time in float64 from the plain float32 weights.
    plain = load_causal_lm(tiny(family).model_copy(update={"dtype": "float32"}), device="cpu")
    bound = 1e-4 if chosen.type == "cpu" else 0.4  # as in tests/engines/test_engine_on_devices.py
    for row, (prompt, response) in enumerate(rows_of(rollout.episodes)):
        expected = naive_logprobs(plain, prompt, response, settings.temperature)
        for found in (rollout.logprobs_BT, rollout.ref_logprobs_BT):
            got = found[row, : len(response)].cpu().double()
            torch.testing.assert_close(got, expected, rtol=0, atol=bound)
    assert rollout.values_BT is not None
    assert rollout.values_BT.eq(0).all()  # a new value head

    before = {name: p.clone() for name, p in learner.policy.named_parameters()}
    metrics = update(learner, rollout, settings, seed=0, step=0)
    # The first step's ratios are 1: nothing is clipped, and the policy has not moved.
    assert metrics["policy/clipfrac_avg"] == 0
    assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-5)
    moved = {n for n, p in learner.policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not settings.lora_rank or all("lora_" in name for name in moved)


@pytest.mark.parametrize("changes", [{}, {"critic": "value_head"}, LORA_RANK], ids=str)
def test_a_killed_run_ends_with_the_same_weights(
    changes: dict[str, Any],
    chosen: torch.device,
    tiny: Tiny,
    tiny_preference: Callable[[str], Path],
    prompt_rows: list[PromptRow],
    tmp_path: Path,
) -> None:
    settings = SHORT.model_copy(update={**changes, "steps": 3, "checkpoint_steps": 1})

    class KilledError(Exception):
        pass

    def kill(metrics: Mapping[str, float]) -> None:
        if metrics["step"] == 2:
            raise KilledError

    def run(folder: Path, **more: Any) -> None:
        ppo = PPO(tiny("llama"), tiny_preference("llama"), settings, seed=7)
        ppo.train(prompt_rows, folder, **more)

    run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", on_step=kill)
    run(tmp_path / "killed")
    whole, killed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    start = load_file(Path(tiny("llama").path) / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name, weight in whole.items():
        # A GPU may add in another order.
        atol = 0 if chosen.type == "cpu" else 1e-3
        torch.testing.assert_close(killed[name], weight, rtol=0, atol=atol)


def test_an_adapter_of_the_preference_model_scores_as_the_merged_model(
    chosen: torch.device, tiny: Tiny, tmp_path: Path, token_prompts: PromptsOf
) -> None:
    """Four roles on one base; in bfloat16 both round, by as much as scores of one model differ."""
    policy = tiny("llama")
    data = tmp_path / "pairs.parquet"
    pairs = [
        {
            "key": str(n),
            "source": "ai",
            "prompt": [{"role": "user", "content": f"Write line {n}."}],
            "chosen": [{"role": "assistant", "content": "Fine. " * (n % 4 + 1)}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "chosen_probability": 0.9,
        }
        for n in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(pairs), data)
    folder = tmp_path / "model"
    trained = PreferenceSettings(batch_size=8, learning_rate=1e-2, lora_rank=2)
    train_preference(trained, data=data, base=policy, out=folder, seed=0, log_dir=tmp_path / "logs")
    settings = SETTINGS.model_copy(update=LORA_RANK)
    chat = load_chat_format(policy)
    learner, reward = open_models(policy, {"r": (folder, 1.0)}, settings, chat, seed=0)
    assert learner.adapters["preference"][1] == "preference"
    ids = [[*prompt.ids, 120, 121] for prompt in token_prompts("llama")]
    learner.act_as("preference")
    judge: Any = reward.scorers["r"][0]
    expected = PreferenceModel.load(folder, device="cpu").score_ids(ids)
    atol = 1e-3 if chosen.type == "cpu" else 0.25
    torch.testing.assert_close(judge.score_ids(ids), expected, rtol=0, atol=atol)
