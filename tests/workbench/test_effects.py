"""What an edit does to a run, counted from stored rows; and relabelling what it touches alone."""

import asyncio

import pytest
import yaml
from stored_run import CONSTITUTION, PRINCIPLES, engine, write_run
from typer.testing import CliRunner

from cai.cli import app
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.workbench.effects import foreign, read_run, relabel, touched

NEW = "Which is better by the new rule?"


def reword(number, **update):
    principles = list(PRINCIPLES)
    principles[number] = principles[number].model_copy(update=update or {"comparison": NEW})
    return CONSTITUTION.model_copy(update={"principles": tuple(principles)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effects") / "run"
    return read_run(folder, write_run(folder))


def relabelled(run, constitution, with_engine):
    return asyncio.run(relabel(run, constitution, engine=with_engine))


def drew(run, name):
    return [row for row in run.judgements if row.principle.id == name]


def test_the_rows_of_a_run_are_found_as_they_were_made(run):
    assert foreign(run, CONSTITUTION) == 0
    counts = touched(run, CONSTITUTION, CONSTITUTION)
    assert (counts.chains, counts.judgements, counts.labels) == (0, 0, 0)


def test_rewording_a_comparison_touches_a_sixteenth_and_no_chain(run):
    """With five few-shot examples in every prompt, too."""
    counts = touched(run, CONSTITUTION, reword(3))
    assert counts.chains == 0
    assert counts.judgements == counts.labels == len(drew(run, "p3"))
    assert 3 <= counts.judgements <= 20  # 159 draws of probability 1/16: beyond 3 deviations


def test_rewording_a_critique_touches_the_chains_that_drew_it(run):
    counts = touched(run, CONSTITUTION, reword(5, critique="Other words."))
    drawn = [row for row in run.chains if "p5" in [step.principle.id for step in row.steps]]
    assert (counts.chains, counts.judgements) == (len(drawn), 0)
    assert drawn


def test_dropping_a_principle_touches_the_rows_that_drew_it(run):
    without = CONSTITUTION.model_copy(update={"principles": PRINCIPLES[:-1]})
    counts = touched(run, CONSTITUTION, without)
    assert counts.judgements == counts.labels == len(drew(run, "p15"))


def test_weights_touch_labels_without_a_judgement_where_all_principles_vote(tmp_path):
    run = read_run(tmp_path / "r", write_run(tmp_path / "r", 4, principles="all"))
    counts = touched(run, CONSTITUTION, reword(2, weight=5.0))
    assert (counts.judgements, counts.labels) == (0, 3)


def test_relabelling_asks_about_the_touched_rows_and_nothing_else(run):
    asked = engine()
    result = relabelled(run, reword(3), asked)
    expected = {row.key for row in drew(run, "p3")}
    assert {row.key for row in result.judgements} == expected
    assert asked.usage.engine_calls == 2 * len(expected) == len(asked.scored)
    assert all(NEW in request.prompt.messages[-1].content for request in asked.scored)
    assert asked.generated == []
    changed = {pair.key for pair, old, new in result.labels if old.label != new.label}
    assert changed == {row.pair for row in drew(run, "p3")}
    assert result.changed == len(changed)
    assert 0 < len(result.flipped) < len(changed)
    assert all((old.label > 0.5) != (new.label > 0.5) for _, old, new in result.flipped)


def test_relabelling_again_asks_nothing_and_the_run_is_left_alone(run):
    before = (run.folder / "compare/judgements.jsonl").read_bytes()
    first = relabelled(run, reword(4), engine())
    silent_engine = engine()
    again = relabelled(run, reword(4), silent_engine)
    assert silent_engine.usage.engine_calls == 0
    assert again.reused == len(first.judgements)
    assert again.labels == first.labels
    assert (run.folder / "compare/judgements.jsonl").read_bytes() == before


def test_another_feedback_model_is_refused(run):
    class Other(ScriptedEngine):
        fingerprint = "other"

    with pytest.raises(CaiError, match="not the one that judged"):
        relabelled(run, reword(3), Other(lambda r: "", lambda r: [-1, -1]))


def test_rows_of_another_constitution_are_counted(run):
    assert foreign(run, reword(3)) == len(drew(run, "p3"))


def test_a_folder_without_rows_is_an_error(tmp_path):
    settings = write_run(tmp_path / "r", 2)
    for name in ("revise/rows.jsonl", "compare/judgements.jsonl"):
        (tmp_path / "r" / name).unlink()
    with pytest.raises(CaiError, match="run its pipeline first"):
        read_run(tmp_path / "r", settings)


def test_the_command_counts_each_change_and_shows_flips(run, tmp_path, monkeypatch):
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine())
    edited = tmp_path / "sixteen.yaml"
    plain = {"schema": 1, **reword(3).model_dump(mode="json", exclude_none=True)}
    edited.write_text(yaml.safe_dump(plain))
    old, number = str(run.folder / "constitution.yaml"), len(drew(run, "p3"))
    command = ["constitution", "diff", old, str(edited)]
    runner = CliRunner(env={"COLUMNS": "120"})
    alone = runner.invoke(app, command).stdout
    assert "reworded  p3         comparison" in alone
    assert "[-rule 3?-] {+the new rule?+}" in alone
    counted = runner.invoke(app, [*command, "--run", str(run.folder), "--relabel"])
    assert counted.exit_code == 0, counted.stderr
    (line,) = (line for line in counted.stdout.splitlines() if line.startswith("all together"))
    assert line.split() == ["all", "together", "0", str(number), str(number)]
    assert f"{number} judgements made anew" in counted.stdout
    assert "P(response 0 is better)" in counted.stdout
    assert runner.invoke(app, [*command, "--relabel"]).exit_code == 2
    assert "say the same" in runner.invoke(app, ["constitution", "diff", old, old]).stdout
