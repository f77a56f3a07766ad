"""What is missing is said before any work starts, with the command that fixes it."""

import sys
from importlib.util import find_spec

import pytest

from cai.engines.opening import open_engine
from cai.errors import CaiError
from cai.ppo import PPO, PPOSettings
from cai.settings import ModelSettings, ServerSettings


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_install_command_is_named(tmp_path):
    with pytest.raises(CaiError, match=r"needs vLLM: pip install 'cai\[vllm\]'"):
        open_engine(ModelSettings(path="playground", engine="vllm"))
    ppo = PPO("playground", lambda prompts, responses: [0.0], PPOSettings(rollouts="vllm"))
    with pytest.raises(CaiError, match=r"needs vLLM: pip install 'cai\[vllm\]'"):
        ppo.train(["How do I bake bread?"], tmp_path)
    assert ppo.learner is None


def test_without_openai_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    settings = ModelSettings(path="judge", engine="openai", server=ServerSettings())
    with pytest.raises(CaiError, match=r"needs the openai package: pip install 'cai\[openai\]'"):
        open_engine(settings)


def test_settings_with_options_can_name_an_engine():
    first = ModelSettings(path="m", engine="vllm", options={"max_num_seqs": 4})
    same = ModelSettings(path="m", engine="vllm", options={"max_num_seqs": 4})
    other = ModelSettings(path="m", engine="vllm", options={"max_num_seqs": 8})
    assert len({first: 1, same: 2, other: 3}) == 2


def test_an_adapter_counts_in_the_name_of_a_model(tmp_path):
    from cai.models.loading import fingerprint_model

    def named(rank):
        (tmp_path / "adapter_config.json").write_text(f'{{"r": {rank}}}')
        settings = ModelSettings(path="playground", engine="vllm", adapter=str(tmp_path))
        return fingerprint_model(settings)

    plain = fingerprint_model(ModelSettings(path="playground"))
    assert plain == fingerprint_model(ModelSettings(path="playground", engine="vllm"))
    assert len({named(4), named(16), plain}) == 3
