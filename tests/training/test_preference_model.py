"""Scores: read at the last real token whatever surrounds it, and the same for everybody."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES
from transformers import AutoModelForCausalLM

from cai.data.conversation import user
from cai.errors import CaiError
from cai.models.loading import load_chat_format
from cai.models.preference_model import (
    PreferenceModel,
    last_token_scores,
    pad_right,
)
from cai.training.preference_measures import soft_bradley_terry_loss
from cai.training.scorer import new_preference_model, reset_score_head

SEQUENCES = [[5, 17, 200, 31, 8, 90, 12], [44, 6, 7], [9, 9, 121, *range(60, 70)]]

finite = st.floats(-30, 30)
unit = st.floats(0, 1)


@pytest.fixture(params=FAMILIES)
def model(request, base):
    return new_preference_model(base(request.param), seed=3)


def naive_score(model, sequence):
    """One row, no padding, in float64, through transformers' own layers."""
    double = copy.deepcopy(model).double()
    hidden = double.base_model(torch.tensor([sequence])).last_hidden_state[0, -1]
    return (hidden @ double.score.weight[0]).item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("amount", [0, 1, 9])
def test_fact_19_a_score_does_not_depend_on_padding_or_batch_mates(model, side, amount):
    width = max(map(len, SEQUENCES)) + amount
    # The pad id is a token of the text, and each row's last token.
    rows, masks = [], []
    for sequence in SEQUENCES:
        padding = width - len(sequence)
        pad, off, on = [sequence[-1]] * padding, [0] * padding, [1] * len(sequence)
        rows.append(pad + sequence if side == "left" else sequence + pad)
        masks.append(off + on if side == "left" else on + off)
    with torch.no_grad():
        scores = last_token_scores(model, torch.tensor(rows), torch.tensor(masks))
    expected = [naive_score(model, sequence) for sequence in SEQUENCES]
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)


def test_prefixes_are_scored_at_their_own_last_token(model):
    for sequence in SEQUENCES:
        prefixes = [sequence[: n + 1] for n in range(len(sequence))]
        with torch.no_grad():
            scores = last_token_scores(model, *pad_right(prefixes, pad_id=0))
        expected = [naive_score(model, prefix) for prefix in prefixes]
        assert scores.tolist() == pytest.approx(expected, abs=1e-4)


def test_scores_come_in_the_order_of_the_items_and_normalised(base):
    model = new_preference_model(base("qwen3"), seed=3)
    chat = load_chat_format(base("qwen3"))
    scorer = PreferenceModel(model, chat, mean=0.5, std=2.0)
    answers = ["Yes, of course: mix flour and water.", "No.", "Wait an hour.", "I am sorry."]
    items = [(user("How do I bake a loaf?"), answer) for answer in answers]
    expected = [(naive_score(model, scorer.ids(*item)) - 0.5) / 2.0 for item in items]
    for size in (1, 3, 32):
        assert scorer.score(items, micro_batch_size=size) == pytest.approx(expected, abs=1e-4)
    assert scorer.score([]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_fact_24_ids_are_prompt_then_completion_with_one_bos_and_one_turn_end(family, base):
    chat = load_chat_format(base(family))
    scorer = PreferenceModel(new_preference_model(base(family), seed=0), chat)
    ids = scorer.ids(user("How do I bake a loaf?"), "Mix the flour.")
    assert ids[-1] == chat.turn_end
    bos = chat.tokenizer.bos_token_id
    if family in ("llama", "gemma"):
        assert ids.count(bos) == 1
        assert ids[0] == bos


def test_conversation_longer_than_the_context_is_refused_not_cut(base):
    gpt2 = base("gpt2")
    scorer = PreferenceModel(new_preference_model(gpt2, seed=0), load_chat_format(gpt2))
    with pytest.raises(CaiError, match=r"2049 tokens does not fit .* 2048"):
        scorer.score_ids([[1] * 2049])


def test_language_model_is_no_preference_model(base):
    with pytest.raises(CaiError, match="is not a preference model"):
        PreferenceModel.load(base().path)


def test_fact_18_the_score_head_is_drawn_by_seed_with_std_of_one_over_root_width_plus_one(base):
    model, heads = new_preference_model(base(), seed=3), []
    first = model.score.weight.detach().clone()
    for seed in range(40):
        reset_score_head(model, seed=seed)
        heads.append(model.score.weight.detach().clone())
    assert torch.equal(heads[3], first)
    assert not torch.equal(heads[3], heads[4])
    # 40 heads of 32 weights: the standard error of the deviation is 2%.
    assert torch.stack(heads).std().item() == pytest.approx(1 / math.sqrt(33), rel=0.08)


def test_backbone_is_the_base_models(base):
    lm = AutoModelForCausalLM.from_pretrained(base().path)
    ids = torch.tensor([SEQUENCES[0]])
    ours = new_preference_model(base(), seed=0).base_model(ids).last_hidden_state
    torch.testing.assert_close(ours, lm.base_model(ids).last_hidden_state, rtol=0, atol=0)


@given(delta=finite, probability=unit, weight=st.floats(0, 10))
def test_loss_agrees_with_its_definition(delta, probability, weight):
    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

    expected = -weight * (
        probability * log_sigmoid(delta) + (1 - probability) * log_sigmoid(-delta)
    )
    loss = soft_bradley_terry_loss(*tensors(delta, probability, weight))
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(delta=finite, probability=unit)
def test_swapping_the_responses_mirrors_loss_and_gradient(delta, probability):
    loss, gradient = loss_and_gradient(delta, probability)
    mirrored_loss, mirrored_gradient = loss_and_gradient(-delta, 1 - probability)
    assert loss == pytest.approx(mirrored_loss, abs=1e-9)
    assert gradient == pytest.approx(-mirrored_gradient, abs=1e-9)
    assert gradient == pytest.approx(1 / (1 + math.exp(-delta)) - probability, abs=1e-9)


@given(probability=st.floats(0.01, 0.99))
def test_loss_is_smallest_where_the_model_agrees_with_the_label(probability):
    _, gradient = loss_and_gradient(math.log(probability / (1 - probability)), probability)
    assert gradient == pytest.approx(0, abs=1e-9)


def tensors(*numbers):
    return [torch.tensor([number], dtype=torch.float64) for number in numbers]


def loss_and_gradient(delta, probability):
    delta, probability, weight = tensors(delta, probability, 1.0)
    delta.requires_grad_()
    loss = soft_bradley_terry_loss(delta, probability, weight).sum()
    loss.backward()
    return loss.item(), delta.grad.item()
