"""The decode loop against one row at a time, without cache, padding or batches, in float64."""

import math

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES

from cai.engines import PromptTooLong
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.engines.draws import as_seeds, uniforms
from cai.errors import CaiError
from cai.models.loading import load_causal_lm

STOP_IDS = {1, 7, 30, 60, 90}
PAD_ID = 3


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_settings):
    return load_causal_lm(tiny_settings(request.param), device="cpu")


@pytest.fixture(scope="module")
def llama(tiny_settings):
    return load_causal_lm(tiny_settings("llama"), device="cpu")


def random_requests(count, seed=0, temperatures=(1.0, 0.0, 0.6), longest=60):
    rng = np.random.default_rng(seed)
    return [
        TokenRequest(
            prompt_ids=tuple(rng.integers(5, 390, rng.integers(1, longest)).tolist()),
            seed=int(rng.integers(2**63)),
            max_tokens=int(rng.integers(1, 25)),
            temperature=temperatures[index % len(temperatures)],
        )
        for index in range(count)
    ]


def loop(model, max_batch_tokens=2000, stop_ids=STOP_IDS, **more):
    return DecodeLoop(model, stop_ids=stop_ids, max_batch_tokens=max_batch_tokens, **more)


@torch.no_grad()
def naive(model, request):
    """Sample one request, running everything anew for each token."""
    ids, tokens, logprobs = list(request.prompt_ids), [], []
    for position in range(request.max_tokens):
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -1].double().cpu()
        p = torch.softmax(logits / (request.temperature or 1.0), -1).numpy()
        uniform = float(uniforms(as_seeds([request.seed]), np.array([position]))[0])
        token = int(np.argmax(np.cumsum(p) > uniform)) if request.temperature else int(p.argmax())
        ids.append(token)
        tokens.append(token)
        logprobs.append(math.log(p[token]))
        if token in STOP_IDS:
            return tuple(tokens), logprobs, "stop"
    return tuple(tokens), logprobs, "length"


def assert_same(completions, expected):
    for completion, (tokens, logprobs, finish) in zip(completions, expected, strict=True):
        assert completion.token_ids == tokens
        assert completion.finish == finish
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-4)


def test_samples_as_the_naive_loop_does(model):
    requests = [*random_requests(18), *random_requests(12, seed=7, longest=200)]
    expected = [naive(model, request) for request in requests]
    assert {finish for _, _, finish in expected} == {"stop", "length"}
    assert_same(loop(model).run(requests), expected)


@pytest.mark.parametrize("max_batch_tokens", [1, 300, 100_000])
def test_batch_mates_order_and_budget_change_nothing(model, max_batch_tokens):
    requests = random_requests(16, seed=1)
    together = loop(model).run(requests)
    order = np.random.default_rng(2).permutation(len(requests))
    shuffled = loop(model, max_batch_tokens).run([requests[i] for i in order])
    alone = loop(model).run(requests[5:6])
    assert_same(
        [*shuffled, *alone],
        [(c.token_ids, c.logprobs, c.finish) for c in [*(together[i] for i in order), together[5]]],
    )


def test_requests_that_join_while_others_decode_are_the_same(model):
    requests = random_requests(30, seed=3)
    expected = loop(model).run(requests)
    decode, got, waiting = loop(model), {}, list(enumerate(requests))
    while waiting or decode.busy:
        for index, request in waiting[:3]:
            decode.submit(request, index)
        waiting = waiting[3:]
        got.update(decode.step())
    assert_same(
        [got[i] for i in range(30)], [(c.token_ids, c.logprobs, c.finish) for c in expected]
    )


