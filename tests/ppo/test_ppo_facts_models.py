"""What a right PPO satisfies about models and tokens: stop ids, padding, positions, precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_references import ALL_SIX, LENGTH, SETTINGS, LearnerOf, PromptsOf, rollout_of, rows_of
from tiny_models import FAMILIES

from cai.data.conversation import Prompt, user
from cai.errors import CaiError
from cai.models.loading import load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO
from cai.ppo.batch import Episodes
from cai.ppo.forward import response_logprobs
from cai.ppo.loading import policy_format
from cai.ppo.prompts import tokenize_prompt
from cai.ppo.rollout import collect_rollout, has_ended, sample
from cai.ppo.update import policy_gradients, value_gradients
from cai.settings import ModelSettings

Tiny = Callable[[str], ModelSettings]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_fact_19_scores_of_sampled_ids_do_not_depend_on_their_batch(
    family: str, dtype: str, tolerance: float, tiny_preference: Callable[[str], Path]
) -> None:
    model = PreferenceModel.load(tiny_preference(family), device="cpu")
    model.model.to(getattr(torch, dtype)).score.float()
    sequences = [[5, 17, 200, 31, 8, 90, 12], [44, 6, 7], [9, 9, 121, *range(60, 90)]]
    together = model.score_ids(sequences)
    alone = torch.cat([model.score_ids([ids]) for ids in sequences])
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)
    assert model.score_ids(sequences[::-1]).tolist() == pytest.approx(
        together.tolist()[::-1], abs=tolerance
    )


def test_fact_24_ppo_and_the_preference_model_read_one_text_as_the_same_ids(
    family: str, tiny: Tiny, tiny_preference: Callable[[str], Path]
) -> None:
    judge = PreferenceModel.load(tiny_preference(family), device="cpu")
    for settings in (tiny(family), ModelSettings(path=tiny(family).path, format="chat")):
        if family == "gpt2" and settings.format == "chat":
            continue  # has no chat template
        chat = policy_format(settings, None)
        ids = tokenize_prompt("How do I bake a loaf of bread?", chat).ids
        expected = judge.ids(user("How do I bake a loaf of bread?"), "Mix.")
        assert expected[: len(ids)] == list(ids)
        bos = chat.tokenizer.bos_token_id
        if bos is not None and family != "gpt2":
            assert list(ids).count(bos) == 1


def test_fact_27_any_of_a_set_of_ids_ends_a_response(
    family: str, tiny: Tiny, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Turn end, end of text and what the generation config names: all of them stop sampling."""
    stop_ids = load_chat_format(tiny(family)).stop_ids
    assert len(stop_ids) > 2
    learner = learner_of(family, SETTINGS)
    assert learner.chat.stop_ids == stop_ids
    ends: set[int] = set()
    for step in range(12):
        rollout = collect_rollout(
            learner, token_prompts(family), LENGTH, SETTINGS, seed=1, step=step
        )
        for (_, response), ended in zip(
            rows_of(rollout.episodes), rollout.ended_B.tolist(), strict=True
        ):
            assert not set(response[:-1]) & stop_ids  # nothing goes on after a stop token
            assert ended == (response[-1] in stop_ids)
            ends |= {response[-1]} & stop_ids
    assert len(ends) > 1


