"""Shared beginnings: found, run once, and without influence on what is said."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_decode_loop import assert_same, loop, naive
from tiny_models import FAMILIES

from cai.engines.decode import TokenRequest
from cai.engines.pages import PagedCache
from cai.engines.prefixes import BLOCK, Prefixes, Stored
from cai.engines.scoring import TokenQuestion, score_options
from cai.models.loading import load_causal_lm


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_settings):
    return load_causal_lm(tiny_settings(request.param), device="cpu")


@pytest.fixture(scope="module")
def llama(tiny_settings):
    return load_causal_lm(tiny_settings("llama"), device="cpu")


class Counting(torch.nn.Module):
    """A model that counts the tokens it runs, padding included."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.device = model, model.config, model.device
        self._supports_attention_backend = True
        self.tokens = self.calls = 0

    def forward(self, input_ids, **inputs):
        self.tokens += input_ids.numel()
        self.calls += 1
        return self.inner(input_ids=input_ids, **inputs)


def ids(rng, count):
    return tuple(rng.integers(5, 390, count).tolist())


def family_tree(seed=0):
    """Prompts that share beginnings of several lengths, and some that share nothing."""
    rng = np.random.default_rng(seed)
    root = ids(rng, 140)
    prompts = [ids(rng, length) for length in (3, 30, 70)]
    for length in (0, 7, 33):
        branch = root + ids(rng, length)
        prompts += [branch, branch, *(branch + ids(rng, n) for n in (1, 5, 16, 20))]
    return [prompts[i] for i in rng.permutation(len(prompts))]