def test_greedy_is_what_generate_does(model):
    requests = random_requests(6, seed=5, temperatures=(0.0,))
    for request, completion in zip(requests, loop(model).run(requests), strict=True):
        ids = torch.tensor([request.prompt_ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=request.max_tokens,
            eos_token_id=sorted(STOP_IDS),
            pad_token_id=PAD_ID,
        )
        assert tuple(generated[0, ids.shape[1] :].tolist()) == completion.token_ids


def test_equal_prompts_with_other_seeds_differ(llama):
    requests = [TokenRequest((5, 6, 7), seed, max_tokens=20) for seed in range(4)]
    completions = loop(llama, stop_ids=set()).run([*requests, requests[0]])
    assert len({c.token_ids for c in completions}) == 4
    assert completions[0].token_ids == completions[4].token_ids


def test_draws_of_one_prompt_follow_the_models_distribution(llama):
    prompt, count = (9, 20, 31, 42), 4000
    requests = [TokenRequest(prompt, seed, max_tokens=1, temperature=0.5) for seed in range(count)]
    counts = np.zeros(llama.config.vocab_size)
    for completion in loop(llama, 100_000).run(requests):
        counts[completion.token_ids[0]] += 1
    with torch.no_grad():
        logits = llama(torch.tensor([prompt])).logits[0, -1].double()
    expected = torch.softmax(logits / 0.5, -1).numpy() * count
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    freedom = len(wanted) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_a_stop_token_in_the_last_place_is_a_stop(llama):
    request = TokenRequest((5, 6, 7), seed=1, max_tokens=4)
    (free,) = loop(llama, stop_ids=set()).run([request])
    assert free.finish == "length"
    (stopped,) = loop(llama, stop_ids={free.token_ids[3]} - set(free.token_ids[:3])).run([request])
    assert stopped.token_ids == free.token_ids
    assert stopped.finish == "stop"


def test_ends_is_asked_after_each_token(llama):
    request = TokenRequest((5, 6, 7), seed=1, max_tokens=9, ends=lambda ids: len(ids) == 4)
    (completion,) = loop(llama, stop_ids=set()).run([request])
    assert (len(completion.token_ids), completion.finish) == (4, "stop")


def test_the_whole_context_can_be_used_and_no_more(tiny_settings):
    model = load_causal_lm(tiny_settings("gpt2"), device="cpu")
    context = model.config.n_positions
    fits = TokenRequest((5,) * (context - 3), seed=0, max_tokens=3)
    short = TokenRequest((5, 6), seed=0, max_tokens=30)
    long, _ = loop(model, stop_ids=set()).run([fits, short])
    assert len(long.token_ids) == 3
    with pytest.raises(PromptTooLong, match=str(context)):
        loop(model).run([TokenRequest((5,) * (context - 2), seed=0, max_tokens=3)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_ids": ()},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
    ],
)
def test_malformed_requests_are_refused(llama, wrong):
    request = TokenRequest(**{"prompt_ids": (5,), "seed": 0, "max_tokens": 1, **wrong})
    with pytest.raises(ValueError, match="a request needs"):
        loop(llama).run([request])


def test_nothing_asked_nothing_answered(llama):
    assert loop(llama).run([]) == []


def test_a_model_in_training_mode_is_run_in_eval_mode_and_given_back(llama):
    llama.train()
    try:
        loop(llama).run(random_requests(2))
        assert llama.training
    finally:
        llama.eval()


def test_weights_can_be_trained_after_they_were_sampled_from(tiny_settings):
    model = load_causal_lm(tiny_settings("llama"), device="cpu")
    before = loop(model).run(random_requests(3))
    model(torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    after = loop(model).run(random_requests(3))
    assert before != after


def test_broken_weights_are_named_not_sampled_from(tiny_settings):
    model = load_causal_lm(tiny_settings("llama"), device="cpu")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    decode = loop(model)
    with pytest.raises(CaiError, match="NaN"):
        decode.run(random_requests(3))
    assert not decode.busy


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_samples_the_same(model):
    requests = random_requests(40)
    expected = loop(model).run(requests)
    on_gpu = loop(model.to("cuda")).run(requests)
    model.to("cpu")
    same = sum(a.token_ids == b.token_ids for a, b in zip(on_gpu, expected, strict=True))
    assert same >= 38  # other kernels may tip a draw that falls on the edge of two tokens
