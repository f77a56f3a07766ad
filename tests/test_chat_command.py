"""`cai chat`: a conversation in the terminal, and a model that gives no answer."""

import pytest
from engines.scripted_server import ScriptedServer
from engines.scripted_server import chat as answer_of
from typer.testing import CliRunner

from cai.cli import app
from cai.engines import PromptTooLong, Unanswered
from cai.engines.scripted import ScriptedEngine


def chat(monkeypatch, answer, typed):
    engine = ScriptedEngine(answer, lambda request: [])
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
    result = CliRunner().invoke(app, ["chat", "scripted"], input=typed)
    return result, engine


def test_every_turn_sees_those_before_it(monkeypatch):
    result, engine = chat(monkeypatch, lambda request: "A robin.", "Name a bird.\nAnother?\n\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("A robin.") == 2
    second = engine.generated[1].prompt.messages
    assert [m.content for m in second] == ["Name a bird.", "A robin.", "Another?"]


@pytest.mark.parametrize(
    "problem", [PromptTooLong("900 tokens"), Unanswered("refused", "a filter stopped it")]
)
def test_no_answer_is_an_error_in_a_sentence(monkeypatch, problem):
    def answer(request):
        raise problem

    result, _ = chat(monkeypatch, answer, "Hello\n\n")
    assert result.exit_code == 1
    assert f"The model gives no answer: {problem}" in " ".join(result.stderr.split())


def test_a_model_on_a_server_is_spoken_with_as_it_is_set():
    pytest.importorskip("openai", reason="pip install 'cai[openai]'")
    with ScriptedServer(answer_of("A wren.")).running() as server:
        arguments = [
            *("chat", f"judge@{server.url}", "--model-set", "server.omit=seed"),
            *("--model-set", "server.rename.max_tokens=max_completion_tokens"),
        ]
        result = CliRunner().invoke(app, arguments, input="Name a bird.\nAnother?\n\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("A wren.") == 2
    fields = {"model", "messages", "temperature", "max_completion_tokens"}
    assert [body.keys() for body in server.asked] == [fields, fields]
