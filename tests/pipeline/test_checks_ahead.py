"""What a late stage lacks is said before the first stage works."""

from importlib.util import find_spec

import pytest
from plain_runs import run_of

from cai.errors import CaiError
from cai.pipeline.runner import run_pipeline

VLLM = {"path": "playground", "engine": "vllm"}
SERVER = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}
NOWHERE = {"path": "no/such/folder"}


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feedback": VLLM}, r"pip install 'cai\[vllm\]'"),
        ({"feedback": {"path": "judge", "engine": "openai", "server": SERVER}}, "NO_SUCH_KEY"),
        ({"fallback": NOWHERE}, "no/such/folder"),
        ({"judge": VLLM}, r"pip install 'cai\[vllm\]'"),
        ({"rollouts": "vllm"}, r"pip install 'cai\[vllm\]'"),
    ],
)
def test_what_a_late_stage_lacks_is_said_before_the_first_works(tmp_path, changes, said):
    judge, rollouts = changes.pop("judge", None), changes.pop("rollouts", "transformers")
    data = {
        "name": "late",
        "constitution": "playground",
        "models": {"helpful": {"path": "playground"}, **changes},
        "prompts": {"red_team": "playground:red_team", "helpful": "playground:helpful"},
        "revise": {},
        "sft": {},
        "compare": {},
        "preference": {},
        "ppo": {"rollouts": rollouts},
        "evaluate": {"judge": judge, "elo": "judge"} if judge else {},
    }
    with pytest.raises(CaiError, match=said):
        run_pipeline(run_of(data, tmp_path))
    assert not (tmp_path / "prompts").exists()
