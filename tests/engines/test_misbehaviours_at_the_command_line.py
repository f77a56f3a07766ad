"""What a person sees of a server that misbehaves: message, exit status, and what is asked again."""

import json

import pytest
from e2e.command import cai, rows
from misbehaving_stages import BAD_ROW, ROWS, Misbehaving
from scripted_server import RESET, ScriptedServer, error

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

KEY = "sk-proj-Z1y2X3w4V5u6T7ghij"
FILTER = error(400, "The prompt triggered the content management policy.", code="content_filter")
LONG = error(400, f"This model's maximum context length is 8 tokens, {KEY}")
BAD_KEY = error(401, f"Incorrect API key provided: {KEY[:7]}****{KEY[-4:]}.")
PAGE = (200, f"<html>Please log in, {KEY}</html>", {"content-type": "text/html"})
PIPELINE = """\
name: served
constitution: {constitution}
models:
  helpful:
    path: judge
    engine: openai
    server: {{base_url: "{url}", api_key_env: A_KEY, retries: 0, concurrency: 1}}
prompts: {{red_team: {prompts}, helpful: {helpful}, held_out: 0, near_duplicate: 1.0}}
revise: {{rounds: 1, concurrency: 1}}
compare: {{few_shot: 0, concurrency: 1}}
"""
CONSTITUTION = """\
schema: 1
name: test
principles:
  - id: good
    critique: Say what is bad.
    revision: Make it good.
    comparison: Which is good?
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("cai.engines.server.FIRST_WAIT", 0.0)
    monkeypatch.setenv("A_KEY", KEY)
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture
def files(tmp_path):
    def write(name, lines):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    asked = [f"Tell me about row-{n}." for n in ROWS]
    known = [{"prompt": p, "chosen": "A good answer.", "rejected": "A bad one."} for p in asked]
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    return {
        "known": write("known.jsonl", known),
        "prompts": write("prompts.jsonl", [{"prompt": prompt} for prompt in asked]),
        # As their answers are hashed: the row that goes wrong is not the first one.
        "in order": write("order.jsonl", [{"prompt": f"Where is row-{n}?"} for n in ROWS]),
        "helpful": write("helpful.jsonl", [{"prompt": "How do I do row-4?"}]),
        "constitution": tmp_path / "constitution.yaml",
    }


def said(done):
    text = " ".join((done.stdout + done.stderr).split())
    assert not any(KEY[at : at + 5] in text for at in range(len(KEY) - 4))
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        (FILTER, 0, "2 ok, 1 refused|The first: the server refused the request: The prompt"),
        (LONG, 0, "2 ok, 1 too_long|maximum context length is 8 tokens, [key]"),
        (BAD_KEY, 1, "refuses the key in the environment variable A_KEY|Incorrect API key"),
        (RESET, 1, "cannot be reached"),
        (error(402, "Insufficient Balance"), 1, "status 402 (Insufficient Balance)"),
    ],
    ids=["filter", "too long", "key", "reset", "credits"],
)
def test_feedback(wrong, code, words, server, files):
    server.answer = Misbehaving(wrong, "score")
    model = ("--model", f"judge@{server.url}", "--model-set", "server.api_key_env=A_KEY")
    more = ("--model-set", "server.retries=0", "--model-set", "server.concurrency=1")
    done = cai(
        *("feedback", files["known"], "--constitution", files["constitution"]),
        *(*model, *more, "--set", "concurrency=1", "--set", "few_shot=0"),
    )
    assert done.returncode == code
    assert all(part in said(done) for part in words.split("|"))


@pytest.mark.parametrize(
    ("wrong", "code", "words", "owed"),
    [
        (FILTER, 0, "no verdict on 1 answer (refused)", ()),
        (LONG, 0, "no verdict on 1 answer (too_long)", ()),
        (PAGE, 0, "no verdict on 1 answer (failed)", (BAD_ROW,)),
        (BAD_KEY, 1, "Incorrect API key", (2, 3)),
        (error(503, "Loading model"), 1, "status 503 (Loading model)", (2, 3)),
    ],
    ids=["filter", "too long", "page", "key", "503"],
)
def test_evaluate(wrong, code, words, owed, server, files, tmp_path):
    server.answer = Misbehaving(wrong, "say")
    settings = ("api_key_env=A_KEY", "retries=0", "concurrency=1")
    arguments = (
        *("evaluate", f"judge@{server.url}", "--prompts", f"red_team:{files['in order']}"),
        *(part for one in settings for part in ("--model-set", f"server.{one}")),
        *("--grader", "refusals", "--out", tmp_path / "out", "--concurrency", "1"),
    )
    done = cai(*arguments)
    assert done.returncode == code
    assert words in said(done)
    server.answer = well = Misbehaving(None, "none")
    assert cai(*arguments).returncode == 0
    assert sorted(row for row, _ in well.asked) == sorted(owed)
    states = [row["state"] for row in rows(tmp_path / "out" / "rows.jsonl")]
    assert states.count("ok") == 3 - (code == 0 and not owed)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [(FILTER, "say", "1 refused"), (FILTER, "score", "1 refused"), (BAD_KEY, "score", "Incorrect")],
    ids=["filter of a prompt", "filter of a question", "key"],
)
def test_run(wrong, kind, words, server, files, tmp_path):
    pipeline = tmp_path / "served.yaml"
    pipeline.write_text(PIPELINE.format(url=server.url, **files))
    out = tmp_path / "run"
    server.answer = first = Misbehaving(wrong, kind)
    done = cai("run", pipeline, "--out", out)
    assert words in said(done)
    assert done.returncode == (wrong is BAD_KEY)
    if done.returncode:
        assert first.asked[-1] == (BAD_ROW, kind)
    server.answer = well = Misbehaving(None, "none")
    assert cai("run", pipeline, "--out", out).returncode == 0
    finished = {row for row, asked in first.asked if asked == kind} - {BAD_ROW}
    owed = {(row, kind) for row in {*ROWS} - finished} if done.returncode else set()
    assert set(well.asked) == owed
    for row in rows(out / "compare" / "rows.jsonl"):
        assert (row["state"] == "ok") == ("label" in row)
    for path in out.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
