"""What a backward pass needs, counted without weights, against the tensors of a real pass."""

from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES
from transformers import MixtralConfig

from benchmarks import training_memory
from cai.models.loading import load_causal_lm
from cai.ppo.adapters import Adapted
from cai.training import activations
from cai.training.activations import kept


def bytes_of_pass(model, tokens, precision):
    """The distinct storages that autograd holds after a forward pass, the model's own left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found = {}

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    ids = torch.arange(tokens).remainder(100)[None]
    low = precision == torch.bfloat16
    with (
        torch.autograd.graph.saved_tensors_hooks(hold, lambda t: t),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=low),
    ):
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_keeps_what_was_counted(family, lora, precision, base):
    model = load_causal_lm(base(family), device="cpu").requires_grad_(True)
    config = model.config
    if lora:
        adapted = Adapted(model.to(precision), seed=0)
        adapted.add("policy", rank=1)
        adapted.use("policy")
    found = kept(config, precision, lora=lora)
    for tokens in (96, 200):
        expected = bytes_of_pass(model, tokens, precision)
        # Adapters add their rank a layer, GPT-2 a copy where there is no cache.
        assert found.per_token * tokens + found.once == pytest.approx(expected, rel=0.1)


def test_what_cannot_be_counted_is_estimated_by_its_hidden_states(monkeypatch):
    def router(*_):
        raise RuntimeError("depends on the values")

    monkeypatch.setattr(activations, "_bytes_of_pass", router)
    config = MixtralConfig(hidden_size=32, num_hidden_layers=3, vocab_size=77)
    assert kept(config, torch.bfloat16, lora=True) == activations.Kept(17 * 3 * 32 * 2.0, 0)


@pytest.mark.parametrize("training", training_memory.SETTINGS)
def test_a_split_batch_has_the_loss_of_the_whole_one(training, base, tmp_path, monkeypatch):
    """In the benchmark of memory, which compares the two."""
    losses = []
    for name, micro in (("whole", 4), ("split", None)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr("cai.training.arguments.MOST_KEPT", 2**20)
        path = Path(base("llama").path)
        losses.append(training_memory.train(path, training, 4, micro, folder))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
