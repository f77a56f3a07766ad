"""`cai constitution test`: a test passes when the expected verdict is the likelier one."""

import asyncio
import math
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.compare import FORMS, FeedbackJudge
from cai.constitution import load_constitution
from cai.constitution.findings import ConstitutionError
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.settings import CompareSettings
from cai.workbench.testing import accuracy, failing, junit, run_tests

FILE = """\
schema: 1
name: tested
principles:
  - id: kind
    comparison: Which is kinder?
    tests:
      - {prompt: p1, better: "KIND <&", worse: rude}
      - {prompt: p2, better: KIND too, worse: ruder}
      - {prompt: p3, better: gruff, worse: KIND but wrong}
  - id: calm
    critique: Is it calm?
    revision: Calm it.
    tests:
      - {prompt: p4, response: SHOUT, flagged: true}
      - {prompt: p5, response: whisper, flagged: false}
  - {id: untested, comparison: "Which is shorter?"}
"""


@pytest.fixture
def constitution(tmp_path):
    (tmp_path / "tested.yaml").write_text(FILE)
    return load_constitution(tmp_path / "tested.yaml")


def critique(request):
    return "It shouts." if "SHOUT" in request.prompt.messages[1].content else "It is calm."


def verdict(request):
    """Prefer what is KIND, and say that whatever shouts is wrong; with 0.6 of a mass of 0.8."""
    last = request.prompt.messages[-1].content
    first = last.split("(A) ")[1].split("\n")[0]
    if "critique above" in last:
        found = request.prompt.messages[-2].content == "It shouts."
        likes_first = found == (first == "It finds something wrong.")
    else:
        likes_first = first.startswith("KIND")
    liked = " (A)" if likes_first else " (B)"
    return [math.log(0.6 if option == liked else 0.2) for option in request.options]


def outcomes_of(constitution, engine, **settings):
    judge = FeedbackJudge(constitution, CompareSettings(**settings), seed=0)
    told = []

    @contextmanager
    def task(total):
        assert total == 5
        yield lambda: told.append(1)

    outcomes = asyncio.run(run_tests(judge, engine, task))
    assert len(told) == len(outcomes)
    return outcomes


def test_each_test_is_asked_in_both_orders_and_judged_by_the_expected_verdict(constitution):
    engine = ScriptedEngine(critique, verdict)
    outcomes = outcomes_of(constitution, engine)
    found = [(o.principle, o.number, o.passed) for o in outcomes]
    assert found == [
        ("kind", 1, True),
        ("kind", 2, True),
        ("kind", 3, False),
        ("calm", 1, True),
        ("calm", 2, True),
    ]
    assert [o.probability for o in outcomes] == pytest.approx([0.75, 0.75, 0.25, 0.75, 0.75])
    assert {round(o.mass, 6) for o in outcomes} == {0.8}
    assert len(engine.scored) == 10
    assert len(engine.generated) == 2


def test_a_judge_that_likes_a_position_passes_nothing(constitution):
    likes_a = {" (A)": -0.1, " (B)": -3.0}
    engine = ScriptedEngine(critique, lambda request: [likes_a[o] for o in request.options])
    assert not any(o.passed for o in outcomes_of(constitution, engine))


def test_no_verdict_is_neither_passed_nor_failed(constitution):
    engine = ScriptedEngine(
        lambda request: PromptTooLong("long"), lambda request: PromptTooLong("long")
    )
    outcomes = outcomes_of(constitution, engine)
    assert {(o.passed, o.error) for o in outcomes} == {(None, "long")}
    assert accuracy(outcomes).n == 0
    assert failing(outcomes, 0.1) == ["kind", "calm"]
    faint = ScriptedEngine(critique, lambda request: [-9.0, -12.0])
    outcomes = outcomes_of(constitution, faint, labels={"min_mass": 0.1})
    assert all(o.passed is None for o in outcomes)


def test_the_threshold_holds_for_each_principle(constitution):
    outcomes = outcomes_of(constitution, ScriptedEngine(critique, verdict))
    assert failing(outcomes, 1.0) == ["kind"]
    assert failing(outcomes, 0.6) == []


