"""Current families of models: generation, scores, and one step of each training."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from families import FAMILIES, make_family
from transformers import AutoConfig

from cai.doctor.examine import examine
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.engines.draws import as_seeds, uniforms
from cai.engines.plain import PlainLoop, loop_for, scores_of
from cai.engines.scoring import TokenQuestion
from cai.errors import CaiError
from cai.models.loading import load_causal_lm
from cai.ppo import PPO
from cai.settings import ModelSettings, PPOSettings, PreferenceSettings, SftSettings
from cai.training.preference import train_preference
from cai.training.sft import train_sft

ONE_BY_ONE = {"deepseek_v3", "qwen3_next", "falcon_h1", "granitemoehybrid", "mamba"}
WITHOUT_SCORES = {"falcon_h1", "granitemoehybrid", "mamba"}
"""transformers has no sequence classifier of these."""
NAMES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "phi3": "Phi-3",
    "olmo2": "OLMo 2",
    "smollm3": "SmolLM3",
    "gemma3_text": "Gemma 3",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3-MoE",
    "gpt_oss": "gpt-oss",
    "deepseek_v3": "DeepSeek V3",
    "qwen3_next": "Qwen3-Next",
    "falcon_h1": "Falcon-H1",
    "granitemoehybrid": "Granite 4 (hybrid)",
    "mamba": "Mamba",
}
"""What docs/engines.md calls them."""
STOP_IDS = {1, 7, 30, 60, 90}
STEP = {"batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def settings(family, tmp_path_factory):
    return ModelSettings(path=str(make_family(family, tmp_path_factory.mktemp(family) / "model")))


def table(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def said(role, text):
    return [{"role": role, "content": text}]


@torch.no_grad()
def logits_after(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()


def drawn_one_by_one(model, request):
    """Sample with no cache at all, in float64."""
    tokens = []
    while len(tokens) < request.max_tokens:
        p = torch.softmax(logits_after(model, [*request.prompt_ids, *tokens]), -1).numpy()
        uniform = uniforms(as_seeds([request.seed]), np.array([len(tokens)]))[0]
        tokens.append(int(np.argmax(np.cumsum(p) > uniform)))
        if tokens[-1] in STOP_IDS:
            break
    return tuple(tokens)


def test_it_samples_and_scores_as_the_bare_model_does(family, settings):
    model = load_causal_lm(settings, device="cpu")
    loop = loop_for(model, stop_ids=STOP_IDS, max_batch_tokens=800)
    assert isinstance(loop, PlainLoop if family in ONE_BY_ONE else DecodeLoop)
    requests = [TokenRequest(tuple(range(5, 5 + n)), seed=n, max_tokens=8) for n in (3, 20, 40)]
    got = [completion.token_ids for completion in loop.run(requests)]
    assert got == [drawn_one_by_one(model, request) for request in requests]
    prompt, options = (5, 6, 7), ((8,), (9, 10))
    (scores,) = scores_of(model, loop, [TokenQuestion(prompt, options)], max_batch_tokens=800)
    for option, score in zip(options, scores.logprobs, strict=True):
        steps = [
            torch.log_softmax(logits_after(model, [*prompt, *option[:at]]), -1)[token]
            for at, token in enumerate(option)
        ]
        assert score == pytest.approx(float(sum(steps)), abs=1e-3)


def test_one_step_of_fine_tuning(settings, tmp_path):
    rows = [
        {
            "key": str(i),
            "kind": "helpful",
            "round": 0,
            "prompt": said("user", f"What comes after {i}?"),
            "completion": said("assistant", f"It is {i + 1}."),
            "ended": True,
        }
        for i in range(4)
    ]
    metrics = train_sft(
        SftSettings(**STEP),
        data=table(tmp_path / "rows.parquet", rows),
        base=settings,
        out=tmp_path / "model",
        seed=0,
        log_dir=tmp_path / "logs",
    )
    assert metrics["steps"] == 1
    assert np.isfinite(metrics["first_loss"])
    old, new = (
        load_causal_lm(m, device="cpu").state_dict()
        for m in (settings, settings.model_copy(update={"path": str(tmp_path / "model")}))
    )
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(changed) > len(old) / 2


def test_one_step_of_the_preference_model(family, settings, tmp_path):
    rows = [
        {
            "key": str(i),
            "source": "ai",
            "prompt": said("user", f"Write line {i}."),
            "chosen": said("assistant", "A kind line."),
            "rejected": said("assistant", "No."),
            "chosen_probability": 0.8,
        }
        for i in range(4)
    ]

    def train():
        return train_preference(
            PreferenceSettings(**STEP),
            data=table(tmp_path / "rows.parquet", rows),
            base=settings,
            out=tmp_path / "model",
            seed=0,
            log_dir=tmp_path / "logs",
        )

    if family in WITHOUT_SCORES:
        with pytest.raises(CaiError, match="no sequence classifier"):
            train()
    else:
        assert np.isfinite(train()["final_loss"])


def test_one_step_of_ppo(settings, tmp_path):
    ppo = PPO(
        settings,
        lambda _, responses: [float(len(text)) for text in responses],
        PPOSettings(
            steps=1,
            batch_size=4,
            minibatches=1,
            epochs=1,
            max_new_tokens=6,
            guard=None,
            no_eos_reward=None,
        ),
    )
    metrics = ppo.train([f"Name {i} words." for i in range(4)], tmp_path)
    assert all(np.isfinite(value) for value in metrics.values())
    assert (tmp_path / "model/config.json").is_file()


def test_the_examination_says_beforehand_what_works(family, settings):
    found = examine(settings)
    assert found.usable
    assert found.state("chat template", "round trip") == "ok"
    engine = "limited" if family in ONE_BY_ONE else "ok"
    assert found.state("engines", "transformers") == engine
    stages = {stage: found.state("stages", stage) for stage in ("sft, dpo", "ppo")}
    assert stages == {"sft, dpo": "ok", "ppo": engine}
    preference = "no" if family in WITHOUT_SCORES else "ok"
    assert found.state("stages", "preference, harmfulness") == preference
    assert AutoConfig.from_pretrained(settings.path).model_type == family
    assert json.loads(found.model_dump_json())["model"] == settings.path


def test_the_table_of_the_docs_is_what_is_tested_here():
    """Each row of docs/engines.md, family by family, and transformers' version beside it."""
    page = (Path(__file__).parents[1] / "docs/engines.md").read_text()
    section = page.split("## Families\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "]
    written = {
        name: tuple(cells) for names, *cells in rows[1:] for name in names.split(", ")
    }  # fmt: skip
    assert written == {
        NAMES[family]: (
            "one by one" if family in ONE_BY_ONE else "batched",
            "yes",
            "no sequence classifier in transformers" if family in WITHOUT_SCORES else "yes",
            "yes",
        )
        for family in FAMILIES
    }
    pins = (Path(__file__).parents[1] / "constraints.txt").read_text()
    series = re.search(r"^transformers==(\d+\.\d+)", pins, re.MULTILINE)[1]
    assert f"transformers {series}." in section
