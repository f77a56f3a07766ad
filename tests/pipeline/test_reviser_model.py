"""`models.reviser`: another model revises the first responses, after all of them are there."""

import pytest
from plain_runs import red_team_prompts, run_of

from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import PromptRow, RevisionRow
from cai.data.store import read_rows, write_rows
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.pipeline.stages.revise import STAGE
from cai.settings import ReviseSettings
from cai.workbench.effects import read_run
from cai.workbench.tracing import trace

RED_TEAM = red_team_prompts(6)
BENIGN = PromptRow(
    key="benign", kind="helpful", split="train", messages=user("Hi?"), source="test", task="hi"
)
CONSTITUTION = Constitution(
    name="two",
    principles=tuple(
        Principle(id=f"p{n}", critique=f"By rule {n}?", revision=f"Rewrite by rule {n}.")
        for n in range(2)
    ),
)


class Killed(BaseException):
    """The process ends here."""


class Model(ScriptedEngine):
    """Answers under its own name; opening and closing are noted."""

    def __init__(self, name, events, fault=None):
        super().__init__(self.answer)
        self.name, self.events, self.fault = name, events, fault

    def answer(self, request):
        if self.fault and (error := self.fault(request, len(self.generated))):
            return error
        return f"{self.name} says {request.seed} on {request.prompt.messages[0].content}"

    def open(self):
        self.events.append(f"open {self.name}")
        return self

    async def close(self):
        self.events.append(f"close {self.name}")

    @property
    def speakers(self):
        return {request.prompt.speaker for request in self.generated}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the stage with models by name; returns its metrics, its rows and the models."""
    write_rows(tmp_path / "prompts/rows.jsonl", [*RED_TEAM, BENIGN])

    def context(reviser, **settings):
        models = {"helpful": {"path": "small"}}
        models |= {"reviser": {"path": reviser}} if reviser else {}
        data = {"models": models, "revise": {"rounds": 2, "keep": "all", **settings}}
        return run_of(data, tmp_path, constitution=CONSTITUTION).first(ReviseSettings)

    def run(reviser="strong", faults=None, **settings):
        events, faults = [], faults or {}
        models = {n: Model(n, events, faults.get(n)) for n in ("small", "strong", "other")}
        monkeypatch.setattr("cai.engines.opening.open_engine", lambda s: models[s.path].open())
        monkeypatch.setattr("cai.engines.opening.fingerprint_engine", lambda s: s.path)
        metrics = STAGE.run(context(reviser, **settings))
        rows = read_rows(run.folder / "rows.jsonl", RevisionRow)
        return metrics, {row.key: row for row in rows}, models, events

    run.folder, run.context = tmp_path / "revise", context
    return run


def without_fingerprints(rows):
    return {key: row.model_dump(exclude={"fingerprint"}) for key, row in rows.items()}


def test_all_first_responses_come_first_and_their_model_is_closed(stage):
    metrics, rows, models, events = stage()
    assert events == ["open small", "close small", "open strong", "close strong"]
    assert models["small"].speakers == {"Assistant"}
    assert models["strong"].speakers == {"Critique", "Revision"}
    assert metrics["responses_made"] == len(rows) == 7
    for row in rows.values():
        assert row.response.startswith("small says")
        texts = [text for step in row.steps for text in (step.critique, step.revision)]
        assert all(text.startswith("strong says") for text in texts)
        revised = row.kind == "red_team"
        assert len(row.steps) == (2 if revised else 0)
        made_by = (row.provenance.model, row.responder and row.responder.model)
        assert made_by == (("strong", "small") if revised else ("small", None))


def test_first_responses_are_those_of_a_run_without_a_reviser(stage):
    _, rows, _, _ = stage()
    _, alone, _, events = stage(reviser=None)
    assert events == ["open small", "close small"]
    assert {k: row.response for k, row in rows.items()} == {k: r.response for k, r in alone.items()}
    assert not (stage.folder / "responses.jsonl").exists()
    assert all(row.responder is None for row in alone.values())


def test_another_reviser_keeps_first_responses_and_benign_rows(stage):
    stage()
    metrics, rows, _, events = stage(reviser="other")
    assert events == ["open other", "close other"]
    assert (metrics["responses_made"], metrics["rows_reused"]) == (0, 1)
    assert {row.provenance.model for row in rows.values() if row.steps} == {"other"}


def test_nothing_is_asked_again(stage):
    _, rows, _, _ = stage()
    metrics, again, _, events = stage()
    assert (metrics["rows_reused"], events) == (7, [])
    assert again == rows


@pytest.mark.parametrize(("model", "requests"), [("small", 4), ("strong", 9)])
def test_a_run_killed_in_the_middle_goes_on_and_ends_the_same(stage, model, requests):
    def kill(request, asked):
        if asked > requests:
            raise Killed

    with pytest.raises(Killed):
        stage(faults={model: kill}, concurrency=1)
    assert (stage.folder / "responses.jsonl").exists() == (model == "strong")
    metrics, rows, models, events = stage(concurrency=1)
    assert ("open small" in events) == (model == "small")
    assert metrics["rows_reused"] + metrics["responses_made"] > 0
    assert len(models[model].generated) < {"small": 7, "strong": 24}[model]
    (stage.folder / "rows.jsonl").unlink()
    (stage.folder / "responses.jsonl").unlink()
    assert stage(concurrency=1)[1] == rows


def test_a_first_response_that_failed_is_not_revised_and_its_successor_is(stage):
    def too_long(request, _):
        return PromptTooLong("900 tokens") if "Question 3" in str(request.prompt) else None

    metrics, rows, models, _ = stage(faults={"small": too_long})
    (lost,) = (row for row in rows.values() if row.state != "ok")
    assert (lost.state, lost.error, lost.steps) == ("too_long", "900 tokens", [])
    assert not any("Question 3" in str(request.prompt) for request in models["strong"].generated)
    assert metrics["states"] == metrics["response_states"] == {"ok": 6, "too_long": 1}
    path = stage.folder / "responses.jsonl"
    mended = [
        row.model_copy(update={"state": "ok", "error": None, "response": "Fine.", "ended": True})
        if row.key == lost.key
        else row
        for row in read_rows(path, RevisionRow)
    ]
    write_rows(path, mended)
    metrics, rows, _, events = stage()
    assert (metrics["rows_reused"], events) == (6, ["open strong", "close strong"])
    assert (rows[lost.key].response, len(rows[lost.key].steps)) == ("Fine.", 2)


def test_the_manifest_names_the_reviser(stage, monkeypatch):
    monkeypatch.setattr("cai.engines.opening.fingerprint_engine", lambda s: f"weights of {s.path}")
    inputs = {name: STAGE.inputs(stage.context(name)) for name in (None, "small", "strong")}
    assert inputs["strong"]["reviser model"] == "weights of strong"
    assert inputs[None] == inputs["small"]
    assert "reviser model" not in inputs[None]


def test_why_and_diff_know_both_models(stage):
    _, rows, models, _ = stage()
    context = stage.context("strong")
    stored = read_run(context.run.folder, context.run.pipeline.settings)
    now = stored.chain_fingerprints(CONSTITUTION)
    assert now == {key: row.fingerprint for key, row in rows.items()}
    for row in rows.values():
        origin = trace(stored, CONSTITUTION, row.key)
        (first,) = origin.sources
        assert (origin.current, first.current) == (True, True)
        asked = [*first.asked, *origin.asked]
        assert [one.model for one in asked] == ["small", *["strong"] * (2 * len(row.steps))]
        sent = [*models["small"].generated, *models["strong"].generated]
        assert all(one.request in sent for one in asked)
        assert first.asked[0].answer == row.response
