"""Preference training: labels and weights reach the loss, and what is saved scores as measured."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import FAMILIES
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.data.conversation import user
from cai.errors import CaiError
from cai.models.loading import load_chat_format
from cai.models.preference_model import PreferenceModel
from cai.settings import ModelSettings, PreferenceSettings
from cai.training.preference import train_preference
from cai.training.preference_data import read_pairs
from cai.training.preference_measures import calibration_error
from cai.training.scorer import new_preference_model

SETTINGS = PreferenceSettings(
    batch_size=4, micro_batch_size=2, learning_rate=1e-2, epochs=2, checkpoint_steps=2
)
PAIRS = [
    (f"Here is line {i}." + " Fine." * (i % 4), "No." + " Never." * (i % 3), 0.5 + i / 26)
    for i in range(13)
]


def train(
    out: Path,
    base: ModelSettings,
    data: Path,
    settings: PreferenceSettings = SETTINGS,
    seed: int = 5,
) -> dict[str, float]:
    return train_preference(
        settings, data=data, base=base, out=out / "model", seed=seed, log_dir=out / "logs"
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 0):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=atol, msg=name)


def differ(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return any(not torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def one_step(**changes) -> PreferenceSettings:
    return PreferenceSettings(batch_size=16, learning_rate=1e-2, **changes)


@pytest.fixture(scope="module")
def undisturbed(base, comparisons, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder, base(), comparisons(PAIRS))


def reference_losses(base: ModelSettings) -> list[float]:
    """The loss of each pair before training, row by row, without padding, in float64."""
    model = new_preference_model(base, seed=5).double()
    scorer = PreferenceModel(model, load_chat_format(base))

    def score(i, answer):
        ids = torch.tensor([scorer.ids(user(f"Write line {i}."), answer)])
        return (model.base_model(ids).last_hidden_state[0, -1] @ model.score.weight[0]).item()

    losses = []
    for i, (chosen, rejected, p) in enumerate(PAIRS):
        q = 1 / (1 + math.exp(score(i, rejected) - score(i, chosen)))
        losses.append(-p * math.log(q) - (1 - p) * math.log(1 - q))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_first_loss_agrees_with_an_independent_reference(family, base, comparisons, tmp_path):
    metrics = train(tmp_path, base(family), comparisons(PAIRS), one_step())
    expected = np.mean(reference_losses(base(family)))
    assert metrics["first_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["steps"] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_reads_the_raw_scores(family, base, comparisons, tmp_path):
    train(tmp_path, base(family), comparisons(PAIRS))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    scorer = PreferenceModel.load(tmp_path / "model")
    sequences = [
        scorer.ids(user("Write line 3."), answer) for answer in ("No.", "Here it is. Fine!")
    ]
    raw = scorer.raw_scores(sequences).tolist()
    with torch.no_grad():
        single = [model(torch.tensor([ids])).logits.item() for ids in sequences]
        width = max(map(len, sequences))
        padded = [ids + [model.config.pad_token_id] * (width - len(ids)) for ids in sequences]
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
        batch = model(torch.tensor(padded), attention_mask=torch.tensor(mask)).logits[:, 0]
    assert single == pytest.approx(raw, abs=1e-5)
    assert batch.tolist() == pytest.approx(raw, abs=1e-5)
    template = AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert template == load_chat_format(base(family)).tokenizer.chat_template


def test_fact_20_saved_scores_are_normalised_over_the_training_responses(undisturbed):
    scorer = PreferenceModel.load(undisturbed[0] / "model")
    items = [(user(f"Write line {i}."), text) for i, pair in enumerate(PAIRS) for text in pair[:2]]
    scores = np.array(scorer.score(items))
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)
    assert (scorer.mean, scorer.std) == (undisturbed[1]["score_mean"], undisturbed[1]["score_std"])


def test_labels_reach_the_loss(base, comparisons, tmp_path):
    for p in (0.6, 0.9):
        data = comparisons([(chosen, rejected, p) for chosen, rejected, _ in PAIRS])
        train(tmp_path / str(p), base(), data, one_step(epochs=3))
    assert differ(weights(tmp_path / "0.6"), weights(tmp_path / "0.9"))


def test_undecided_label_on_equal_scores_changes_nothing(base, comparisons, tmp_path):
    train(tmp_path, base(), comparisons([("Same.", "Same.", 0.5)] * 4), one_step())
    start = new_preference_model(base(), seed=5).state_dict()
    assert_same(weights(tmp_path), {name: start[name] for name in weights(tmp_path)})


def test_swapped_responses_with_mirrored_labels_train_the_same_model(
    undisturbed, base, comparisons, tmp_path
):
    swapped = [(rejected, chosen, 1 - p) for chosen, rejected, p in PAIRS]
    metrics = train(tmp_path, base(), comparisons(swapped))
    assert_same(weights(undisturbed[0]), weights(tmp_path), atol=2e-4)
    assert metrics["final_loss"] == pytest.approx(undisturbed[1]["final_loss"], rel=1e-4)


def test_source_weights_are_shares_of_the_loss(base, comparisons, tmp_path):
    sources = ["human" if i % 3 else "ai" for i in range(len(PAIRS))]
    data = comparisons([(*pair, source) for pair, source in zip(PAIRS, sources, strict=True)])
    first_losses = {}
    for ai, human in ((1, 1), (2, 2), (1, 3)):
        settings = one_step(ai_weight=ai, human_weight=human)
        metrics = train(tmp_path / f"{ai}-{human}", base(), data, settings)
        first_losses[ai, human] = metrics["first_loss"]
    rows = reference_losses(base())
    shares = [3 if source == "human" else 1 for source in sources]
    expected = sum(w * loss for w, loss in zip(shares, rows, strict=True)) / sum(shares)
    assert first_losses[1, 3] == pytest.approx(expected, rel=1e-5)
    assert first_losses[1, 1] == first_losses[2, 2]
    assert_same(weights(tmp_path / "1-1"), weights(tmp_path / "2-2"))


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_change_memory_not_results(micro, undisturbed, base, comparisons, tmp_path):
    settings = SETTINGS.model_copy(update={"micro_batch_size": micro})
    metrics = train(tmp_path, base(), comparisons(PAIRS), settings)
    assert_same(weights(undisturbed[0]), weights(tmp_path), atol=2e-4)
    for loss in ("first_loss", "final_loss"):
        assert metrics[loss] == pytest.approx(undisturbed[1][loss], rel=1e-4)


@pytest.mark.parametrize("passes", [3, 9, 13])
def test_killed_and_resumed_training_ends_with_the_same_model(
    passes, undisturbed, base, comparisons, killed_after, tmp_path
):
    with killed_after(passes):
        train(tmp_path, base(), comparisons(PAIRS))
    resumed = train(tmp_path, base(), comparisons(PAIRS))
    assert_same(weights(undisturbed[0]), weights(tmp_path))
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {
        k: v for k, v in undisturbed[1].items() if k != "seconds"
    }


@pytest.mark.slow
def test_lora_trains_the_score_head_too_and_resumes(base, comparisons, killed_after, tmp_path):
    settings = SETTINGS.model_copy(update={"lora_rank": 2})
    train(tmp_path / "undisturbed", base(), comparisons(PAIRS), settings)
    with killed_after(9):
        train(tmp_path / "killed", base(), comparisons(PAIRS), settings)
    train(tmp_path / "killed", base(), comparisons(PAIRS), settings)
    trained, start = weights(tmp_path / "undisturbed"), new_preference_model(base(), seed=5)
    assert_same(trained, weights(tmp_path / "killed"))
    before = start.state_dict()
    assert trained.keys() == before.keys()
    assert not torch.allclose(trained["score.weight"], before["score.weight"], atol=1e-3)
    query = "model.layers.0.self_attn.q_proj.weight"
    change = trained[query] - before[query]
    assert change.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(change, atol=1e-4) <= 2
    assert torch.equal(trained["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_prompts_are_held_out_from_a_hundred_rows_on(base, comparisons):
    chat, settings = load_chat_format(base()), PreferenceSettings()

    def read(n):
        return read_pairs(comparisons([("a", "b", 0.9)] * n), chat, settings, 1024)

    few, many = read(99), read(400)
    assert (len(few.train), len(few.held_out)) == (99, 0)
    assert len(many.train) + len(many.held_out) == 400
    assert 5 <= len(many.held_out) <= 40
    ours = {tuple(pair.chosen) for pair in many.train}
    assert not any(tuple(pair.chosen) in ours for pair in many.held_out)


def test_pairs_with_a_long_side_are_left_out_and_counted(base, comparisons):
    chat = load_chat_format(base())
    data = comparisons([("Short.", "Short.", 1.0), ("Short.", "long " * 50, 1.0)])
    pairs = read_pairs(data, chat, PreferenceSettings(), 60)
    assert (len(pairs.train), pairs.too_long) == (1, 1)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_calibration_error_agrees_with_its_definition(rows, bins):
    both = [*rows, *((1 - q, 1 - p) for q, p in rows)]
    filled: dict[int, list[tuple[float, float]]] = {}
    for q, p in both:
        filled.setdefault(min(int(q * bins), bins - 1), []).append((q, p))
    error = sum(abs(sum(q - p for q, p in inside)) for inside in filled.values()) / len(both)
    q, p = np.array(rows).T
    assert calibration_error(q, p, bins) == pytest.approx(error, abs=1e-12)


def test_calibrated_model_has_no_error_although_labels_name_the_winner_chosen():
    # 100 pairs whose first response wins 7 times of 10, and a model that says exactly so.
    predicted, label = np.array([0.7] * 70 + [0.3] * 30), np.ones(100)
    assert calibration_error(predicted, label) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.ones(100), label) == 0
    assert calibration_error(np.array([0.95] * 70 + [0.05] * 30), label) == pytest.approx(0.25)


@pytest.mark.slow
def test_hidden_rule_is_learned_and_holds_for_new_prompts(base, comparisons, tmp_path):
    words = [f"word{i}" for i in range(12)]
    draw = random.Random(0)

    def response(kind):
        said = draw.choices(words, k=6)
        return " ".join([*said[:3], "kindly" if kind else "rudely", *said[3:]])

    def pair():
        return response(kind=True), response(kind=False)

    train_pairs = [(*pair(), draw.choice([0.7, 0.9, 1.0])) for _ in range(320)]
    settings = PreferenceSettings(batch_size=16, learning_rate=3e-3, epochs=2)
    metrics = train(tmp_path, base(), comparisons(train_pairs), settings)
    scorer = PreferenceModel.load(tmp_path / "model")
    fresh = [pair() for _ in range(100)]
    better, worse = (
        scorer.score([(user(f"Tell me about {i}."), two[side]) for i, two in enumerate(fresh)])
        for side in (0, 1)
    )
    assert np.mean(np.array(better) > np.array(worse)) >= 0.9
    assert metrics["held_out_accuracy"] >= 0.9
    assert metrics["train_accuracy"] >= 0.9
    assert metrics["final_loss"] < metrics["first_loss"]
    assert metrics["rows"] + metrics["rows_held_out"] == 320


@pytest.mark.parametrize("probability", [1.5, -0.1, math.nan, None])
def test_label_that_is_no_probability_is_named(probability, base, comparisons, tmp_path):
    with pytest.raises(CaiError, match=r"Row 0000 of .*not a probability"):
        train(tmp_path, base(), comparisons([("a", "b", probability)]))


def test_data_that_cannot_be_used_is_named(base, comparisons, completions, tmp_path):
    with pytest.raises(CaiError, match="`source` is 'nobody'"):
        train(tmp_path, base(), comparisons([("a", "b", 0.9, "nobody")]))
    with pytest.raises(CaiError, match="no column `source`"):
        train(tmp_path, base(), completions())
    with pytest.raises(CaiError, match="longer than `max_length` 5"):
        train(tmp_path, base(), comparisons(PAIRS), PreferenceSettings(max_length=5))
    with pytest.raises(CaiError, match="`rejected` must be one assistant message"):
        train(tmp_path, base(), comparisons([("a", "b", 0.9)], rejected=[]))
    with pytest.raises(CaiError, match="micro-batches of 5 "):
        train(
            tmp_path,
            ModelSettings(path="/nowhere"),
            tmp_path / "missing.parquet",
            SETTINGS.model_copy(update={"batch_size": 8, "micro_batch_size": 5}),
        )


def test_training_that_breaks_down_stops_with_the_fix(base, comparisons, tmp_path):
    settings = PreferenceSettings(batch_size=4, learning_rate=1e20)
    with pytest.raises(CaiError, match="Lower `learning_rate`"):
        train(tmp_path, base(), comparisons(PAIRS), settings)
    assert not (tmp_path / "model").exists()
