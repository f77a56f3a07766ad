"""The estimate of memory before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_references import LENGTH, LORA, SETTINGS, WITHOUT_CRITIC, PromptsOf, rollout_of
from tiny_models import FAMILIES
from transformers import AutoConfig

from cai.errors import CaiError
from cai.models.loading import load_causal_lm, load_chat_format
from cai.ppo import PPO
from cai.ppo.learner import Learner
from cai.ppo.memory import Shape, VLLMShare, check_memory, estimate, needed, vllm_share
from cai.ppo.update import update
from cai.settings import ModelSettings, PPOSettings
from cai.training.activations import Kept

Tiny = Callable[[str], ModelSettings]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_counts_weights_gradients_and_moments_to_the_byte(
    family: str, tiny: Tiny, token_prompts: PromptsOf
) -> None:
    """Of policy, reference and critic, against the tensors of a learner after an update."""
    shape = Shape.of(AutoConfig.from_pretrained(tiny(family).path), torch.float32)
    sizes = {"longest": 10, "batch_tokens": 10, "micro_batch_size": 1}
    for settings in (
        SETTINGS,
        LORA,
        SETTINGS.model_copy(update=WITHOUT_CRITIC),
        LORA.model_copy(update=WITHOUT_CRITIC),
    ):
        learner = Learner.start(
            load_causal_lm(tiny(family), device="cpu"),
            None,
            load_chat_format(tiny(family)),
            settings,
        )
        update(learner, rollout_of(learner, token_prompts(family)), settings, seed=0, step=0)
        roles = estimate(shape, None, settings, precision=torch.float32, **sizes)
        assert (learner.critic is not None) == settings.has_critic == ("critic" in roles)
        critics = [learner.critic] if learner.critic is not None else []
        models = [learner.policy, learner.reference, *critics]
        tensors = {p.data_ptr(): p for model in models for p in model.parameters()}
        tensors |= {p.grad.data_ptr(): p.grad for p in tensors.values() if p.grad is not None}
        for optimizer in learner.optimizers.values():
            for state in optimizer.inner.state.values():
                tensors |= {state[k].data_ptr(): state[k] for k in ("exp_avg", "exp_avg_sq")}
        got = sum(4 * tensor.numel() for tensor in tensors.values())
        head = 16 * (shape.hidden + 1) * len(critics)
        expected = roles["policy"] + roles["reference"] + roles.get("critic", 0) + head
        assert got == expected


SEVEN_BILLION = Shape(
    weights=7 * 10**9,
    backbone=69 * 10**8,
    lora=30 * 10**6 // 16,
    layers=32,
    hidden=4096,
    cache=2048,
    vocabulary=32000,
    kept=Kept(per_token=7e6, once=14 * 10**9),
    kept_lora=Kept(per_token=5e6, once=0),
)


def roles_of(settings: PPOSettings, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "precision": torch.bfloat16,
        "longest": 512,
        "batch_tokens": 16384,
        "micro_batch_size": 8,
    }
    return estimate(SEVEN_BILLION, SEVEN_BILLION, settings, **(arguments | changes))


def test_what_does_not_fit_is_said_with_the_setting_that_makes_it_fit() -> None:
    arguments: dict[str, Any] = {
        "precision": torch.bfloat16,
        "longest": 512,
        "batch_tokens": 16384,
    }

    def check(gigabytes: float, settings: PPOSettings = SETTINGS) -> str:
        with pytest.raises(CaiError) as caught:
            check_memory(
                SEVEN_BILLION,
                SEVEN_BILLION,
                settings,
                available=int(gigabytes * 1e9),
                micro_batch_size=8,
                **arguments,
            )
        return str(caught.value)

    said = check(200)
    # 16 bytes for each of 7e9 weights; 4 for the frozen copy; 2 in the preference model.
    assert "policy 112.0 GB, reference 28.0 GB, critic 110.4 GB, preference model 13.8 GB" in said
    assert re.search(r"Set `ppo.critic: value_head`: about 1\d\d\.\d GB", said)
    assert "Set `ppo.lora_rank: 16`" in check(80)
    both = check(36)
    assert "`ppo.gradient_checkpointing: true`" in both
    assert "`ppo.lora_rank: 16`" in both
    assert "No setting" in check(10)
    no_critic = check(150, SETTINGS.model_copy(update=WITHOUT_CRITIC))
    assert "critic" not in no_critic
    assert "Set `ppo.lora_rank: 16`" in no_critic
    fits = check_memory(
        SEVEN_BILLION,
        SEVEN_BILLION,
        SETTINGS,
        available=10**12,
        micro_batch_size=8,
        **arguments,
    )
    assert fits == roles_of(SETTINGS, micro_batch_size=2)


def test_every_setting_that_saves_memory_lowers_the_estimate() -> None:
    whole = needed(roles_of(SETTINGS))
    for change in (
        {"gradient_checkpointing": True},
        {"critic": "value_head"},
        {"lora_rank": 16},
    ):
        assert needed(roles_of(SETTINGS.model_copy(update=change))) < whole
    assert roles_of(SETTINGS, micro_batch_size=1)["update"] < roles_of(SETTINGS)["update"]
    assert roles_of(SETTINGS, batch_tokens=99)["sampling"] < roles_of(SETTINGS)["sampling"]
    lora = SETTINGS.model_copy(update={"lora_rank": 16})
    assert needed(roles_of(lora, shared=True)) < needed(roles_of(lora))
    # Of a critic: weights, gradients and both moments of 6.9e9 numbers.
    without = roles_of(SETTINGS.model_copy(update=WITHOUT_CRITIC))
    assert whole - needed(without) == 16 * SEVEN_BILLION.backbone
    more = roles_of(SETTINGS, independent=[SEVEN_BILLION])
    assert needed(more) - whole == 2 * SEVEN_BILLION.backbone
    # Weights and gradients, and a quarter of both moments and of another copy of the weights.
    assert roles_of(SETTINGS, zero_parts=4)["policy"] == (8 + 12 // 4) * 7 * 10**9
    parted = roles_of(SETTINGS, parts=4)
    assert parted["policy"] == roles_of(SETTINGS)["policy"] // 4
    # What four processes part, and a copy of 7e9 weights in 16 bits.
    assert needed(roles_of(SETTINGS)) - needed(parted) == 3 * (112 + 28 + 110.4) * 10**9 // 4 - 14e9


ON_VLLM = SETTINGS.model_copy(update={"rollouts": "vllm", "lora_rank": 16})


def test_a_vllm_beside_the_trainer_is_counted() -> None:
    """On a GPU its share of the whole, in place of our own sampling and in turn with the update."""

    def share(**options: Any) -> VLLMShare:
        return vllm_share(
            SEVEN_BILLION, options, precision=torch.bfloat16, total=options.pop("total", 80 * 10**9)
        )

    assert share() == VLLMShare(24 * 10**9, sleeps=True)
    half = {"gpu_memory_utilization": 0.5, "enable_sleep_mode": False}
    assert share(**half) == VLLMShare(40 * 10**9, sleeps=False)
    with pytest.raises(CaiError, match=r"0\.1 of 80\.0 GB\) cannot hold.*weights \(14\.0 GB\)"):
        share(gpu_memory_utilization=0.1)
    assert share(gpu_memory_utilization=0.1, tensor_parallel_size=2).whole == 8 * 10**9

    asleep = roles_of(ON_VLLM, vllm=share())
    assert asleep["sampling"] == 24 * 10**9
    lasting = sum(n for role, n in asleep.items() if role not in ("update", "sampling"))
    assert needed(asleep) == lasting + max(24 * 10**9, asleep["update"])
    awake = roles_of(ON_VLLM, vllm=share(**half))
    assert needed(awake) == lasting + 40 * 10**9 + awake["update"]


def test_vllm_on_a_cpu_takes_weights_and_the_cache_that_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whole() -> VLLMShare:
        return vllm_share(SEVEN_BILLION, {}, precision=torch.float32, total=None)

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert whole() == VLLMShare(28 * 10**9 + 2**30, sleeps=False)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    assert whole() == VLLMShare(28 * 10**9 + 4 * 2**30, sleeps=False)


def test_where_vllm_does_not_fit_sampling_without_it_is_the_remedy() -> None:
    with pytest.raises(CaiError, match=r"vLLM 40\.0 GB.*Set `ppo.rollouts: transformers`"):
        check_memory(
            SEVEN_BILLION,
            SEVEN_BILLION,
            ON_VLLM.model_copy(update={"gradient_checkpointing": True}),
            available=60 * 10**9,
            micro_batch_size=1,
            precision=torch.bfloat16,
            longest=512,
            batch_tokens=16384,
            vllm=VLLMShare(40 * 10**9, sleeps=False),
        )


def test_memory_is_checked_before_anything_is_loaded(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.ppo.fitting.free_memory", lambda device: 10**6)
    monkeypatch.setattr("cai.ppo.train.open_models", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CaiError, match=r"PPO needs about .* free: policy"):
        PPO(tiny("llama"), LENGTH.scorers["test"][0], SETTINGS).train(["How?"], tmp_path)
    assert not list(tmp_path.iterdir())