def test_accuracy_has_wilsons_interval(constitution):
    """4 of 5: the interval that statsmodels' proportion_confint(4, 5, method="wilson") gives."""
    found = accuracy(outcomes_of(constitution, ScriptedEngine(critique, verdict)))
    assert (found.value, found.n) == (0.8, 5)
    assert (found.low, found.high) == pytest.approx((0.37553, 0.96377), abs=1e-4)


def test_junit_tells_failures_from_errors(constitution):
    outcomes = outcomes_of(constitution, ScriptedEngine(critique, verdict))
    root = ElementTree.fromstring(junit("tested", outcomes))
    kind, calm = root
    assert (kind.get("tests"), kind.get("failures"), kind.get("errors")) == ("3", "1", "0")
    (failure,) = root.iter("failure")
    assert "'gruff' should win over 'KIND but wrong': P = 0.250" in failure.get("message")
    assert [case.get("name") for case in calm] == ["1: p4", "2: p5"]
    engine = ScriptedEngine(
        lambda request: PromptTooLong("too\x00long"), lambda request: PromptTooLong("too\x00long")
    )
    broken = ElementTree.fromstring(junit("tested", outcomes_of(constitution, engine)))
    assert [len(list(broken.iter(name))) for name in ("failure", "error")] == [0, 5]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("critique: c\n    revision: r", "has no `comparison`, but its test 1"),
        ("comparison: c", "has no `critique`, but its test 2"),
    ],
)
def test_a_test_of_a_half_that_is_not_there_is_refused(tmp_path, kind, words):
    path = tmp_path / "c.yaml"
    pair = "{prompt: p, better: a, worse: b}"
    flagged = "{prompt: p, response: a, flagged: true}"
    tests = f"[{pair}, {flagged}]"
    path.write_text(f"schema: 1\nname: c\nprinciples:\n  - id: x\n    {kind}\n    tests: {tests}\n")
    with pytest.raises(ConstitutionError, match=words):
        load_constitution(path)


def test_tests_change_no_hash():
    principle = load_constitution("playground").principles[0]
    bare = principle.model_copy(update={"tests": []})
    assert principle.tests
    for form in FORMS.values():
        assert form.text_hash(principle) == form.text_hash(bare)
    assert principle.supervised_hash == bare.supervised_hash


@pytest.fixture
def run_command(monkeypatch, tmp_path):
    (tmp_path / "tested.yaml").write_text(FILE)
    engine = ScriptedEngine(critique, verdict)
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)

    def run(*arguments):
        runner = CliRunner(env={"COLUMNS": "100"})
        return runner.invoke(app, ["constitution", "test", *map(str, arguments)])

    return run


def test_the_command_prints_accuracies_and_fails_below_the_threshold(run_command, tmp_path):
    strict = run_command(tmp_path / "tested.yaml", "--junit", tmp_path / "out.xml")
    assert strict.exit_code == 1
    assert "0.67 (0.21 to 0.94)" in strict.stdout
    assert "'gruff' should win over 'KIND but wrong': P = 0.250" in strict.stdout
    assert "Below the threshold of 1: kind" in strict.stdout
    assert ElementTree.parse(tmp_path / "out.xml").getroot().get("name") == "tested"
    loose = run_command(tmp_path / "tested.yaml", "--threshold", "0.5")
    assert (loose.exit_code, "Below" in loose.stdout) == (0, False)


def test_a_constitution_without_tests_is_an_error(run_command):
    result = run_command("harmless")
    assert result.exit_code == 1
    assert "has tests: add some" in result.stderr


def test_the_shipped_model_passes_the_shipped_tests():
    result = CliRunner().invoke(app, ["constitution", "test", "playground"])
    assert result.exit_code == 0, result.stdout


def test_two_tests_that_ask_the_same_are_asked_once(constitution):
    kind = constitution.principles[0]
    twice = kind.model_copy(update={"tests": [kind.tests[0], kind.tests[2], kind.tests[0]]})
    engine = ScriptedEngine(critique, verdict)
    judge = FeedbackJudge(
        constitution.model_copy(update={"principles": (twice,)}), CompareSettings(), seed=0
    )
    outcomes = asyncio.run(run_tests(judge, engine))
    assert [(o.number, o.passed) for o in outcomes] == [(1, True), (2, False), (3, True)]
    assert len(engine.scored) == 4