def requests(prompts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TokenRequest(prompt, int(rng.integers(2**60)), int(rng.integers(1, 12)), float(i % 2))
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def alone(model):
    """The family tree, and what each request of it says alone."""
    asked = requests(family_tree())
    return asked, [naive(model, request) for request in asked]


@pytest.mark.parametrize("max_batch_tokens", [1, 500, 100_000])
def test_rows_that_begin_alike_are_sampled_as_alone(model, alone, max_batch_tokens):
    asked, expected = alone
    assert_same(loop(model, max_batch_tokens).run(asked), expected)


@pytest.fixture(scope="module")
def followed_alone(model, alone):
    """What goes on from each completion of the family tree, and what that says alone."""
    followed = [
        dataclasses.replace(request, prompt_ids=(*request.prompt_ids, *tokens, 9, 8, 7))
        for request, (tokens, _, _) in zip(*alone, strict=True)
    ]
    said = [loop(model).run([request])[0] for request in followed]
    return followed, [(c.token_ids, c.logprobs, c.finish) for c in said]


@pytest.mark.parametrize("prefix_tokens", [90, 10_000])
def test_what_follows_a_completion_is_sampled_as_without_its_states(
    model, alone, followed_alone, prefix_tokens
):
    decode = loop(model, 400, prefix_tokens=prefix_tokens)
    for asked, expected in (alone, followed_alone):
        said = submitted(decode, asked)
        assert_same(said, expected)
    assert sum(completion.cached for completion in said) > 0


def submitted(decode, asked):
    """Complete requests without forgetting what was completed before."""
    got = {}
    for index, request in enumerate(asked):
        decode.submit(request, index)
    while decode.busy:
        got.update(decode.step())
    return [got[index] for index in range(len(asked))]


@pytest.mark.parametrize("others", ["none", "a twin", "one that parts early"])
def test_a_request_that_goes_on_at_once_starts_from_all_that_was_said(model, others):
    rng = np.random.default_rng(3)
    shared = ids(rng, 70)
    first = TokenRequest(shared + ids(rng, 60), 1, max_tokens=9)
    decode = loop(model, 100_000, stop_ids=())
    decode.submit(first, 0)
    said = {}
    while decode.busy:
        said.update(decode.step())
    goes_on = TokenRequest((*first.prompt_ids, *said[0].token_ids, 9, 8), 2, max_tokens=20)
    asked = {"none": [], "a twin": [dataclasses.replace(goes_on, seed=5)]}.get(others)
    asked = [goes_on, *([TokenRequest(shared + ids(rng, 90), 3, 20)] if asked is None else asked)]
    for index, request in enumerate(asked):
        decode.submit(request, index)
    while decode.busy:
        said.update(decode.step())
    assert said[0].cached == 130 + 8  # the states of the last sampled token were never needed
    if len(asked) > 1:
        assert said[1].cached == (140 if others == "a twin" else 70)
    for index, request in enumerate(asked):
        (alone,) = loop(model, stop_ids=()).run([request])
        assert_same([said[index]], [(alone.token_ids, alone.logprobs, alone.finish)])


@pytest.fixture(scope="module")
def scored_alone(model):
    """Questions on the family tree, and the answer to each one alone."""
    options = ((40, 50), (40,), (60, 70, 80))
    questions = [
        TokenQuestion(prompt, options[: 1 + i % 3]) for i, prompt in enumerate(family_tree())
    ]
    return questions, [
        score_options(model, [question], max_batch_tokens=100_000)[0] for question in questions
    ]


@pytest.mark.parametrize("max_batch_tokens", [1, 500, 100_000])
def test_questions_that_begin_alike_are_scored_as_alone(model, scored_alone, max_batch_tokens):
    questions, expected = scored_alone
    prefixes = Prefixes(300)
    for _ in range(2):
        got = score_options(model, questions, max_batch_tokens=max_batch_tokens, prefixes=prefixes)
        for answer, alone in zip(got, expected, strict=True):
            np.testing.assert_allclose(answer.logprobs, alone.logprobs, atol=1e-4)


def test_a_shared_beginning_is_run_once(llama):
    rng = np.random.default_rng(0)
    shared = ids(rng, 200)
    asked = [TokenRequest(shared + ids(rng, 20), seed, max_tokens=1) for seed in range(16)]
    counting = Counting(llama)
    said = loop(counting, 100_000, stop_ids=()).run(asked)
    assert counting.tokens == 200 + 16 * 20
    assert sorted(completion.cached for completion in said) == [0, *[200] * 15]


def test_an_ensemble_costs_one_shared_prefill_and_no_generation(llama):
    """Options are scored after a prefill: conversation and responses once, then each principle."""
    rng = np.random.default_rng(0)
    shared = ids(rng, 400)
    questions = [TokenQuestion(shared + ids(rng, 40), ((7,), (8,))) for _ in range(16)]
    counting = Counting(llama)
    score_options(counting, questions, max_batch_tokens=100_000)
    assert counting.tokens == 400 + 16 * 40
    assert counting.calls <= 3


def test_options_of_one_token_cost_one_forward_pass(llama):
    counting = Counting(llama)
    question = TokenQuestion((5, 6, 7), ((8,), (9,), (10,)))
    score_options(counting, [question], max_batch_tokens=1000)
    assert (counting.calls, counting.tokens) == (1, 3)


def test_the_verdict_starts_where_the_chain_of_thought_ended(llama):
    counting = Counting(llama)
    decode = loop(counting, 1000, stop_ids=(), prefix_tokens=1000)
    prompt = ids(np.random.default_rng(0), 100)
    decode.submit(TokenRequest(prompt, 0, max_tokens=30), None)
    while decode.busy:
        said = decode.step()
    before = counting.tokens
    question = TokenQuestion((*prompt, *said[0][1].token_ids, 5, 6), ((7,), (8,)))
    (answer,) = score_options(counting, [question], max_batch_tokens=1000, prefixes=decode.prefixes)
    assert answer.cached == 100 + 29  # the states of the last sampled token were never needed
    assert counting.tokens - before == 3


def test_new_weights_forget_old_states(llama, tiny_settings):
    decode = loop(llama, 1000, prefix_tokens=1000)
    request = TokenRequest(ids(np.random.default_rng(0), 60), 0, max_tokens=5)
    decode.run([request])
    assert decode.run([request])[0].cached == 0


sequences = st.lists(st.integers(0, 1), min_size=1, max_size=3 * BLOCK).map(tuple)


@given(known=st.lists(sequences, max_size=6), gone=st.sets(st.integers(0, 5)), asked=sequences)
def test_the_longest_beginning_is_found(known, gone, asked):
    prefixes = Prefixes(0)
    listed = [Stored(tokens, PagedCache(), []) for tokens in known]
    for stored in listed:
        prefixes.add(stored)
    for index in gone & set(range(len(listed))):
        prefixes.remove(listed[index])
    found, count = prefixes.longest(asked)
    if found is not None:
        assert found in listed
        assert found.ids[:count] == asked[:count]
        assert found.ids[count : count + 1] != asked[count : count + 1] or count == len(asked)
    else:
        assert count == 0
    if not gone:
        whole = [sum(1 for _ in _common(tokens, asked)) // BLOCK for tokens in known]
        assert count // BLOCK == max(whole, default=0)


def _common(first, second):
    for a, b in zip(first, second, strict=False):
        if a != b:
            return
        yield a


def test_what_is_kept_stays_within_its_capacity(llama):
    rng = np.random.default_rng(0)
    decode = loop(llama, 100_000, stop_ids=(), prefix_tokens=100)
    prompts = [ids(rng, 40) for _ in range(5)]
    for prompt in prompts:
        decode.submit(TokenRequest(prompt, 0, max_tokens=1), None)
        while decode.busy:
            decode.step()
    decode.step(), decode.step()  # what has finished stays until others may have joined
    kept = [decode.prefixes.longest(prompt)[1] for prompt in prompts]
    assert kept == [0, 0, 0, 40, 40]
