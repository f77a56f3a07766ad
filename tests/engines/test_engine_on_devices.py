"""The local engine on a CPU and on a GPU: precision, and states that are used again."""

import numpy as np
import pytest
import torch
from devices import ON_EACH_DEVICE
from test_decode_loop import assert_same, loop, naive, random_requests
from test_prefixes import family_tree, requests, submitted
from tiny_models import FAMILIES

from cai.engines.scoring import TokenQuestion, score_options
from cai.models.loading import load_causal_lm

pytestmark = [ON_EACH_DEVICE, pytest.mark.parametrize("family", FAMILIES)]

LARGEST, MEAN = 0.4, 0.04
"""Nats by which bfloat16 may move the log-probability of a token of these models. On a CPU it moves
the log-probabilities of about 350 tokens by 0.09 to 0.27 at most, by family."""


@torch.no_grad()
def logprobs_of(model, request, tokens):
    """log P of tokens after a prompt: one pass, without a cache, in float64."""
    ids = torch.tensor([[*request.prompt_ids, *tokens]])
    logits = model(ids).logits[0].double() / (request.temperature or 1.0)
    places = range(len(request.prompt_ids) - 1, ids.shape[1] - 1)
    table = logits.log_softmax(-1)
    return [table[place, token].item() for place, token in zip(places, tokens, strict=True)]


def test_bfloat16_samples_from_nearly_the_distribution_of_float32(family, chosen, tiny_settings):
    """Each sampled token has about the log-probability that the float32 weights give it."""
    exact = load_causal_lm(tiny_settings(family), device="cpu")
    low = load_causal_lm(tiny_settings(family, dtype="bfloat16"), device=chosen)
    asked = random_requests(30, seed=5, temperatures=(1.0, 0.7))
    said = loop(low).run(asked)
    differences = [
        abs(got - expected)
        for request, completion in zip(asked, said, strict=True)
        for got, expected in zip(
            completion.logprobs, logprobs_of(exact, request, completion.token_ids), strict=True
        )
    ]
    assert max(differences) < LARGEST
    assert np.mean(differences) < MEAN
    assert max(differences) > 1e-6  # it did compute in bfloat16
    # One uniform number decides each token, so most draws are the same: 22 of 30 or more on a CPU.
    first = [naive(exact, request)[0][0] for request in asked]
    same = np.mean([a == c.token_ids[0] for a, c in zip(first, said, strict=True)])
    assert same >= 0.65


def test_stored_beginnings_change_no_sample(family, chosen, tiny_settings):
    model = load_causal_lm(tiny_settings(family), device=chosen)
    asked = requests(family_tree())
    decode = loop(model, 400, prefix_tokens=10_000)
    expected = [naive(model, request) for request in asked]
    for _ in range(2):
        said = submitted(decode, asked)
        assert_same(said, expected)
    assert sum(completion.cached for completion in said) > 1000


def test_options_are_scored_as_row_by_row(family, chosen, tiny_settings):
    rng = np.random.default_rng(3)
    model = load_causal_lm(tiny_settings(family), device=chosen)
    plain = load_causal_lm(tiny_settings(family), device="cpu")
    options = ((20,), (30, 31), (40, 41, 42))
    questions = [TokenQuestion(prompt, options) for prompt in family_tree()]
    rng.shuffle(questions)
    scored = score_options(model, questions, max_batch_tokens=500)
    for question, scores in zip(questions, scored, strict=True):
        request = requests([question.prompt_ids])[0]
        expected = [sum(logprobs_of(plain, request, option)) for option in options]
        np.testing.assert_allclose(scores.logprobs, expected, atol=1e-3)