@pytest.mark.parametrize("pad", ["missing", "eos", "own"])
def test_fact_27_what_pads_changes_nothing(
    pad: str, family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Pad may be missing, equal EOS, or be a token of its own."""
    learner = learner_of(family, SETTINGS)
    tokenizer: Any = learner.chat.tokenizer
    prompts = token_prompts(family)
    expected = rollout_of(learner, prompts)
    chat = type(learner.chat)(
        _with_pad(tokenizer, pad), extra_stop_ids=sorted(learner.chat.stop_ids)
    )
    learner.chat = chat
    got = rollout_of(learner, prompts)
    assert got.episodes.sequences() == expected.episodes.sequences()
    assert got.ended_B.tolist() == expected.ended_B.tolist()
    for name in ("logprobs_BT", "ref_logprobs_BT", "values_BT", "scores_B"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=1e-5)


def _with_pad(tokenizer: Any, pad: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    token = {
        "missing": None,
        "eos": tokenizer.eos_token,
        "own": tokenizer.convert_ids_to_tokens(77),
    }
    tokenizer.pad_token = token[pad]
    return tokenizer


def test_fact_27_learned_positions_count_from_the_first_real_token(
    learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """GPT-2 has no rotary positions: rows of a batch get the positions they have alone."""
    learner = learner_of("gpt2", SETTINGS)
    assert hasattr(learner.policy.transformer, "wpe")
    episodes, sampled = sample(learner, token_prompts("gpt2"), SETTINGS, seed=3, step=0)
    assert len(set(episodes.prompt_lengths_B.tolist())) > 1
    for i, (prompt, response) in enumerate(rows_of(episodes)):
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            positions = torch.arange(ids.shape[1])[None]
            logits = learner.policy(input_ids=ids, position_ids=positions).logits[0]
        table = torch.log_softmax(logits / SETTINGS.temperature, dim=-1)
        expected = table[range(len(prompt) - 1, ids.shape[1] - 1), response]
        torch.testing.assert_close(sampled[i, : len(response)], expected, rtol=0, atol=2e-4)


def test_facts_04_and_16_hold_under_bfloat16_autocast(
    family: str, learner_of: LearnerOf, token_prompts: PromptsOf
) -> None:
    """Old and new log-probabilities agree to bfloat16; so do gradients of other micro-batches."""
    learner = learner_of(family, SETTINGS, torch.bfloat16)
    rollout = rollout_of(learner, token_prompts(family))
    exact = learner_of(family, SETTINGS)
    with torch.no_grad():
        full, _ = response_logprobs(exact.policy, rollout.episodes, SETTINGS.temperature)
    difference = (full - rollout.logprobs_BT)[rollout.episodes.mask_BT].abs()
    assert difference.median() < 0.1
    targets = torch.randn(full.shape, generator=torch.Generator().manual_seed(0))
    flat: list[torch.Tensor] = []
    for size in (6, 1):
        settings = SETTINGS.model_copy(update={"micro_batch_size": size})
        learner.policy.zero_grad()
        learner.critic.zero_grad()
        policy_gradients(learner, rollout, targets, ALL_SIX, settings)
        value_gradients(learner, rollout, targets, ALL_SIX, settings)
        weights = [*learner.policy_optimizer.parameters, *learner.critic_optimizer.parameters]
        flat.append(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
        assert flat[-1].dtype == torch.float32
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.98


def test_bad_input_is_refused_before_any_model_is_loaded(
    tmp_path: Path,
    tiny: Tiny,
    tiny_preference: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One clear error each, while nothing but configs and tokenizers has been read."""
    monkeypatch.setattr("cai.ppo.train.open_models", lambda *_, **__: pytest.fail("loaded"))
    judge = tiny_preference("llama")
    long = "x " * 2100
    for policy, reward, changes, prompts, words in (
        (tiny("llama"), tiny_preference("qwen3"), {}, ["How?"], "vocabularies differ"),
        (tiny("llama"), judge, {"minibatches": 4}, ["How?"], "cannot be split"),
        (tiny("llama"), judge, {}, [], "no prompts"),
        (tiny("llama"), judge, {}, [long], "leaves room"),
        (tiny("llama"), judge, {"max_new_tokens": 3000}, ["How?"], "leaves room"),
        (tiny("llama"), judge, {"ptx_coef": 0.1}, ["How?"], "needs both"),
        (tiny("llama"), tmp_path / "none", {}, ["How?"], "does not exist"),
        (tiny("llama"), Path(tiny("llama").path), {}, ["How?"], "not a preference model"),
    ):
        with pytest.raises(CaiError, match=words):
            PPO(policy, reward, SETTINGS.model_copy(update=changes)).train(prompts, tmp_path)
    assert not list(tmp_path.iterdir())


def test_stop_tokens_in_a_prompt_do_not_end_the_response() -> None:
    episodes = Episodes.from_lists([[2, 5, 2]], [[7, 8]], pad_id=2, device=torch.device("cpu"))
    assert has_ended(episodes, frozenset({2})).tolist() == [False]


def test_a_prompt_is_the_same_ids_as_text_and_as_messages(family: str, tiny: Tiny) -> None:
    chat = load_chat_format(tiny(family))
    assert list(tokenize_prompt("Why?", chat).ids) == chat.prompt_ids(Prompt(user("Why?")))
    assert (
        tokenize_prompt([{"role": "user", "content": "Why?"}], chat).ids
        == tokenize_prompt("Why?", chat).ids
    )
