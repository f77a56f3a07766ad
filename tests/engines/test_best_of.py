"""Best-of-n as an engine: which sample is given, and what is refused."""

import asyncio
import math
from types import SimpleNamespace

import pytest

from cai.data.conversation import Prompt, user
from cai.engines import Completion, GenerateRequest, PromptTooLong
from cai.engines.best_of import BestOfEngine, kl_bound
from cai.engines.opening import fingerprint_engine, open_engine
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.models.loading import load_causal_lm
from cai.settings import BestOfSettings, ModelSettings


def scorer(scores, context=100):
    """Scores texts by a table; a text has as many tokens as letters."""
    return SimpleNamespace(
        context=context,
        ids=lambda messages, text: [0] * len(text),
        score=lambda items: [scores[text] for _, text in items],
    )


class Listed(ScriptedEngine):
    """Says one text after the other; a `…` at the end of one: the token limit cut it off."""

    def __init__(self, *texts):
        self.left = list(texts)
        super().__init__(lambda _: self.left.pop(0))

    async def generate(self, request):
        found = await super().generate(request)
        finish = "length" if found.text.endswith("…") else "stop"
        return Completion(found.text, found.token_ids, found.logprobs, finish, "inner")


def best(engine, scores, *, context=100, prefill="", temperature=1.0):
    request = GenerateRequest(Prompt(user("Why?"), prefill), 7, 9, temperature)
    wrapped = BestOfEngine(engine, scorer(scores, context), len(engine.left), "outer")
    return asyncio.run(wrapped.generate(request))


@pytest.mark.parametrize(
    ("texts", "scores", "given"),
    [
        (["a", "b", "c"], {"a": 0, "b": 2, "c": 1}, "b"),
        (["a", "b"], {"a": 1, "b": 1}, "a"),
        (["a…", "b", "c"], {"b": 0, "c": 1}, "c"),
        (["a…", "b…"], {}, "a…"),
        (["", "b"], {"b": -9}, "b"),
        (["", ""], {}, ""),
        (["<think>x</think>a", "b"], {"a": 2, "b": 1}, "<think>x</think>a"),
        (["a" * 101, "b"], {"b": -9}, "b"),
    ],
)
def test_the_best_whole_sample_is_given(texts, scores, given):
    found = best(Listed(*texts), scores)
    assert found.text == given
    assert found.fingerprint == "outer"


def test_the_opening_of_an_answer_is_scored_with_it():
    assert best(Listed("b", "c"), {"a b": 0, "a c": 1}, prefill="a ").text == "c"


def test_samples_have_draws_of_their_own():
    engine = Listed("a", "b", "c")
    best(engine, {"a": 0, "b": 0, "c": 0})
    assert len({request.seed for request in engine.generated}) == 3


def test_what_fits_no_preference_model_is_too_long():
    with pytest.raises(PromptTooLong, match="context of 3 tokens"):
        best(Listed("long", "longer"), {}, context=3)


def test_temperature_zero_is_refused():
    with pytest.raises(CaiError, match="temperature 0"):
        best(Listed("a", "a"), {}, temperature=0)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_kl_bound_holds_for_few_responses_and_is_exact_for_many(n):
    def kl(responses):
        """Exactly, for equally likely responses in order of their scores: P(best is ≤ k)."""
        ranks = [(k / responses) ** n - ((k - 1) / responses) ** n for k in range(1, responses + 1)]
        return sum(p * math.log(p * responses) for p in ranks if p)

    assert all(kl(responses) < kl_bound(n) for responses in (1, 2, 5, 50))
    assert kl(100_000) == pytest.approx(kl_bound(n), rel=1e-3)


def test_weights_of_best_of_n_cannot_be_trained():
    model = ModelSettings(path="playground", best_of=BestOfSettings(by="somewhere"))
    with pytest.raises(CaiError, match="no weights of its own to train"):
        load_causal_lm(model)


def test_a_folder_that_is_no_preference_model_is_refused_before_anything_is_said():
    model = ModelSettings(path="playground", best_of=BestOfSettings(by="playground"))
    with pytest.raises(CaiError, match="is not a preference model of cai"):
        open_engine(model)


def test_the_fingerprint_names_both_models_and_n():
    def fingerprint(n, by="playground"):
        best_of = BestOfSettings(n=n, by=by)
        return fingerprint_engine(ModelSettings(path="playground", best_of=best_of))

    alone = fingerprint_engine(ModelSettings(path="playground"))
    assert len({alone, fingerprint(2), fingerprint(3)}) == 3
