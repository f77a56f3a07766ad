"""Absolute harmfulness: ratings are read, learnt, and given back within 0 and 4."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from cai.data.conversation import user
from cai.data.prompts import reader_of
from cai.data.records import RatedRow
from cai.data.store import write_rows
from cai.errors import CaiError
from cai.models.preference_model import PreferenceModel
from cai.playground.sources import playground_ratings
from cai.settings import OptimizerSettings, SourceSettings
from cai.training.harmfulness import train_harmfulness
from cai.training.harmfulness_model import HarmfulnessModel


def rated(count=60, seed=0):
    """Rate answers by how often they say `harm`: 0 or 4."""
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        harmful = rng.random() < 0.5
        word = "harm" if harmful else "bread"
        text = " ".join(rng.choice(["bake", "the", word, word]) for _ in range(8))
        rows.append(
            RatedRow(key=str(n), messages=user(f"How {n}?"), response=text, rating=4.0 * harmful)
        )
    return rows


def rows_in(folder, rows):
    write_rows(folder / "ratings.jsonl", rows)
    return folder / "ratings.jsonl"


def read(path, **changes):
    return reader_of(SourceSettings(path=path, **changes), Path()).ratings(seed=0)


@pytest.fixture(scope="module")
def trained(tiny_settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("harmfulness") / "model"
    settings = OptimizerSettings(learning_rate=3e-3, batch_size=8, epochs=6)
    found = train_harmfulness(
        settings,
        data=rows_in(out.parent, rated()),
        base=tiny_settings("llama"),
        out=out,
        seed=0,
        log_dir=out.parent / "logs",
    )
    return out, found


def test_it_learns_what_harm_is(trained):
    _, found = trained
    assert found["rows"] + found["rows_held_out"] == 60
    assert found["rows_held_out"] > 0
    assert found["final_loss"] < 0.5 * found["first_loss"]
    assert found["held_out_rmse"] < 0.5 * found["held_out_rmse_of_mean"]


def test_ratings_are_between_0_and_4(trained):
    model = HarmfulnessModel.load(trained[0])
    texts = ["harm harm harm harm the harm", "bake bread bake the bread bread", "seeds in spring"]
    found = model.rate([(user("How?"), text) for text in texts])
    assert all(0 <= value <= 4 for value in found)
    assert found[0] > 3 > 1 > found[1]


def test_micro_batches_change_memory_not_results(tiny_settings, tmp_path):
    """The loss is the mean over a batch, the last and shorter one of an epoch included."""
    weights = {}
    for micro in (8, 3, 1):
        out = tmp_path / str(micro) / "model"
        out.parent.mkdir()
        train_harmfulness(
            OptimizerSettings(learning_rate=1e-3, batch_size=24, micro_batch_size=micro),
            data=rows_in(out.parent, rated(28)),
            base=tiny_settings("llama"),
            out=out,
            seed=0,
            log_dir=out.parent / "logs",
        )
        weights[micro] = load_file(out / "model.safetensors")
    for micro in (3, 1):
        for name, tensor in weights[micro].items():
            torch.testing.assert_close(tensor, weights[8][name], rtol=0, atol=2e-4)


def test_plain_transformers_reads_the_same_rating(trained):
    """Its pooling looks for the last id that is not the pad id; both models read one token."""
    scorer = PreferenceModel.load(trained[0])
    plain = AutoModelForSequenceClassification.from_pretrained(trained[0]).eval()
    ids = scorer.ids(user("How?"), "bake the harm")
    with torch.no_grad():
        raw = plain(torch.tensor([ids])).logits.item()
    assert plain.config.pad_token_id not in ids[-1:]
    assert raw - scorer.mean == pytest.approx(scorer.score_ids([ids]).item(), abs=1e-5)


def test_adapters_train_too(tiny_settings, tmp_path):
    settings = OptimizerSettings(learning_rate=1e-3, batch_size=8, lora_rank=2)
    arguments = {
        "data": rows_in(tmp_path, rated(16)),
        "base": tiny_settings("llama"),
        "out": tmp_path / "model",
        "seed": 0,
        "log_dir": tmp_path / "logs",
    }
    found = train_harmfulness(settings, **arguments)
    assert (found["steps"], found["rows_held_out"]) == (2, 0)
    assert "held_out_rmse" not in found
    HarmfulnessModel.load(tmp_path / "model")


def test_a_language_model_is_no_harmfulness_model(tiny):
    with pytest.raises(CaiError, match="no harmfulness model"):
        HarmfulnessModel.load(tiny("llama"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_transcripts_and_responses_are_read(tmp_path):
    path = write(
        tmp_path / "r.jsonl",
        {
            "transcript": "\n\nHuman: Hi\n\nAssistant: No\n\nHuman: Why?\n\nAssistant: Just so.",
            "rating": 3,
        },
        {"prompt": "Why?", "response": "Because.", "rating": "0.5"},
        {"prompt": "Why?", "response": "Because.", "rating": "0.5"},
    )
    first, second = read(path)
    assert len(read(path, limit=1)) == 1
    assert [m.content for m in first.messages] == ["Hi", "No", "Why?"]
    assert (first.response, first.rating) == ("Just so.", 3)
    assert (second.messages, second.response, second.rating) == (user("Why?"), "Because.", 0.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Why?", "response": "So.", "rating": 5}, "from 0"),
        ({"prompt": "Why?", "response": "So."}, "from 0"),
        ({"prompt": "Why?", "response": "So.", "rating": True}, "from 0"),
        ({"prompt": "Why?", "rating": 1}, "ends with an answer"),
        ({"transcript": "Human: Why?", "rating": 1}, "ends with an answer"),
    ],
)
def test_what_has_no_rating_or_no_answer_is_refused_by_line(tmp_path, row, said):
    good = {"prompt": "Why?", "response": "So.", "rating": 1}
    with pytest.raises(CaiError, match=said) as refused:
        read(write(tmp_path / "r.jsonl", good, row))
    assert "r.jsonl:2" in str(refused.value)


def test_the_playgrounds_ratings_go_by_construction():
    rows = playground_ratings(seed=0, limit=400)
    assert rows == playground_ratings(seed=0, limit=400)
    assert {row.rating for row in rows} == {0, 1, 2, 3, 4}
    refusals = [r.rating for r in rows if r.response.startswith(("I won't", "I'm sorry", "No, I"))]
    assert len(refusals) > 20
    assert sum(refusals) / len(refusals) < 0.2
