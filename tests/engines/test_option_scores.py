"""Option scores against full forward passes in float64."""

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES

from cai.engines.scoring import TokenQuestion, score_options
from cai.models.loading import load_causal_lm


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_settings):
    return load_causal_lm(tiny_settings(request.param), device="cpu")


def score(model, questions, max_batch_tokens=1000, prefixes=None):
    answers = score_options(model, questions, max_batch_tokens=max_batch_tokens, prefixes=prefixes)
    return [answer.logprobs for answer in answers]


def random_questions(count, seed=0):
    rng = np.random.default_rng(seed)

    def ids(shortest, longest):
        return tuple(rng.integers(5, 390, rng.integers(shortest, longest)).tolist())

    return [
        TokenQuestion(ids(1, 50), tuple(ids(1, 6) for _ in range(rng.integers(1, 5))))
        for _ in range(count)
    ]


@torch.no_grad()
def naive(model, question):
    scores = []
    for option in question.options:
        ids = torch.tensor([[*question.prompt_ids, *option]])
        logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
        places = range(len(question.prompt_ids) - 1, ids.shape[1] - 1)
        scores.append(
            sum(float(logprobs[at, token]) for at, token in zip(places, option, strict=True))
        )
    return scores


@pytest.mark.parametrize("max_batch_tokens", [1, 200, 100_000])
def test_scores_are_those_of_full_forward_passes(model, max_batch_tokens):
    questions = random_questions(12)
    questions.append(questions[3])
    got = score(model, questions, max_batch_tokens)
    for scores, question in zip(got, questions, strict=True):
        np.testing.assert_allclose(scores, naive(model, question), atol=2e-4)


def test_all_options_of_one_token_add_up_to_one(model):
    options = tuple((token,) for token in range(model.config.vocab_size))
    (scores,) = score(model, [TokenQuestion((9, 20, 31), options)])
    assert np.exp(np.array(scores)).sum() == pytest.approx(1, abs=1e-5)


def test_an_option_that_begins_another_is_at_least_as_probable(model):
    question = TokenQuestion((9, 20, 31), ((40, 50), (40,), (40, 50, 60)))
    ((two, one, three),) = score(model, [question])
    assert one >= two >= three
