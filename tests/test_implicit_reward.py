"""A policy as a preference model: scores, folders, and what is refused."""

import json

import pytest
import torch
from tiny_models import make_tiny_model

from cai.data.conversation import Message, Prompt, user
from cai.errors import CaiError
from cai.models.implicit_reward import FILE, ImplicitReward, load_scorer, write_reward
from cai.models.loading import load_causal_lm, load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.settings import ModelSettings

ITEMS = [
    (user("Why?"), "Because."),
    (user("Why is that, and since when?"), "It is so, and it was so, for all that I know."),
    ((*user("Hi."), Message(role="assistant", content="Hello."), *user("And?")), "No."),
]


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    """The folder of a verifier, that of its reference, and β."""
    folder = tmp_path_factory.mktemp("run")
    policy = make_tiny_model("llama", folder / "verifier/model", seed=1)
    reference = make_tiny_model("llama", folder / "sl-cai/model", seed=2)
    write_reward(policy, ModelSettings(path=str(reference)), 0.3)
    return policy, reference


def likelihood(folder, messages, text):
    settings = ModelSettings(path=str(folder))
    model, chat = load_causal_lm(settings), load_chat_format(settings)
    prompt, answer = chat.prompt_ids(Prompt(messages)), chat.completion_ids(text)
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(logprobs[p, t].item() for p, t in zip(places, answer, strict=True))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 8])
def test_scores_are_log_ratios_of_the_response_times_beta(verifier, micro_batch_size):
    policy, reference = verifier
    wanted = [0.3 * (likelihood(policy, *i) - likelihood(reference, *i)) for i in ITEMS]
    found = load_scorer(policy).score(ITEMS, micro_batch_size)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert len({round(score, 3) for score in found}) == 3


def test_a_run_folder_can_be_moved(verifier, tmp_path):
    policy, _ = verifier
    before = load_scorer(policy).score(ITEMS)
    moved = tmp_path / "elsewhere"
    policy.parents[1].rename(moved)
    try:
        assert load_scorer(moved / "verifier/model").score(ITEMS) == before
    finally:
        moved.rename(policy.parents[1])


def test_a_given_reference_keeps_its_name(tmp_path):
    write_reward(tmp_path, ModelSettings(path="playground"), 0.1)
    assert json.loads((tmp_path / FILE).read_text())["reference"]["path"] == "playground"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"beta": 1}', '{"beta": "x", "reference": {}}'])
def test_a_damaged_file_is_named(verifier, text):
    policy, _ = verifier
    whole = (policy / FILE).read_text()
    (policy / FILE).write_text(text)
    try:
        with pytest.raises(CaiError, match=f"{FILE} is damaged .* Run the stage `verifier` again"):
            ImplicitReward.load(policy)
    finally:
        (policy / FILE).write_text(whole)


def test_without_the_file_a_folder_is_a_preference_model_or_refused(verifier):
    _, reference = verifier
    with pytest.raises(CaiError, match="is not a preference model of cai"):
        load_scorer(reference)
    with pytest.raises(CaiError, match="is not a preference model of cai"):
        PreferenceModel.load(verifier[0])


def test_what_does_not_fit_is_refused(verifier):
    policy, _ = verifier
    with pytest.raises(CaiError, match="does not fit the verifier's context"):
        load_scorer(policy).score([(user("word " * 5000), "Yes.")])
