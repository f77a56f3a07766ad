"""`cai revisions` on a run: flaws by stage, and a judge of each revision."""

import json
import math

import pytest
import yaml
from plain_runs import SMALLEST
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import PrincipleUse, Provenance, RevisionRow, RevisionStep
from cai.data.store import write_rows
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.pipeline.load import pipeline_settings

PRINCIPLES = tuple(
    Principle(id=f"p{n}", critique="?", revision="!", comparison="Which one is longer?")
    for n in range(2)
)
CONSTITUTION = Constitution(name="two", principles=PRINCIPLES)
DESCRIBES = "The assistant's response is harmful and should be rewritten with more care."


def chain(number, *texts, response="Take it."):
    """A chain; its rounds are under p0 and p1 in turn."""
    return RevisionRow(
        key=f"chain{number}",
        kind="red_team",
        messages=user(f"May I take bike {number}?"),
        task=f"task{number}",
        response=response,
        ended=True,
        steps=[
            RevisionStep(
                principle=PrincipleUse(id=f"p{n % 2}", text_hash=""),
                critique="Too bad.",
                revision=text,
                ended=True,
            )
            for n, text in enumerate(texts)
        ],
        provenance=Provenance(
            model="m", model_fingerprint="", template_hash="", sampling={}, seed=0
        ),
    )


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Write a run of stages with their rows, and run the command on it."""
    folder = tmp_path / "run"
    folder.mkdir()

    def run(stages, *options, score=None, **sections):
        settings = pipeline_settings({**SMALLEST, **sections})
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        whole = {"schema": 1, **CONSTITUTION.model_dump(mode="json", exclude_none=True)}
        (folder / "constitution.yaml").write_text(yaml.safe_dump(whole))
        for name, rows in stages.items():
            write_rows(folder / name / "rows.jsonl", rows)
        run.engine = ScriptedEngine(str, score or longer)
        run.opened = []

        def open_engine(model):
            run.opened.append(model.path)
            return run.engine

        monkeypatch.setattr("cai.engines.opening.open_engine", open_engine)
        arguments = ["revisions", str(folder), "--json", str(tmp_path / "out.json"), *options]
        done = CliRunner().invoke(app, arguments)
        out = tmp_path / "out.json"
        return done, json.loads(out.read_text()) if out.exists() else None

    return run


def shown(request):
    """The two responses of a question."""
    text = request.prompt.messages[-1].content
    return [text.split(f"({letter}) ")[1].split("\n")[0] for letter in "AB"]


def longer(request):
    """Prefer the longer response, in either order."""
    first, second = map(len, shown(request))
    odds = math.log(0.9), math.log(0.1)
    return [math.log(0.5)] * 2 if first == second else [*(odds if first > second else odds[::-1])]


def test_each_of_two_stages_counts_its_own_flaws(command):
    rows = [chain(0, DESCRIBES), chain(1, "Ask the owner of the bike first.")]
    stages = {"revise": rows, "again": rows}
    again = {"stage": "revise", "flaws": ["copied"]}
    done, found = command(stages, revise={"flaws": ["describes"]}, again=again)
    assert done.exit_code == 0, done.output
    assert (found["revisions"], found["flawed"], found["flaws"]) == (4, 1, {"describes": 2})
    assert "out of training: describes (in again)." in " ".join(done.output.split())
    done, found = command(stages, revise={"flaws": ["copied"]}, again=again)
    assert found["flawed"] == 0
    assert "out of training: describes." in " ".join(done.output.split())


CHAINS = [
    chain(0, "Ask the owner.", "Ask."),  # better, worse
    chain(1, "Ask the owner.", "Ask the owner of it."),  # better, better
    chain(2, "No.", "No."),  # worse, unchanged
    chain(3, "Ask now."),  # as long as the response: a tie
]


def test_a_judge_says_which_revisions_are_better_by_round_and_principle(command):
    done, found = command(
        {"revise": CHAINS}, "--judge", "big", revise={}, compare={"principles": "all"}
    )
    assert done.exit_code == 0, done.output
    judge = found["judge"]
    assert judge["states"] == {"ok": 5, "tie": 1, "unchanged": 1}
    assert sum(judge["states"].values()) == found["revisions"]
    assert (judge["better"]["value"], judge["better"]["n"]) == (pytest.approx(3 / 5), 5)
    assert {k: (r["value"], r["n"]) for k, r in judge["by_round"].items()} == {
        "1": (pytest.approx(2 / 3), 3),
        "2": (pytest.approx(1 / 2), 2),
    }
    assert {k: r["n"] for k, r in judge["by_principle"].items()} == {"p0": 3, "p1": 2}
    assert judge["better"]["low"] < 3 / 5 < judge["better"]["high"]
    assert command.opened == ["big"]
    asked = command.engine.scored
    # Two of the six distinct questions are the same text, in two orders, under two principles.
    assert len(asked) == 6 * 2 * 2
    assert {tuple(shown(request)) for request in asked} >= {
        ("Take it.", "Ask the owner."),
        ("Ask the owner.", "Take it."),
    }
    assert "60%" in done.output


def test_what_has_no_verdict_is_counted_and_in_no_share(command):
    def lost(request):
        return PromptTooLong("900 tokens") if "bike 1" in str(request.prompt) else longer(request)

    done, found = command({"revise": CHAINS}, "--judge", "big", score=lost, revise={})
    assert done.exit_code == 0, done.output
    states = {"ok": 3, "tie": 1, "too_long": 2, "unchanged": 1}
    assert found["judge"]["states"] == states
    assert found["judge"]["better"]["n"] == 3
    assert found["judge"]["errors"]["too_long"] == "900 tokens"
    assert "The first `too_long`: 900 tokens" in done.output


def test_a_judge_without_any_verdict_is_an_error(command):
    nothing = {"score": lambda _: [-40.0, -40.0], "compare": {"labels": {"min_mass": 0.1}}}
    done, found = command({"revise": CHAINS}, "--judge", "big", revise={}, **nothing)
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "no verdict on any revision (1 unchanged, 6 unparsed)" in said
    assert found["judge"]["better"] == {"value": None, "low": None, "high": None, "n": 0}


def test_words_around_a_revision_are_not_judged(command):
    wrapped = chain(0, 'Sure! Here is a revised response:\n\n"Ask the owner."')
    command({"revise": [wrapped]}, "--judge", "big", revise={})
    assert {text for request in command.engine.scored for text in shown(request)} == {
        "Take it.",
        "Ask the owner.",
    }


def test_the_feedback_model_of_the_run_can_judge_and_chains_can_be_drawn(command):
    models = {"helpful": {"path": "playground"}, "feedback": {"path": "its-judge"}}
    options = ["--judge", "feedback", "--limit", "2"]
    done, found = command({"revise": CHAINS}, *options, revise={}, models=models)
    assert done.exit_code == 0, done.output
    assert command.opened == ["its-judge"]
    assert found["judge"]["model"] == "its-judge"
    assert sum(found["judge"]["states"].values()) < found["revisions"] == 7


@pytest.mark.parametrize("option", [["--limit", "2"], ["--judge-set", "dtype=float32"]])
def test_options_of_the_judge_need_one(command, option):
    done, _ = command({"revise": CHAINS}, *option, revise={})
    assert done.exit_code != 0
    assert "need a judge" in f"{done.output}{done.exception}"


def test_a_file_needs_a_constitution_to_be_judged(tmp_path):
    file = tmp_path / "chains.jsonl"
    file.write_text(json.dumps({"prompt": "May I?", "response": "Yes.", "revision": "Ask him."}))
    done = CliRunner().invoke(app, ["revisions", str(file), "--judge", "playground"])
    assert done.exit_code == 1
    assert "`--constitution`" in f"{done.output}{done.exception}"
