"""The asynchronous face: many requests, failures, cancellation, closing."""

import asyncio
import math
import threading

import pytest
import torch
from tiny_models import FAMILIES

from cai.data.conversation import Prompt, user
from cai.engines import GenerateRequest, PromptTooLong, ScoreRequest
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.engines.opening import open_engine
from cai.engines.transformers import TransformersEngine
from cai.errors import CaiError
from cai.models.loading import fingerprint_model, load_causal_lm, load_chat_format

TIMEOUT = 120
"""Seconds after which something hangs; nothing here takes a tenth of it."""


def with_engine(engine, body):
    """Run `body(engine)` to its end and close the engine."""

    async def run():
        try:
            return await asyncio.wait_for(body(engine), TIMEOUT)
        finally:
            await engine.close()

    return asyncio.run(run())


def request(text, seed=0, max_tokens=12, **more):
    return GenerateRequest(Prompt(user(text)), seed=seed, max_tokens=max_tokens, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_at_once_say_what_each_says_alone(tiny_settings, family):
    settings = tiny_settings(family)
    requests = [request("hello " * (1 + i % 5), seed=i, max_tokens=4 + i % 9) for i in range(24)]

    async def gather(engine):
        return await asyncio.gather(*map(engine.generate, requests))

    async def one_by_one(engine):
        return [await engine.generate(each) for each in requests[::6]]

    together = with_engine(open_engine(settings), gather)
    assert [c.token_ids for c in with_engine(open_engine(settings), one_by_one)] == [
        c.token_ids for c in together[::6]
    ]
    chat = load_chat_format(settings)
    for completion in together:
        assert completion.fingerprint == fingerprint_model(settings)
        assert completion.text == chat.text(completion.token_ids, stop=chat.stop_strings)
        assert len(completion.logprobs) == len(completion.token_ids)


def test_the_prompt_is_the_chat_formats(tiny_settings):
    settings = tiny_settings("llama")
    chat = load_chat_format(settings)
    prompt = Prompt(user("Which one?"), prefill="The answer is:")
    (expected,) = DecodeLoop(
        load_causal_lm(settings), stop_ids=chat.stop_ids, max_batch_tokens=999
    ).run([TokenRequest(tuple(chat.prompt_ids(prompt)), seed=3, max_tokens=10)])

    async def body(engine):
        return await engine.generate(GenerateRequest(prompt, seed=3, max_tokens=10))

    assert with_engine(open_engine(settings), body).token_ids == expected.token_ids


def test_a_stop_text_ends_the_completion_and_is_cut_off(tiny_settings):
    settings = tiny_settings("llama")
    chat = load_chat_format(settings)

    async def body(engine):
        whole = await engine.generate(request("hi", seed=5, max_tokens=40))
        text = chat.decode(whole.token_ids)
        stop = text[12:15]
        return text, stop, await engine.generate(request("hi", seed=5, max_tokens=40, stop=(stop,)))

    text, stop, stopped = with_engine(open_engine(settings), body)
    assert stopped.finish == "stop"
    assert stopped.text == text[: text.index(stop)].strip()
    assert stop in chat.decode(stopped.token_ids)
    assert stop not in chat.decode(stopped.token_ids[:-1])


def test_options_are_scored_after_the_prefill(tiny_settings):
    settings = tiny_settings("qwen3")
    prompt = Prompt(user("Which one?"), prefill="The answer is:")
    options = (" (A)", " (B)", " neither of them")
    chat, model = load_chat_format(settings), load_causal_lm(settings, device="cpu")

    async def body(engine):
        return await asyncio.gather(*(engine.score(ScoreRequest(prompt, options)) for _ in "xyz"))

    prefix = chat.prompt_ids(prompt)
    for scores in with_engine(open_engine(settings), body):
        for option, score in zip(options, scores.logprobs, strict=True):
            ids = chat.option_ids(option)
            with torch.no_grad():
                logits = model(torch.tensor([[*prefix, *ids]])).logits[0, len(prefix) - 1 : -1]
            each = torch.log_softmax(logits.double(), -1)[range(len(ids)), ids]
            assert score == pytest.approx(each.sum().item(), abs=1e-4)


@pytest.mark.parametrize("options", [(), ("",), (" (A)", ""), (" (A)", " (B)", " (A)")])
def test_options_that_cannot_be_told_apart_are_refused(tiny_settings, options):
    async def body(engine):
        with pytest.raises(CaiError, match="options"):
            await engine.score(ScoreRequest(Prompt(user("x")), options))

    with_engine(open_engine(tiny_settings("llama")), body)


def test_a_prompt_that_is_too_long_fails_alone(tiny_settings):
    long = "word " * 3000

    async def body(engine):
        return await asyncio.gather(
            engine.generate(request("hi")),
            engine.generate(request(long)),
            engine.score(ScoreRequest(Prompt(user(long)), (" a", " b"))),
            engine.score(ScoreRequest(Prompt(user("hi")), (" a", " b"))),
            return_exceptions=True,
        )

    fine, failed, unscored, scored = with_engine(open_engine(tiny_settings("llama")), body)
    assert isinstance(failed, PromptTooLong)
    assert isinstance(unscored, PromptTooLong)
    assert fine.token_ids
    assert len(scored.logprobs) == 2


def test_usage_counts_what_was_answered(tiny_settings):
    settings = tiny_settings("llama")
    engine = open_engine(settings)
    chat = load_chat_format(settings)

    async def body(engine):
        completion = await engine.generate(request("hi"))
        await engine.score(ScoreRequest(Prompt(user("hello")), (" a", " b")))
        return completion

    completion = with_engine(engine, body)
    prompts = sum(len(chat.prompt_ids(Prompt(user(text)))) for text in ("hi", "hello"))
    options = sum(len(chat.option_ids(option)) for option in (" a", " b"))
    assert engine.usage.engine_calls == 2
    assert engine.usage.tokens_in == prompts + options
    assert engine.usage.tokens_out == len(completion.token_ids)


class Faulty(torch.nn.Module):
    """A model that raises, or waits for leave, before a forward pass."""

    def __init__(self, model, before):
        super().__init__()
        self.inner, self.before = model, before
        self.config, self.device = model.config, model.device
        self._supports_attention_backend = True

    def forward(self, **inputs):
        self.before()
        return self.inner(**inputs)


def faulty_engine(settings, before):
    model = Faulty(load_causal_lm(settings, device="cpu"), before).eval()
    return TransformersEngine(
        model, load_chat_format(settings), name="x", fingerprint="x", max_batch_tokens=4096
    )


def test_an_error_in_the_worker_reaches_everyone_and_does_not_stop_it(tiny_settings):
    errors = [RuntimeError("the model broke"), torch.OutOfMemoryError("CUDA out of memory")]

    def before():
        if errors:
            raise errors.pop(0)

    async def body(engine):
        async def both():
            return await asyncio.gather(
                *(engine.generate(request("hi", seed=i)) for i in range(5)), return_exceptions=True
            )

        return [await both() for _ in range(3)]

    broken, exhausted, fine = with_engine(faulty_engine(tiny_settings("llama"), before), body)
    assert [str(error) for error in broken] == ["the model broke"] * 5
    assert all(isinstance(e, CaiError) and "max_batch_tokens" in str(e) for e in exhausted)
    assert all(completion.token_ids for completion in fine)


def test_an_error_while_scoring_reaches_the_scorer_alone(tiny_settings):
    def before():
        if threading.current_thread().name == "cai-engine" and failing:
            failing.pop()
            raise RuntimeError("the model broke")

    failing = [True]

    async def body(engine):
        question = ScoreRequest(Prompt(user("hi")), (" a", " b"))
        return await asyncio.gather(
            engine.score(question), engine.generate(request("hi")), return_exceptions=True
        )

    scored, generated = with_engine(faulty_engine(tiny_settings("llama"), before), body)
    assert str(scored) == "the model broke"
    assert generated.token_ids


def test_cancelling_one_leaves_the_others_alone(tiny_settings):
    settings = tiny_settings("llama")
    started, leave = threading.Event(), threading.Event()

    def before():
        started.set()
        leave.wait(TIMEOUT)

    async def body(engine):
        tasks = [asyncio.create_task(engine.generate(request("hi", seed=i))) for i in range(4)]
        await asyncio.to_thread(started.wait, TIMEOUT)
        late = asyncio.create_task(engine.generate(request("late")))
        await asyncio.sleep(0)
        tasks[1].cancel()
        late.cancel()
        leave.set()
        return await asyncio.gather(*tasks, late, return_exceptions=True)

    zero, one, two, three, late = with_engine(faulty_engine(settings, before), body)
    assert isinstance(one, asyncio.CancelledError)
    assert isinstance(late, asyncio.CancelledError)
    assert all(completion.token_ids for completion in (zero, two, three))


def test_closing_fails_what_is_pending_and_what_comes_after(tiny_settings):
    started, leave = threading.Event(), threading.Event()

    def before():
        started.set()
        leave.wait(TIMEOUT)

    async def body():
        engine = faulty_engine(tiny_settings("llama"), before)
        running = asyncio.create_task(engine.generate(request("hi", max_tokens=500)))
        await asyncio.to_thread(started.wait, TIMEOUT)
        queued = asyncio.create_task(engine.score(ScoreRequest(Prompt(user("x")), (" a", " b"))))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        leave.set()
        await closing
        pending = await asyncio.gather(running, queued, return_exceptions=True)
        with pytest.raises(CaiError, match="closed"):
            await engine.generate(request("hi"))
        await engine.close()
        return pending

    for error in asyncio.run(asyncio.wait_for(body(), TIMEOUT)):
        assert isinstance(error, CaiError)
        assert "closed" in str(error)


def test_an_engine_survives_its_first_event_loop(tiny_settings):
    engine = open_engine(tiny_settings("llama"))
    first = asyncio.run(engine.generate(request("hi")))
    second = asyncio.run(engine.generate(request("hi")))
    asyncio.run(engine.close())
    assert first == second


def test_nan_is_reported_to_the_caller(tiny_settings):
    settings = tiny_settings("llama")
    model = load_causal_lm(settings)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    engine = TransformersEngine(
        model, load_chat_format(settings), name="x", fingerprint="x", max_batch_tokens=4096
    )

    async def body(engine):
        with pytest.raises(CaiError, match="NaN"):
            await engine.generate(request("hi"))
        with pytest.raises(CaiError, match="NaN"):
            await engine.score(ScoreRequest(Prompt(user("hi")), (" a", " b")))

    with_engine(engine, body)


def test_a_tokenizer_that_outgrew_its_model_is_refused(tiny_settings, tmp_path):
    from tiny_models import copy_of, make_tiny_tokenizer

    folder = copy_of(tiny_settings("llama").path, tmp_path / "model")
    tokenizer = make_tiny_tokenizer("llama")
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CaiError, match="401 tokens"):
        open_engine(tiny_settings("llama").model_copy(update={"path": str(folder)}))


