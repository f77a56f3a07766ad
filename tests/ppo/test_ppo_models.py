"""Roles: value head, LoRA on one base, gradient checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from ppo_references import ALL_SIX, LORA, SETTINGS, WITHOUT_CRITIC, PromptsOf, rollout_of
from safetensors.torch import load_file
from tiny_models import FAMILIES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.models.loading import fingerprint_model, load_causal_lm, load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO
from cai.ppo.forward import response_logprobs
from cai.ppo.learner import Learner
from cai.ppo.loading import open_models
from cai.ppo.rollout import collect_rollout
from cai.ppo.update import policy_gradients, update, value_gradients
from cai.settings import ModelSettings, PPOSettings
from cai.training.lora import save_adapter

Tiny = Callable[[str], ModelSettings]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lora_preference(
    tiny: Tiny, tiny_preference: Callable[[str], Path], tmp_path: Path
) -> Callable[[str], Path]:
    """A preference model that was trained as LoRA of rank 3 on the tiny model, by PEFT itself."""

    def make(family: str) -> Path:
        folder = tmp_path / f"preference-{family}"
        torch.manual_seed(2)
        base = AutoModelForSequenceClassification.from_pretrained(tiny(family).path, num_labels=1)
        config = LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules="all-linear")
        model: Any = get_peft_model(base, config)
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
        matrices = {
            f"{name}.{part}": getattr(layer, part)["default"].weight.detach().clone()
            for name, layer in model.get_base_model().base_model.named_modules()
            if isinstance(layer, LoraLayer)
            for part in ("lora_A", "lora_B")
        }
        merged = model.merge_and_unload()
        merged.config.cai_score_mean, merged.config.cai_score_std = 0.25, 2.0
        merged.save_pretrained(folder)
        load_chat_format(tiny(family)).tokenizer.save_pretrained(folder)
        save_adapter(matrices, folder, base=fingerprint_model(tiny(family)))
        return folder

    return make


def opened(tiny: Tiny, family: str, reward: Any, settings: PPOSettings):
    chat = load_chat_format(tiny(family))
    return open_models(tiny(family), {"r": (reward, 1.0)}, settings, chat, seed=0)


def storages(*models: torch.nn.Module) -> set[int]:
    return {p.data_ptr() for model in models for p in model.parameters()}


def test_four_roles_share_one_base_in_memory(
    family: str, tiny: Tiny, lora_preference: Callable[[str], Path], token_prompts: PromptsOf
) -> None:
    folder = lora_preference(family)
    learner, reward = opened(tiny, family, folder, LORA)
    judge: Any = reward.scorers["r"][0]
    base = load_causal_lm(tiny(family), device="cpu")
    count = len(storages(base))
    adapters = len(learner.adapters["policy"][0].parameters("policy"))
    everything = storages(learner.policy, learner.reference, learner.critic, judge.model)
    # The base once, three adapters (policy, critic, preference), a value head and a score head.
    assert len(everything) == count + 3 * adapters + 2 + 1

    prompts = token_prompts(family)
    whole = PreferenceModel.load(folder, device="cpu")
    ids = [[*prompt.ids, 120, 121] for prompt in prompts]
    learner.act_as("preference")
    torch.testing.assert_close(judge.score_ids(ids), whole.score_ids(ids), rtol=1e-3, atol=1e-3)
    # The critic's states are the preference model's, before any update.
    rollout = collect_rollout(learner, prompts, reward, LORA, seed=3, step=0)
    learner.act_as("critic")
    inputs = torch.tensor([ids[0]])
    torch.testing.assert_close(
        learner.critic.backbone(inputs, use_cache=False).last_hidden_state,
        whole.model.base_model(inputs, use_cache=False).last_hidden_state,
        rtol=1e-3,
        atol=1e-3,
    )
    # Fact 12: at the start, the policy's adapter is the identity.
    kl = rollout.logprobs_BT - rollout.ref_logprobs_BT
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-4)

    before = {name: p.clone() for name, p in learner.policy.named_parameters()}
    for step in range(2):
        rollout = collect_rollout(learner, prompts, reward, LORA, seed=3, step=step)
        update(learner, rollout, LORA, seed=0, step=step)
    moved = {n for n, p in learner.policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(".policy." in name or ".critic." in name for name in moved)
    learner.act_as("reference")
    with torch.no_grad():
        got, _ = response_logprobs(learner.reference, rollout.episodes, 1.0)
        expected, _ = response_logprobs(base, rollout.episodes, 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_without_a_critic_three_roles_share_one_base(
    family: str, tiny: Tiny, lora_preference: Callable[[str], Path], token_prompts: PromptsOf
) -> None:
    settings = LORA.model_copy(update=WITHOUT_CRITIC)
    learner, reward = opened(tiny, family, lora_preference(family), settings)
    judge: Any = reward.scorers["r"][0]
    count = len(storages(load_causal_lm(tiny(family), device="cpu")))
    adapters = len(learner.adapters["policy"][0].parameters("policy"))
    everything = storages(learner.policy, learner.reference, judge.model)
    # The base once, two adapters (policy, preference) and a score head.
    assert len(everything) == count + 2 * adapters + 1
    rollout = collect_rollout(learner, token_prompts(family), reward, settings, seed=3, step=0)
    update(learner, rollout, settings, seed=0, step=0)
    assert set(learner.adapters) == {"policy", "reference", "preference"}


def test_a_policy_trained_by_lora_is_saved_as_a_plain_model(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    def letters(_: Any, responses: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    settings = LORA.model_copy(
        update={"steps": 2, "batch_size": 4, "no_eos_reward": None, "learning_rate": 0.05}
    )
    ppo = PPO(tiny(family), letters, settings)
    prompt = [{"role": "user", "content": "How?"}]
    ppo.train([prompt], tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    names = load_file(Path(tiny(family).path) / "model.safetensors").keys()
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == names
    learner = ppo.learner
    assert learner is not None
    inputs = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        learner.act_as("policy")
        live = learner.policy(input_ids=inputs, use_cache=False).logits
        learner.act_as("reference")
        start = learner.policy(input_ids=inputs, use_cache=False).logits
        torch.testing.assert_close(saved(input_ids=inputs).logits, live, rtol=1e-3, atol=1e-3)
    assert (live - start).abs().max() > 1e-2


def test_lora_over_a_whole_preference_model_shares_it_with_the_critic(
    tiny: Tiny, tiny_preference: Callable[[str], Path], token_prompts: PromptsOf
) -> None:
    folder = tiny_preference("llama")
    learner, reward = opened(tiny, "llama", folder, LORA)
    judge: Any = reward.scorers["r"][0]
    assert storages(judge.model.base_model) <= storages(learner.critic)
    assert not storages(learner.policy) & storages(learner.critic)
    prompts = token_prompts("llama")
    whole = PreferenceModel.load(folder, device="cpu")
    for step in range(2):
        rollout = collect_rollout(learner, prompts, reward, LORA, seed=3, step=step)
        update(learner, rollout, LORA, seed=0, step=step)
    ids = [list(prompt.ids) for prompt in prompts]
    learner.act_as("preference")
    torch.testing.assert_close(judge.score_ids(ids), whole.score_ids(ids), rtol=0, atol=1e-4)


def test_an_adapter_of_another_model_is_not_mistaken_for_ours(
    tiny: Tiny, lora_preference: Callable[[str], Path]
) -> None:
    folder = lora_preference("llama")
    save_adapter(load_file(folder / "adapter.safetensors"), folder, base="another")
    learner, _ = opened(tiny, "llama", folder, LORA)
    assert learner.adapters["preference"][1] is None


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_killed_run_with_shared_weights_resumes_to_the_same_weights(
    lora_rank: int, tiny: Tiny, tiny_preference: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(
        update={
            "lora_rank": lora_rank,
            "critic": "value_head",
            "steps": 3,
            "batch_size": 4,
            "checkpoint_steps": 2,
            "kl_target": 1.0,
            "normalise_rewards": True,
        }
    )

    class KilledError(Exception):
        pass

    def kill(metrics: Any) -> None:
        if metrics["step"] == 2:
            raise KilledError

    for folder, on_step in ((tmp_path / "whole", None), (tmp_path / "killed", kill)):
        ppo = PPO(tiny("llama"), tiny_preference("llama"), settings)
        if on_step:
            with pytest.raises(KilledError):
                ppo.train(["How?", "Why?"], folder, on_step=on_step)
            ppo = PPO(tiny("llama"), tiny_preference("llama"), settings)
        ppo.train(["How?", "Why?"], folder)
    whole, killed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_value_head_adds_the_values_gradient_to_the_policys_backbone(
    tiny: Tiny, token_prompts: PromptsOf
) -> None:
    settings = SETTINGS.model_copy(update={"critic": "value_head", "value_coef": 0.25})
    chat = load_chat_format(tiny("llama"))
    shared = Learner.start(load_causal_lm(tiny("llama"), device="cpu"), None, chat, settings)
    assert shared.critic.backbone is shared.policy.base_model
    assert len(shared.critic_optimizer.parameters) == 2
    torch.nn.init.normal_(shared.critic.value_head.weight, std=0.1)
    rollout = rollout_of(shared, token_prompts("llama"))
    apart = copy.deepcopy(shared)
    apart.critic.backbone = copy.deepcopy(shared.policy.base_model)
    targets = torch.randn(rollout.values_BT.shape, generator=torch.Generator().manual_seed(0))
    policy_gradients(shared, rollout, targets, ALL_SIX, settings)
    value_gradients(shared, rollout, targets, ALL_SIX, settings)
    policy_gradients(apart, rollout, targets, ALL_SIX, settings)
    separate = settings.model_copy(update={"critic": "separate"})
    value_gradients(apart, rollout, targets, ALL_SIX, separate)
    theirs = dict(apart.critic.backbone.named_parameters())
    policy_only = dict(apart.policy.base_model.named_parameters())
    for name, weight in shared.policy.base_model.named_parameters():
        expected = policy_only[name].grad + 0.25 * theirs[name].grad
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("settings", [SETTINGS, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_memory_and_not_gradients(
    settings: PPOSettings, family: str, tiny: Tiny, token_prompts: PromptsOf
) -> None:
    """The gradients are equal; what autograd keeps for the backward pass is far less."""
    gradients: list[list[torch.Tensor]] = []
    kept: list[int] = []
    for recompute in (False, True):
        changed = settings.model_copy(update={"gradient_checkpointing": recompute})
        learner = Learner.start(
            load_causal_lm(tiny(family), device="cpu"),
            None,
            load_chat_format(tiny(family)),
            changed,
        )
        rollout = rollout_of(learner, token_prompts(family))
        ones = torch.ones_like(rollout.logprobs_BT)
        sizes: list[int] = []
        learner.act_as("policy")
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            learner.policy.base_model(rollout.episodes.input_ids_BS(), use_cache=False)
        kept.append(sum(sizes))
        policy_gradients(learner, rollout, ones, ALL_SIX, changed)
        value_gradients(learner, rollout, ones, ALL_SIX, changed)
        weights = [*learner.policy_optimizer.parameters, *learner.critic_optimizer.parameters]
        gradients.append([w.grad for w in weights if w.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert kept[1] < 0.5 * kept[0]


def test_lora_preference_training_leaves_its_adapter(tmp_path: Path, tiny: Tiny) -> None:
    """The merged weights are the base's plus the adapter that is kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cai.settings import PreferenceSettings
    from cai.training.preference import train_preference

    def said(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    rows = [
        {
            "key": str(i),
            "source": "ai",
            "prompt": said("user", f"Question {i}?"),
            "chosen": said("assistant", "The kind gardener."),
            "rejected": said("assistant", "Rude."),
            "chosen_probability": 0.9,
        }
        for i in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    train_preference(
        PreferenceSettings(lora_rank=2, learning_rate=0.05, batch_size=4),
        data=tmp_path / "train.parquet",
        base=tiny("llama"),
        out=tmp_path / "model",
        seed=0,
        log_dir=tmp_path / "logs",
    )
    matrices = load_file(tmp_path / "model" / "adapter.safetensors")
    merged = load_file(tmp_path / "model" / "model.safetensors")
    start = load_file(Path(tiny("llama").path) / "model.safetensors")
    layer = "layers.0.self_attn.q_proj"
    delta = 2 * matrices[f"{layer}.lora_B"] @ matrices[f"{layer}.lora_A"]
    assert delta.abs().max() > 1e-3
    torch.testing.assert_close(
        merged[f"model.{layer}.weight"], start[f"model.{layer}.weight"] + delta
    )
    learner, _ = opened(tiny, "llama", tmp_path / "model", LORA)
    assert learner.adapters["preference"][1] == "preference"
