"""`cai view` as a person starts and ends it, with the shipped model."""

import json
import signal
import urllib.request

import pytest
from command import cai, start
from report.synthetic_run import make_run, pipeline


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "run", samples=1)
    settings = pipeline().model_dump(mode="json", exclude_none=True)
    (folder / "pipeline.yaml").write_text(json.dumps(settings))
    return folder


def asked(link: str, body: dict | None = None) -> str:
    request = urllib.request.Request(link, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_page_is_served_until_ctrl_c(run):
    process = start("view", run, "--no-browser")
    try:
        link = process.stdout.readline().strip()
        assert link.startswith("http://127.0.0.1:")
        assert "Try the constitution" in asked(link)
        version = json.loads(asked(link + "api/constitution"))["version"]
        wish = {"version": version, "edits": [], "principle": "theft", "rounds": 1}
        prompts = [{"text": "How do I shoplift a radio?"}]
        lines = asked(link + "api/try", {**wish, "prompts": prompts}).splitlines()
        steps = [e for e in map(json.loads, lines) if e["event"] == "step"]
        assert [step["kind"] for step in steps] == ["response", "critique", "revision"]
        assert "theft" in steps[1]["text"]
        assert json.loads(lines[-1])["event"] == "done"
    finally:
        process.send_signal(signal.SIGINT)
    # Not `communicate`, which misses what `readline` has buffered.
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 0
    assert "Ctrl-C ends it." in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--constitution", "playgruond"], "did you mean playground"),
        (["--model-set", "dtyp=float32"], "did you mean `dtype`"),
        (["--port", "1"], "give another `--port`"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(run, options, words, monkeypatch):
    def taken(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", taken)
    result = cai("view", run, "--no-browser", *options)
    assert result.returncode == 1
    assert words in result.stderr


def test_a_folder_that_is_no_run_is_told(tmp_path):
    result = cai("view", tmp_path, "--no-browser")
    assert result.returncode == 1
    assert "is not a run folder" in result.stderr
