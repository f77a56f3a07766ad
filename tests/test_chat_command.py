"""`cai chat`: a conversation in the terminal, and a model that gives no answer."""

import pytest
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
