"""What `cai doctor MODEL` says of chat templates and folders, on models that are known."""

import pytest
from chat_formats import EVERY, FORMATS
from tiny_models import make_tiny_model

from cai.doctor.examine import examine
from cai.doctor.template import examine_template
from cai.errors import CaiError
from cai.settings import ModelSettings

LIMITED = {
    "gemma": {"system role", "alternation"},
    "qwen3_thinking": {"thinking"},
    "deepseek_r1": {"thinking", "date"},
}
"""The traps of each family, as tests/tiny_models.py lists them."""


@pytest.mark.parametrize("family", EVERY)
def test_the_traps_of_a_template_are_found_and_no_others(family):
    found = {one.name: one for one in examine_template(FORMATS[family])}
    limited = {name for name, one in found.items() if one.state == "limited"}
    assert limited == LIMITED.get(family, set())
    assert not [one for one in found.values() if one.state in ("no", "not tried")]


def test_a_template_that_writes_answers_in_another_way_is_no_round_trip():
    chat = FORMATS["qwen3"]
    whole = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = whole.replace("{{ answer }}", "{{ answer | upper }}")
    try:
        (one,) = [f for f in examine_template(chat) if f.name == "round trip"]
    finally:
        chat.tokenizer.chat_template = whole
    assert one.state in ("limited", "no")


def test_a_base_model_is_examined_with_transcripts_and_without_weights(tmp_path):
    folder = make_tiny_model("gpt2", tmp_path / "model")
    found = examine(ModelSettings(path=str(folder)))
    assert found.state("chat template", "own template") == "limited"
    assert found.state("chat template", "round trip") == "ok"
    assert found.state("training", "LoRA") == "ok"
    assert found.usable
    (folder / "model.safetensors").unlink()
    found = examine(ModelSettings(path=str(folder)))
    assert found.state("model", "weights") == "not tried"
    assert found.state("stages", "ppo") == "not tried"


def test_damaged_weights_make_a_model_unusable(tmp_path):
    folder = make_tiny_model("llama", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"nothing")
    found = examine(ModelSettings(path=str(folder)))
    assert found.state("model", "weights") == "no"
    assert not found.usable


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    with pytest.raises(CaiError, match=r"config\.json"):
        examine(ModelSettings(path=str(tmp_path)))
