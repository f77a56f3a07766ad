"""Model folders: what is wrong with them is said in words."""

import json

import pytest
import torch
from tiny_models import FAMILIES, copy_of, make_tiny_model, make_tiny_tokenizer

from cai.errors import CaiError
from cai.models.loading import (
    device_and_dtype,
    fingerprint_model,
    load_causal_lm,
    load_chat_format,
    load_tokenizer,
    model_folder,
    resolve_model,
)
from cai.settings import ModelSettings


@pytest.fixture
def folder(tiny, tmp_path):
    return copy_of(tiny("llama"), tmp_path / "model")


def at(folder, **more):
    return ModelSettings(path=str(folder), **more)


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_ready_to_run(tiny_settings, family):
    model = load_causal_lm(tiny_settings(family), device="cpu")
    assert not model.training
    assert model.device.type == "cpu"
    chat = load_chat_format(tiny_settings(family))
    assert set(model.generation_config.eos_token_id) <= chat.stop_ids


def test_no_dropout_even_in_training_mode(tiny_settings):
    model = load_causal_lm(tiny_settings("gpt2"), device="cpu").train()
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_dtype_is_what_is_asked_for(tiny_settings):
    assert load_causal_lm(tiny_settings("llama", dtype="bfloat16")).dtype == torch.bfloat16
    device, dtype = device_and_dtype(tiny_settings("llama", dtype="auto"))
    assert dtype == (torch.bfloat16 if device.type == "cuda" else torch.float32)


def test_automatic_precision_is_that_of_the_device_that_is_asked_for(tiny_settings):
    automatic = tiny_settings("llama", dtype="auto")
    assert device_and_dtype(automatic, "cpu")[1] == torch.float32
    assert device_and_dtype(automatic, "cuda") == (torch.device("cuda"), torch.bfloat16)
    assert load_causal_lm(automatic, device="cpu").dtype == torch.float32


def test_transcript_format_survives_saving(tiny_settings, tmp_path):
    tokenizer = load_tokenizer(tiny_settings("gpt2"))
    folder = copy_of(tiny_settings("gpt2").path, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    again = load_chat_format(at(folder))
    assert again.stop_strings == load_chat_format(tiny_settings("gpt2")).stop_strings != ()


def test_loading_writes_nothing(folder):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    load_chat_format(at(folder))
    load_causal_lm(at(folder))
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_resolves_folders_and_hub_ids_and_the_playground(folder, monkeypatch):
    assert resolve_model(str(folder)) == str(folder)
    assert resolve_model("owner/name-1.5") == "owner/name-1.5"
    assert resolve_model("playground").endswith("model")
    monkeypatch.chdir(folder.parent)
    assert resolve_model("model") == "model"


@pytest.mark.parametrize("path", ["/no/such/folder", "./no-such", "a/b/c"])
def test_a_path_that_is_not_there(path):
    with pytest.raises(CaiError, match="does not exist"):
        model_folder(at(path))


def test_a_file_is_not_a_model(folder):
    with pytest.raises(CaiError, match="is a file"):
        model_folder(at(folder / "config.json"))


def test_a_hub_id_that_cannot_be_downloaded():
    with pytest.raises(CaiError, match="neither a local folder nor"):
        model_folder(at("no-such-owner/no-such-model"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no weights"),
    ],
)
def test_what_is_missing_is_named(folder, missing, message):
    (folder / missing).unlink()
    for use in (load_tokenizer, load_causal_lm, load_chat_format, fingerprint_model):
        with pytest.raises(CaiError, match=message):
            use(at(folder))


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CaiError, match=r"no model-2\.safetensors"):
        load_causal_lm(at(folder))


