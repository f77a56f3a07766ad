"""PPO on vLLM: weights arrive, stale ones are noticed, and a run learns (fact 23)."""

import json
from pathlib import Path

import pytest
import torch

from cai.engines.decode import TokenRequest
from cai.errors import CaiError
from cai.models.loading import PLAYGROUND, load_causal_lm, load_chat_format, model_folder
from cai.ppo import PPO
from cai.ppo.batch import Episodes
from cai.ppo.forward import response_logprobs
from cai.ppo.sampling import check_agreement
from cai.settings import ModelSettings, PPOSettings

PROMPTS = [f"How do I {verb} a {thing}?" for verb in ("bake", "mend") for thing in ("loaf", "bike")]
OPTIONS = {"max_num_seqs": 16, "max_num_batched_tokens": 4096}


def settings_of(path):
    return ModelSettings(path=str(path), engine="vllm", dtype="float32", options=OPTIONS)


def shaken(path):
    """Return a model with other weights than those in its folder."""
    model = load_causal_lm(ModelSettings(path=str(path), dtype="float32"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return model


def difference(model, chat, sampler, temperature=1.0):
    """Return what `check_agreement` says of the sampler's answers to a few prompts."""
    requests = [
        TokenRequest(tuple(range(20, 30 + 9 * n)), seed=n, max_tokens=12, temperature=temperature)
        for n in range(4)
    ]
    said = sampler.run(requests)
    episodes = Episodes.from_lists(
        [r.prompt_ids for r in requests],
        [c.token_ids for c in said],
        pad_id=chat.pad_id,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        ours_BT, _ = response_logprobs(model, episodes, temperature)
    theirs_BT = torch.zeros(episodes.response_ids_BT.shape)
    theirs_BT[episodes.mask_BT] = torch.tensor([x for c in said for x in c.logprobs])
    return check_agreement(ours_BT, theirs_BT, episodes.mask_BT)


@pytest.mark.parametrize(
    ("family", "way"),
    [("playground", "in_process"), ("untied llama", "in_process"), ("qwen3", "path")],
)
def test_fact_23_pushed_weights_agree_with_the_trainer_and_stale_ones_do_not(family, way, model_of):
    """With tied embeddings (playground, qwen3) and with a head of its own."""
    from cai.engines.vllm_sampler import VLLMSampler, weights_fingerprint

    folder = model_of(family)
    settings = settings_of(folder)
    chat = load_chat_format(settings)
    model = shaken(folder)
    sampler = VLLMSampler(settings, model_folder(settings), stop_ids=chat.stop_ids, way=way)
    try:
        assert sampler.fingerprint == ""
        sampler.push(model.state_dict())
        assert sampler.fingerprint == weights_fingerprint(model.state_dict())
        assert difference(model, chat, sampler) < 1e-4
        assert difference(model, chat, sampler, temperature=0.7) < 1e-4
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.02)
        assert sampler.fingerprint != weights_fingerprint(model.state_dict())
        with pytest.raises(CaiError, match="its weights are stale"):
            difference(model, chat, sampler)
        sampler.push(model.state_dict())  # the prefixes that it has cached are old, too
        assert difference(model, chat, sampler) < 1e-4
    finally:
        sampler.close()


@pytest.mark.parametrize("more", [{}, {"lora_rank": 4, "keep": "best", "guard": {"every": 2}}])
def test_ppo_learns_from_rollouts_on_vllm(tmp_path, more):
    def commas(prompts, responses):
        return [float(text.count(",")) for text in responses]

    held_out = PROMPTS[:2] if more else []
    settings = PPOSettings(
        **{
            "steps": 3,
            "batch_size": 8,
            "max_new_tokens": 16,
            "learning_rate": 1e-3,
            "rollouts": "vllm",
            "no_eos_reward": None,
            "guard": None,
            **more,
        }
    )
    ppo = PPO(settings_of(PLAYGROUND), commas, settings, seed=1)
    result = ppo.train(PROMPTS[2:] * 4, tmp_path, held_out=held_out)
    assert result["steps"] == 3
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "objective/kl" in step]
    assert steps[0]["objective/kl"] == pytest.approx(0, abs=1e-3)  # the policy is the reference
    assert ppo.learner.sampler.engine is None  # closed
    assert (Path(tmp_path) / "model" / "model.safetensors").is_file()


def test_a_model_in_memory_lends_vllm_its_shape(tmp_path, model_of):
    settings = ModelSettings(path=str(model_of("untied llama")), dtype="float32")
    model, chat = load_causal_lm(settings), load_chat_format(settings)
    ppo = PPO(
        model,
        lambda prompts, responses: [float(len(text)) for text in responses],
        PPOSettings(
            steps=1, batch_size=4, max_new_tokens=6, rollouts="vllm", guard=None, no_eos_reward=None
        ),
        tokenizer=chat.tokenizer,
    )
    assert ppo.train(PROMPTS, tmp_path)["steps"] == 1


def test_what_the_transfer_between_gpus_is_written_against_is_there():
    """It cannot run here; at least the names that it calls are vLLM's."""
    from vllm import LLM
    from vllm.distributed.weight_transfer.base import (
        ModuleSource,
        VLLMWeightSyncClient,
        WeightTransferInitRequest,
        WeightTransferUpdateRequest,
    )
    from vllm.distributed.weight_transfer.ipc_engine import (
        IPCTrainerInitInfo,
        IPCTrainerWeightTransferEngine,
    )

    from cai.engines.vllm_sampler import _as_module, _Client

    calls = [name for name in vars(VLLMWeightSyncClient) if not name.startswith("_")]
    assert calls
    for name in calls:
        assert callable(getattr(_Client, name))
        assert callable(getattr(LLM, name))
    assert IPCTrainerInitInfo(rank=0).is_sender
    assert callable(IPCTrainerWeightTransferEngine.send_weights)
    assert WeightTransferInitRequest(init_info={}).init_info == {}
    assert WeightTransferUpdateRequest(update_info={}).update_info == {}
    weights = {"model.embed.weight": torch.ones(2, 3), "model.norm": torch.zeros(3)}
    source = ModuleSource(_as_module(weights))
    assert {name: tuple(tensor.shape) for name, tensor in source} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
