"""PPO-ptx: texts mixed into the policy's steps."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from ppo_references import (
    NO_CLIPPING_OF_GRADIENTS,
    SETTINGS,
    LearnerOf,
    PromptsOf,
    assert_same_gradients,
    gradients_of_update,
    letters,
    naive_logprob_table,
    rollout_of,
    with_settings,
)

from cai.errors import CaiError
from cai.ppo import PPO
from cai.ppo.pretraining import Pretraining, read_texts
from cai.ppo.update import pretraining_gradients, update

TEXTS = ["The kind gardener plants the seeds.", "Mix the flour with water.", "Bake the loaf."]


def test_ptx_adds_the_gradient_of_the_texts_log_likelihood(learner_of: LearnerOf) -> None:
    """InstructGPT, equation 2, against a loop over the texts in float64."""
    settings = with_settings(ptx_coef=0.3)
    learner = learner_of("llama", settings)
    texts = Pretraining(TEXTS, learner.chat, length=64, seed=0)
    model = copy.deepcopy(learner.policy).double()
    metrics = pretraining_gradients(learner, texts.draw(0, 3, learner.device), settings)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for text in TEXTS:
        ids = [*learner.chat.tokenizer(text)["input_ids"], min(learner.chat.stop_ids)]
        table = naive_logprob_table(model, ids[:1], ids[1:], 1.0)
        total = total - table[range(len(ids) - 1), ids[1:]].sum()
        tokens += len(ids) - 1
    assert metrics["loss/ptx_avg"].item() == pytest.approx((total / tokens).item(), rel=1e-4)
    expected = torch.autograd.grad(0.3 * total / tokens, list(model.parameters()))
    assert_same_gradients([p.grad for p in learner.policy.parameters()], expected)


def test_ptx_joins_the_policy_step_of_an_update(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    settings = with_settings(
        ptx_coef=0.3, epochs=1, minibatches=1, max_grad_norm=NO_CLIPPING_OF_GRADIENTS
    )
    learner = learner_of("llama", settings)
    rollout = rollout_of(learner, token_prompts("llama"))
    texts = Pretraining(TEXTS, learner.chat, length=64, seed=0)
    apart = copy.deepcopy(learner.policy)
    reward_part = gradients_of_update(copy.deepcopy(learner), rollout, settings)[0]
    pretraining_gradients(learner, texts.draw(0, 6, learner.device), settings)
    text_part = [p.grad.clone() for p in learner.policy.parameters()]
    learner.policy_optimizer.inner = torch.optim.SGD(learner.policy.parameters(), lr=1.0)
    metrics = update(learner, rollout, settings, seed=0, step=0, pretraining=texts)
    assert metrics["loss/ptx_avg"] > 0
    both = [
        old - new for old, new in zip(apart.parameters(), learner.policy.parameters(), strict=True)
    ]
    for mine, a, b in zip(both, reward_part, text_part, strict=True):
        torch.testing.assert_close(mine, a + b, rtol=1e-3, atol=1e-5)


def test_pieces_of_text_are_cut_to_length_and_drawn_in_turn(learner_of: LearnerOf) -> None:
    chat = learner_of("llama", SETTINGS).chat
    pieces = Pretraining(TEXTS, chat, length=5, seed=0)
    ids = [[*chat.tokenizer(t)["input_ids"], min(chat.stop_ids)] for t in TEXTS]
    expected = [x[i : i + 5] for x in ids for i in range(0, len(x), 5)]
    assert pieces.pieces == [piece for piece in expected if len(piece) > 1]
    n = len(pieces.pieces)
    drawn = pieces.draw(0, n, torch.device("cpu")).sequences()
    assert sorted(drawn) == sorted(pieces.pieces)
    later = pieces.draw(n // 2, n, torch.device("cpu")).sequences()
    assert later[: n - n // 2] == drawn[n // 2 :]


def test_texts_come_from_files_and_from_nowhere_else(tmp_path: Path, tiny) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("One\ntext.\n\n\nAnother.\n")
    lines.write_text('{"text": "One\\ntext."}\n{"text": "Another."}\n')
    assert read_texts(plain) == read_texts(lines) == ["One\ntext.", "Another."]
    lines.write_text('{"text": "One"}\n{"other": 1}\n')
    with pytest.raises(CaiError, match=r"b\.jsonl:2"):
        read_texts(lines)
    with pytest.raises(CaiError, match="does not exist"):
        read_texts(tmp_path / "c.txt")
    for settings, texts in ((SETTINGS, TEXTS), (with_settings(ptx_coef=0.1), [])):
        with pytest.raises(CaiError, match="needs both"):
            PPO(tiny("llama"), letters, settings).train(["How?"], tmp_path, pretraining=texts)
    with pytest.raises(CaiError, match="pretraining texts of PPO are empty"):
        PPO(tiny("llama"), letters, with_settings(ptx_coef=0.1)).train(
            ["How?"], tmp_path, pretraining=[" "]
        )
