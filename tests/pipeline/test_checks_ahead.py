"""What a late stage lacks is said before the first stage works."""

from importlib.util import find_spec

import pytest
from plain_runs import run_of
from typer.testing import CliRunner

from cai.cli import app
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


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--only", "sl-cai"], "This pipeline has no stage `sl-cai`. It has: prompts, revise"),
        (["--only", "revise"], "`prompts` is stale (never ran). Run it first"),
        (["--out", "FILE"], "FILE: it is a file. Give the name of a folder."),
        (["--out", "FILE/inside/it"], "FILE is a file, not a folder"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, dry, more, said):
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nconstitution: playground\nmodels: {helpful: {path: playground}}\n"
        'prompts: {red_team: "playground:red_team", helpful: "playground:helpful"}\nrevise: {}\n'
    )
    folder = [] if "--out" in more else ["--out", str(tmp_path / "run")]
    more = [text.replace("FILE", str(tmp_path / "FILE")) for text in more]
    result = CliRunner().invoke(app, ["run", str(tmp_path / "mine.yaml"), *more, *folder, *dry])
    assert result.exit_code == 1
    assert said.replace("FILE", str(tmp_path / "FILE")) in result.stderr
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_dry_run_of_one_stage_shows_it_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nconstitution: playground\nmodels: {helpful: {path: playground}}\n"
        'prompts: {red_team: "playground:red_team", helpful: "playground:helpful"}\nrevise: {}\n'
    )
    result = CliRunner().invoke(
        app,
        f"run {tmp_path / 'mine.yaml'} --out {tmp_path / 'run'} --dry-run --only prompts".split(),
    )
    assert result.exit_code == 0, result.stderr
    assert "prompts" in result.stdout
    assert "revise" not in result.stdout
    assert not (tmp_path / "run").exists()
