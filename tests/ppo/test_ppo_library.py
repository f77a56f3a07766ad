"""PPO as a library: any model, any prompts, any reward."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ppo_references import SHORT, letters, steps_of
from tiny_models import make_tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from cai.data.conversation import user
from cai.errors import CaiError
from cai.evaluate.style import repeated_share
from cai.models.loading import load_causal_lm, load_tokenizer
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO, LengthPenalty, RepetitionPenalty
from cai.settings import ModelSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "ppo_with_your_reward.py"

Tiny = Callable[[str], ModelSettings]


def test_a_function_gets_prompts_as_they_were_given_and_one_text_for_each(
    tmp_path: Path, tiny: Tiny
) -> None:
    seen: list[tuple[Any, str]] = []

    def scorer(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
        seen.extend(zip(prompts, responses, strict=True))
        return letters(prompts, responses)

    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    metrics = PPO(tiny("llama").path, scorer, SHORT).train(["How?", messages], tmp_path)
    assert metrics["prompts"] == 2
    assert len(seen) == 2 * 4
    assert {p if isinstance(p, str) else p[-1].content for p, _ in seen} == {"How?", "Hello."}
    assert [m.role for p, _ in seen if not isinstance(p, str) for m in p][:2] == ["system", "user"]
    for record, part in zip(steps_of(tmp_path), (seen[:4], seen[4:]), strict=True):
        expected = sum(len(text) for _, text in part) / 4
        assert record["reward/scorer"] == pytest.approx(expected)
        assert record["objective/scores"] == pytest.approx(expected)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_a_model_in_memory_is_trained_in_place_and_its_critic_starts_from_it(
    tmp_path: Path, tiny: Tiny
) -> None:
    model = load_causal_lm(tiny("qwen3"), device="cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ppo = PPO(model, letters, SHORT, tokenizer=load_tokenizer(tiny("qwen3")))
    ppo.train(["How?"], tmp_path)
    assert ppo.learner is not None
    assert ppo.learner.policy is model
    assert any(not torch.equal(weight, before[n]) for n, weight in model.state_dict().items())
    for name, weight in ppo.learner.reference.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_base_model_goes_on_with_texts(tmp_path: Path, tiny: Tiny) -> None:
    model = load_causal_lm(tiny("gpt2"), device="cpu")
    tokenizer = make_tiny_tokenizer("gpt2")
    assert tokenizer.chat_template is None
    assert tokenizer.pad_token_id is None
    ppo = PPO(model, letters, SHORT, tokenizer=tokenizer)
    ppo.train(["The kind gardener"], tmp_path)
    assert ppo.learner is not None
    assert tokenizer.eos_token_id in ppo.learner.chat.stop_ids
    with pytest.raises(CaiError, match="no chat template"):
        PPO(model, letters, SHORT, tokenizer=tokenizer).train([user("How?")], tmp_path / "no")


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        (T5ForConditionalGeneration, T5Config, "`t5`: it reads prompts with an encoder"),
    ],
)
def test_a_model_that_is_no_transformer_decoder_is_refused(
    kind: Any, config: Any, words: str, tmp_path: Path
) -> None:
    tokenizer = make_tiny_tokenizer("gpt2")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_layers": 1, "d_ff": 8, "num_heads": 1}
    model = kind(config(vocab_size=len(tokenizer), **small))
    with pytest.raises(CaiError, match=words):
        PPO(model, letters, SHORT, tokenizer=tokenizer).train(["The kind"], tmp_path)


def test_several_scorers_are_summed_with_their_weights_and_logged_apart(
    tmp_path: Path, tiny: Tiny, tiny_preference: Callable[[str], Path]
) -> None:
    reward = {
        "preference": tiny_preference("llama"),
        "letters": (letters, -0.5),
    }
    settings = SHORT.model_copy(
        update={"length_penalty": 2.0, "length_free": 1, "repetition_penalty": 3.0}
    )
    PPO(tiny("llama"), reward, settings).train(["How?", "Why?"], tmp_path)
    for record in steps_of(tmp_path):
        parts = {n: record[f"reward/{n}"] for n in ("preference", "letters", "length")}
        expected = parts["preference"] - 0.5 * parts["letters"] + 2 * parts["length"]
        expected += 3 * record["reward/repetition"]
        assert record["objective/scores"] == pytest.approx(expected, abs=1e-4)
        assert parts["length"] <= 0


def test_a_loaded_preference_model_gives_the_same_run_as_its_folder(
    tmp_path: Path, tiny: Tiny, tiny_preference: Callable[[str], Path]
) -> None:
    folder = tiny_preference("llama")
    weights: list[dict[str, torch.Tensor]] = []
    for name, judge in (("folder", folder), ("model", PreferenceModel.load(folder))):
        ppo = PPO(tiny("llama"), judge, SHORT)
        ppo.train(["How?", "Why?"], tmp_path / name)
        assert ppo.learner is not None
        weights.append(ppo.learner.policy.state_dict() | ppo.learner.critic.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_is_no_reward_or_no_prompt_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    policy = tiny("llama")
    with pytest.raises(CaiError, match="empty mapping"):
        PPO(policy, {}, SHORT)
    with pytest.raises(CaiError, match="reward `wrong` is a float"):
        PPO(policy, {"wrong": 0.5}, SHORT)
    fined = SHORT.model_copy(update={"length_penalty": 1.0})
    with pytest.raises(CaiError, match="share a name"):
        PPO(policy, {"length": letters}, fined)
    with pytest.raises(CaiError, match="tokenizer="):
        PPO(load_causal_lm(policy, device="cpu"), letters, SHORT)
    for prompt in ([{"role": "nobody", "content": "x"}], 7, [7]):
        with pytest.raises(CaiError, match="not a prompt"):
            PPO(policy, letters, SHORT).train([prompt], tmp_path)  # type: ignore[list-item]
    with pytest.raises(CaiError, match="a single text"):
        PPO(policy, letters, SHORT).train("How?", tmp_path)
    with pytest.raises(CaiError, match="no prompts to sample from"):
        PPO(policy, letters, SHORT).train([], tmp_path)
    with pytest.raises(CaiError, match="No held-out prompt of the 1 leaves room"):
        PPO(policy, letters, SHORT).train(["How?"], tmp_path, held_out=["how " * 9999])
    for wrong, words in (
        (lambda prompts, responses: [1.0], "1 scores for 4"),
        (lambda prompts, responses: ["good"] * len(responses), "other than numbers"),
        (lambda prompts, responses: [float("inf")] * len(responses), "not a number at PPO step 1"),
    ):
        with pytest.raises(CaiError, match=f"`reward`.*{words}"):
            PPO(policy, wrong, SHORT).train(["How?"], tmp_path / words)


def test_penalties_say_how_long_and_how_repetitive_a_response_is() -> None:
    texts = ["a b c d e f", "a b c", "", "x y z x y z x y z"]
    assert LengthPenalty(4)([], texts) == pytest.approx([-0.5, 0, 0, -1.25])
    # Nine words have seven trigrams, three of them different.
    assert RepetitionPenalty()([], texts) == pytest.approx([0, 0, 0, -4 / 7])


@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_repeated_share_counts_what_came_before(items: list[int]) -> None:
    again = sum(item in items[:i] for i, item in enumerate(items))
    assert repeated_share(items) == pytest.approx(again / len(items) if items else 0)


@pytest.mark.slow
def test_the_example_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path))
    counts = [record["reward/letter_o"] for record in steps_of(tmp_path)]
    assert sum(counts[-3:]) / 3 > counts[0] + 0.07
    assert "step 10/10: reward" in capsys.readouterr().out