def test_an_adapter_is_not_a_model(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(CaiError, match="PEFT adapter"):
        load_causal_lm(at(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_git_lfs_pointers_are_recognised(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CaiError, match="git lfs pull"):
        load_causal_lm(at(folder))


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights_are_recognised(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CaiError, match="damaged or cut short"):
        load_causal_lm(at(folder))


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_broken_config_is_named(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CaiError, match=r"config\.json"):
        load_causal_lm(at(folder))


def test_an_unknown_architecture_is_one_paragraph(folder):
    edit_json(folder / "config.json", model_type="never-heard-of", architectures=["No"])
    with pytest.raises(CaiError, match="cannot be loaded as a language model"):
        load_causal_lm(at(folder))


@pytest.mark.parametrize("content", ["{", '{"model": 3}'])
def test_a_broken_tokenizer_is_named(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CaiError, match="tokenizer"):
        load_tokenizer(at(folder))


def test_weights_are_never_made_up(folder):
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(CaiError, match="lack"):
        load_causal_lm(at(folder))


def test_weights_of_another_shape_are_refused(folder):
    edit_json(folder / "config.json", intermediate_size=96)
    with pytest.raises(CaiError, match="weights"):
        load_causal_lm(at(folder))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_preference_model_is_no_language_model(tiny, tmp_path, family):
    from transformers import AutoModelForSequenceClassification

    folder = copy_of(tiny(family), tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    with pytest.raises(CaiError, match="language model"):
        load_causal_lm(at(folder))


def test_a_tokenizer_without_template_is_told_of_transcripts(tiny):
    with pytest.raises(CaiError, match="format: transcript"):
        load_chat_format(at(tiny("gpt2")))


def remote_model(folder):
    """Make the folder a model of code of its own, which leaves a trace when it is run."""
    code = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
    (folder / "modeling_own.py").write_text(code)
    names = {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit_json(folder / "config.json", model_type="own", auto_map=names)


def remote_tokenizer(folder):
    names = {"AutoTokenizer": ["modeling_own.OwnTokenizer", None]}
    file = folder / "tokenizer_config.json"
    edit_json(file, tokenizer_class="OwnTokenizer", auto_map=names)


@pytest.mark.parametrize("make_remote", [remote_model, remote_tokenizer])
def test_code_in_a_model_folder_is_refused_in_one_sentence(folder, monkeypatch, make_remote):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    make_remote(folder)
    for load in (load_tokenizer, load_causal_lm, load_chat_format, fingerprint_model):
        with pytest.raises(CaiError) as caught:
            load(at(folder))
        said = str(caught.value)
        assert "auto_map" in said
        assert said.count(". ") == 0
    assert not list(folder.glob("*.ran"))


def test_code_for_an_architecture_that_transformers_has_is_not_needed(folder):
    names = {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit_json(folder / "config.json", auto_map=names)
    assert load_causal_lm(at(folder), device="cpu")


def test_a_fingerprint_names_how_conversations_become_ids(folder, monkeypatch):
    first = fingerprint_model(at(folder))
    monkeypatch.setattr("cai.models.loading.CHAT_FORMAT", "another")
    assert fingerprint_model(at(folder)) != first


def test_a_fingerprint_names_the_contents(folder, tmp_path):
    first = fingerprint_model(at(folder))
    assert fingerprint_model(at(copy_of(folder, tmp_path / "elsewhere"))) == first
    assert fingerprint_model(at(folder, format="transcript")) != first
    seen = {first}
    edit_json(folder / "generation_config.json", eos_token_id=9)
    seen.add(fingerprint_model(at(folder)))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    seen.add(fingerprint_model(at(folder)))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    seen.add(fingerprint_model(at(folder)))
    assert len(seen) == 4


def test_large_weights_are_hashed_in_blocks_from_end_to_end(folder, monkeypatch):
    from cai.models import loading as models

    monkeypatch.setattr(models, "_HASH_ALL_BELOW", 0)
    monkeypatch.setattr(models, "_BLOCK", 64)
    monkeypatch.setattr(models, "_BLOCKS", 8)
    models._hash_files.cache_clear()
    seen = {fingerprint_model(at(folder))}
    content = (folder / "model.safetensors").read_bytes()
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        (folder / "model.safetensors").write_bytes(changed)
        models._hash_files.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "_check_weights", lambda _: None)
            seen.add(fingerprint_model(at(folder)))
    models._hash_files.cache_clear()
    assert len(seen) == 3


def test_the_tiny_models_are_reproducible(tmp_path):
    first = make_tiny_model("qwen3", tmp_path / "a")
    same = make_tiny_model("qwen3", tmp_path / "b")
    other = make_tiny_model("qwen3", tmp_path / "c", seed=1)
    assert fingerprint_model(at(first)) == fingerprint_model(at(same))
    assert fingerprint_model(at(first)) != fingerprint_model(at(other))


def test_the_tiny_llama_sets_the_doubled_bos_trap():
    tokenizer = make_tiny_tokenizer("llama")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
