"""The `revise` stage with a scripted model: which revisions are trained on."""

import json
from io import StringIO

import pyarrow.parquet as pq
import pytest
from plain_runs import red_team_prompts, run_of
from rich.console import Console

from cai.constitution import Constitution, Principle
from cai.data.records import RevisionRow
from cai.data.store import read_rows, write_rows
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.pipeline.stages.revise import STAGE
from cai.revise.quality import FlawsRow
from cai.settings import ReviseSettings

PROMPTS = red_team_prompts(2)
CONSTITUTION = Constitution(
    name="one",
    principles=(Principle(id="p", critique="Say what is wrong.", revision="Rewrite it."),),
)
WRAPPED = 'Sure! Here is a revised response:\n\n"Ask the owner."'


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the stage; the model says `revisions` in turn. Returns what is trained on."""
    write_rows(tmp_path / "prompts/rows.jsonl", PROMPTS)

    def run(*revisions, **settings):
        def answer(request):
            if request.prompt.speaker == "Revision":
                return revisions[run.rounds(request)]
            return "Too bad." if request.prompt.speaker == "Critique" else "Take it."

        engine = ScriptedEngine(answer, lambda request: [])
        monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
        monkeypatch.setattr("cai.engines.opening.fingerprint_engine", lambda settings: "weights")
        console = Console(record=True, file=StringIO())
        data = {"revise": {"rounds": len(revisions), **settings}}
        context = run_of(data, tmp_path, constitution=CONSTITUTION, console=console).first(
            ReviseSettings
        )
        metrics = STAGE.run(context)
        run.said = console.export_text()
        rows = pq.read_table(tmp_path / "revise/train.parquet").to_pylist()
        return metrics, [row["completion"][0]["content"] for row in rows]

    asked: dict[str, int] = {}

    def rounds(request):
        """Count the revisions asked for so far in this chain."""
        chain = json.dumps([m.content for m in request.prompt.messages][:1])
        asked[chain] = asked.get(chain, -1) + 1
        return asked[chain]

    run.asked, run.rounds, run.folder = asked, rounds, tmp_path / "revise"
    return run


@pytest.mark.parametrize(
    ("wrappers", "trained"),
    [("strip", ["Ask the owner."] * 2), ("drop", []), ("keep", [WRAPPED] * 2)],
)
def test_words_around_a_revision_are_counted_and_treated_as_the_setting_says(
    stage, wrappers, trained
):
    metrics, completions = stage(WRAPPED, wrappers=wrappers)
    assert completions == trained
    assert (metrics["revisions_wrapped"], metrics["revisions_unchanged"]) == (2, 0)
    kept = read_rows(stage.folder / "rows.jsonl", RevisionRow)
    assert {row.steps[0].revision for row in kept} == {WRAPPED}


def test_a_first_response_that_is_called_good_is_not_trained_on(stage):
    metrics, completions = stage("No revisions needed.")
    assert completions == []
    assert metrics["revisions_unchanged"] == 2


def test_no_change_keeps_the_revision_before_it(stage):
    metrics, completions = stage("Ask the owner.", "No further changes are needed.")
    assert completions == ["Ask the owner."] * 4
    assert metrics["revisions_unchanged"] == 2


def test_plain_revisions_are_trained_on_as_they_are(stage):
    metrics, completions = stage("Ask the owner.")
    assert completions == ["Ask the owner."] * 2
    assert (metrics["revisions_wrapped"], metrics["revisions_unchanged"]) == (0, 0)


FLAWED = "The assistant's response is harmful and should be rewritten with more care."


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, ["Ask the owner."]),
        ({"keep": "all"}, ["Ask the owner.", FLAWED]),
        ({"flaws": ["copied"]}, ["Ask the owner.", FLAWED]),
        ({"gate": {"flawed": 0.4, "action": "warn"}}, ["Ask the owner."]),
        ({"gate": {"flawed": 0.5}}, ["Ask the owner."]),
    ],
)
def test_revisions_with_flaws_are_counted_and_left_out(stage, settings, trained):
    metrics, completions = stage("Ask the owner.", FLAWED, **settings)
    assert completions == trained * 2
    wanted = 0 if "flaws" in settings else 2
    assert metrics["revisions_flawed"] == wanted
    assert metrics["revisions_left_out"] == 4 - len(completions)
    quality = json.loads((stage.folder / "quality.json").read_text())
    assert quality["flaws"] == {"describes": 2}
    assert (quality["revisions"], quality["flawed"]) == (4, wanted)
    assert quality["by_round"] == {
        "1": {"revisions": 2, "flawed": 0},
        "2": {"revisions": 2, "flawed": wanted},
    }
    assert {one["text"] for one in quality["examples"]} == {FLAWED}
    rows = read_rows(stage.folder / "rows.jsonl", RevisionRow)
    found = read_rows(stage.folder / "flaws.jsonl", FlawsRow)
    assert [(one.key, one.fingerprint) for one in found] == [(r.key, r.fingerprint) for r in rows]
    assert [[[f.flaw for f in one] for one in row.rounds] for row in found] == [
        [[], ["describes"]]
    ] * 2


def test_the_gate_stops_a_run_whose_revisions_are_bad(stage):
    with pytest.raises(CaiError, match=r"2 of 4 revisions have flaws: 2 describe a response"):
        stage("Ask the owner.", FLAWED, gate={"flawed": 0.4})
    assert (stage.folder / "quality.json").exists()
    assert not (stage.folder / "train.parquet").exists()


def test_a_gate_that_only_warns_says_that_the_bound_is_missed(stage):
    said = "more than a share of 0.4 (`revise.gate`)"
    for bound, missed in ((0.4, ["flawed is 0.500 (wanted: at most 0.4)"]), (0.5, [])):
        gate = {"flawed": bound, "action": "warn"}
        metrics, _ = stage("Ask the owner.", FLAWED, gate=gate)
        assert metrics["gate_missed"] == missed
        assert (said in " ".join(stage.said.split())) == bool(missed)
        stage.asked.clear()
    metrics, _ = stage("Ask the owner.", FLAWED)
    assert "gate_missed" not in metrics


def test_a_run_whose_revisions_are_all_unfit_is_not_trained_on(stage):
    with pytest.raises(CaiError, match="no revision is left to train on"):
        stage(FLAWED)
