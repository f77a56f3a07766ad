import math
import random

import pytest
import torch

from cai.errors import CaiError
from cai.playground import training
from cai.playground.tokens import encode
from cai.playground.training import (
    batch_loss,
    collate,
    learning_rate,
    resume,
    save,
    save_checkpoint,
    train_step,
)


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(training, "DOCUMENTS_PER_STEP", 6)
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 200)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_loss_is_the_weighted_cross_entropy_of_each_example_alone(small_steps, tmp_path):
    trainer = resume(tmp_path / "none.pt", seed=0)
    rng = random.Random(3)
    examples = [encode(trainer.writer.write(rng), trainer.chat) for _ in range(5)]
    expected = 0.0
    with torch.no_grad():
        for example in examples:
            logits = trainer.model(torch.tensor([example.ids])).logits[0].double()
            p = torch.softmax(logits, -1)
            for t, (target, other, weight) in enumerate(
                zip(example.targets, example.others, example.weights, strict=True)
            ):
                mean = (p[t, target].log() + p[t, other].log()) / 2
                expected -= weight * mean.item()
        loss = batch_loss(trainer.model, collate(examples, trainer.chat.pad_id)).item()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(small_steps, tmp_path):
    path = tmp_path / "run.checkpoint.pt"
    whole = resume(path, seed=4)
    for _ in range(2):
        train_step(whole, 1e-3)
    save_checkpoint(path, whole)
    resumed = resume(path, seed=4)
    assert (resumed.step, resumed.tokens) == (whole.step, whole.tokens)
    assert train_step(whole, 1e-3) == train_step(resumed, 1e-3)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_seed_is_refused(small_steps, tmp_path):
    path = tmp_path / "run.checkpoint.pt"
    save_checkpoint(path, resume(path, seed=1))
    with pytest.raises(CaiError, match="seed 1, not 2"):
        resume(path, seed=2)


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing():
    peak = training.LEARNING_RATE
    assert learning_rate(0, 1000) == pytest.approx(peak / training.WARM_UP_STEPS)
    assert learning_rate(700, 1000) == peak
    assert learning_rate(875, 1000) == pytest.approx(peak / 2)
    assert learning_rate(999, 1000) == pytest.approx(peak / 250)
    assert learning_rate(10**6, None) == peak


def test_training_writes_a_plain_model_folder(small_steps, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = []
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    out = tmp_path / "model"
    training.train(out, steps=2, seed=0, on_log=rows.append)
    assert [row["step"] for row in rows] == [1, 2]
    assert {"README.md", "training_log.jsonl", "model.safetensors"} <= {
        p.name for p in out.iterdir()
    }
    assert "--steps 2 --seed 0" in (out / "README.md").read_text()
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.chat_template
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6


def test_saving_keeps_the_weights(small_steps, tmp_path):
    from transformers import AutoModelForCausalLM

    trainer = resume(tmp_path / "none.pt", seed=0)
    save(tmp_path / "model", trainer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids).logits, trainer.model(ids).logits)


@pytest.mark.slow
@pytest.mark.untraced
def test_some_training_makes_the_loss_fall_on_documents_it_never_saw(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "DOCUMENTS_PER_STEP", 4)
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 300)
    monkeypatch.setattr(training, "WARM_UP_STEPS", 10)
    trainer = resume(tmp_path / "none.pt", seed=0)
    rng = random.Random("documents of no step")
    examples = [encode(trainer.writer.write(rng), trainer.chat) for _ in range(24)]
    unseen = collate(examples, trainer.chat.pad_id)

    def loss() -> float:
        with torch.no_grad():
            return (batch_loss(trainer.model, unseen) / unseen.weights.sum()).item()

    before = loss()
    for step in range(40):
        train_step(trainer, learning_rate(step, None))
    assert before == pytest.approx(math.log(1024), abs=0.5)
    assert loss() < before / 2