def test_what_a_chain_of_thought_has_run_is_not_run_again_for_the_verdict(tiny_settings):
    settings = tiny_settings("llama")
    engine, chat = open_engine(settings), load_chat_format(settings)
    prompt = Prompt(user("Which of the two responses is better? " * 8), prefill="Thoughts:")

    async def body(engine):
        thoughts = await engine.generate(GenerateRequest(prompt, seed=1, max_tokens=30))
        verdict = Prompt(prompt.messages, prefill=f"Thoughts: {thoughts.text} The answer is:")
        return await engine.score(ScoreRequest(verdict, (" (A)", " (B)")))

    with_engine(engine, body)
    asked = len(chat.prompt_ids(Prompt(prompt.messages, prefill="")))
    assert asked < engine.usage.tokens_cached < engine.usage.tokens_in


def test_an_engine_says_how_long_it_had_too_little_to_do(tiny_settings):
    async def one_at_a_time(engine):
        for seed in range(3):
            await engine.generate(request("hi", seed=seed))

    async def many_at_once(engine):
        await asyncio.gather(*(engine.generate(request("hi", seed=seed)) for seed in range(64)))

    shares: list[float] = []
    for body in (one_at_a_time, many_at_once):
        engine = open_engine(tiny_settings("llama"))
        with_engine(engine, body)
        assert engine.usage.engine_seconds > 0
        shares.append(engine.usage.engine_starved_seconds / engine.usage.engine_seconds)
    assert shares[0] == 1
    assert shares[1] < 1
