"""vLLM says what the same weights say under transformers."""

import asyncio
import math

import numpy as np
import pytest
import torch

from cai.data.conversation import Prompt, user
from cai.engines import GenerateRequest, PromptTooLong, ScoreRequest
from cai.engines.opening import fingerprint_engine, open_engine
from cai.errors import CaiError
from cai.models.loading import PLAYGROUND
from cai.settings import ModelSettings
from cai.templates import OPTIONS, comparison_prompt

BAKE = Prompt(user("How do I bake bread?"))
JUDGE = comparison_prompt(BAKE.messages, ("First, mix the flour.", "No."), "Which helps?")
LOCAL = ModelSettings(path="playground", dtype="float32")
VLLM = LOCAL.model_copy(
    update={"engine": "vllm", "options": {"max_num_seqs": 64, "max_num_batched_tokens": 600}}
)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def ask(runner):
    """Return a function that puts requests to vLLM all at once."""
    engine = opened(runner, VLLM)

    def ask(*requests):
        return together(runner, engine, requests)

    ask.engine = engine
    yield ask
    runner.run(engine.close())
    with pytest.raises(CaiError, match="closed"):
        ask(GenerateRequest(BAKE, seed=0, max_tokens=2))


@pytest.fixture(scope="module")
def local(runner):
    engine = opened(runner, LOCAL)
    yield lambda *requests: together(runner, engine, requests)
    runner.run(engine.close())


def opened(runner, settings):
    async def open_it():
        return open_engine(settings)

    return runner.run(open_it())


def together(runner, engine, requests):
    async def all_of_them():
        return await asyncio.gather(
            *(
                engine.score(r) if isinstance(r, ScoreRequest) else engine.generate(r)
                for r in requests
            )
        )

    return runner.run(all_of_them())


def test_greedy_answers_and_their_log_probabilities_are_those_of_transformers(ask, local):
    requests = [
        GenerateRequest(Prompt(user(text)), seed=0, max_tokens=24, temperature=0.0)
        for text in ("How do I bake bread?", "How do I steal a bike?", "What is rain?")
    ]
    for ours, theirs in zip(local(*requests), ask(*requests), strict=True):
        assert theirs.token_ids == ours.token_ids
        assert (theirs.text, theirs.finish) == (ours.text, ours.finish)
        np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-4)


def test_log_probabilities_are_those_of_the_distribution_that_is_sampled_from(ask):
    (said,) = ask(GenerateRequest(BAKE, seed=3, max_tokens=6, temperature=2.0))
    from cai.models.loading import load_causal_lm, load_chat_format

    model, chat = load_causal_lm(LOCAL), load_chat_format(LOCAL)
    prompt = chat.prompt_ids(BAKE)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *said.token_ids]])).logits[0].double()
    logprobs = torch.log_softmax(logits / 2.0, -1)
    for place, token in enumerate(said.token_ids):
        expected = float(logprobs[len(prompt) - 1 + place, token])
        assert said.logprobs[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [OPTIONS, (" First", " I", " Sure, here"), (" the",)])
def test_options_of_one_and_of_several_tokens_are_scored_exactly(ask, local, options):
    requests = [ScoreRequest(JUDGE, options), ScoreRequest(BAKE, options)]
    for ours, theirs in zip(local(*requests), ask(*requests), strict=True):
        np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-4)
        assert not theirs.bounded


def test_a_seed_says_the_same_whoever_else_is_in_the_batch(ask):
    def request(seed):
        return GenerateRequest(BAKE, seed=seed, max_tokens=16)

    alone = ask(request(7))[0].text
    crowd = ask(*(request(seed) for seed in range(16)))
    assert crowd[7].text == alone
    assert len({said.text for said in crowd}) > 4


def test_more_prompts_than_a_step_takes_are_none_of_them_split(ask):
    """On a CPU the engine would not survive it; a step takes 600 tokens here."""
    prompts = [Prompt(user(f"{n} loaves? " * 40)) for n in range(12)]
    said = ask(*(GenerateRequest(prompt, seed=7, max_tokens=4) for prompt in prompts))
    assert all(1 <= len(each.token_ids) <= 4 for each in said)


def test_stop_texts_end_an_answer_and_are_cut_off(ask, local):
    (whole,) = local(GenerateRequest(BAKE, seed=0, max_tokens=24, temperature=0.0))
    (said,) = ask(GenerateRequest(BAKE, seed=0, max_tokens=24, temperature=0.0, stop=("bread",)))
    assert said.text == whole.text.split("bread")[0].strip()
    assert said.finish == "stop"


def test_usage_counts_what_is_shared(ask):
    before = ask.engine.usage.tokens_cached
    long = Prompt(user("How do I bake bread? " * 30))
    ask(*(GenerateRequest(long, seed=n, max_tokens=2) for n in range(8)))
    ask(*(GenerateRequest(long, seed=n, max_tokens=2) for n in range(8)))
    usage = ask.engine.usage
    assert usage.tokens_cached - before >= 8 * 128
    assert usage.engine_seconds >= usage.engine_starved_seconds > 0


def test_a_prompt_too_long_is_a_row_state_and_odd_options_an_error(ask):
    with pytest.raises(PromptTooLong, match="context is 512"):
        ask(GenerateRequest(BAKE, seed=0, max_tokens=600))
    with pytest.raises(PromptTooLong, match="context is 512"):
        ask(ScoreRequest(Prompt(user("bread " * 600)), OPTIONS))
    for options in ((), (" A", ""), (" A", " A")):
        with pytest.raises(CaiError, match="no two the same"):
            ask(ScoreRequest(BAKE, options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_num_seq": 3}, "Did you mean `max_num_seqs`"),
        ({"model": "other"}, "not an engine argument of vLLM that can be set here"),
        ({"max_model_len": 10**6}, "vLLM cannot start with playground"),
    ],
)
def test_arguments_that_vllm_does_not_take_are_named(options, said):
    with pytest.raises(CaiError) as caught:
        open_engine(VLLM.model_copy(update={"options": options}))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lora_adapter_is_the_merged_model(runner, tmp_path):
    from peft import LoraConfig, get_peft_model

    from cai.models.loading import load_causal_lm, load_tokenizer

    model = load_causal_lm(LOCAL)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer(LOCAL).save_pretrained(tmp_path / "merged")

    settings = VLLM.model_copy(update={"adapter": str(tmp_path / "adapter")})
    assert fingerprint_engine(settings) != fingerprint_engine(VLLM)
    requests = [ScoreRequest(JUDGE, OPTIONS), ScoreRequest(BAKE, (" the", " Sure"))]
    merged = opened(runner, LOCAL.model_copy(update={"path": str(tmp_path / "merged")}))
    engine = opened(runner, settings)
    try:
        for ours, theirs in zip(
            together(runner, merged, requests), together(runner, engine, requests), strict=True
        ):
            np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-3)
    finally:
        runner.run(engine.close())
        runner.run(merged.close())
    plain = opened(runner, LOCAL)
    (without,) = together(runner, plain, requests[:1])
    runner.run(plain.close())
    assert math.dist(without.logprobs, ours.logprobs) > 0.01


def test_an_adapter_that_is_none_is_named(tmp_path):
    with pytest.raises(CaiError, match=r"no adapter_config.json"):
        open_engine(VLLM.model_copy(update={"adapter": str(tmp_path)}))
    assert PLAYGROUND.is_dir()
