"""The `compare` stage with scripted models: who is asked about what, and what stops it."""

import json
import math

import pytest
from plain_runs import red_team_prompts, run_of

from cai.constitution import Constitution, Principle
from cai.data.records import ComparisonRow, JudgementRow, PairRow
from cai.data.store import read_rows, write_rows
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.pipeline.stages.compare import STAGE
from cai.settings import CompareSettings

PROMPTS = red_team_prompts(12)
CONSTITUTION = Constitution(
    name="two",
    principles=tuple(Principle(id=f"p{n}", comparison=f"By rule {n}?") for n in range(2)),
)


def number_of(request):
    """Which prompt a request is about."""
    text = request.prompt.messages[-1].content
    return int(text.split("Question ")[1].split("?")[0])


def answer(request):
    return f"Answer {request.seed} to {number_of(request)}."


def sure(request):
    """Whoever's answer has the larger seed wins, in either order."""
    text = request.prompt.messages[-1].content
    first, second = (int(text.split(f"({o}) Answer ")[1].split()[0]) for o in "AB")
    return [math.log(0.8), math.log(0.1)] if first > second else [math.log(0.1), math.log(0.8)]


def mostly(request):
    """As `sure`, but prompt 3 breaks it, and of prompt 4 it knows nothing."""
    if number_of(request) == 3:
        return ValueError("the server fell over")
    return [-20.0, -20.0] if number_of(request) == 4 else sure(request)


class Opened(ScriptedEngine):
    """A scripted engine that tells when it is opened and closed."""

    def __init__(self, name, events, *script):
        super().__init__(*script)
        self.name, self.events = name, events

    def open(self):
        self.events.append(f"open {self.name}")
        return self

    async def close(self):
        self.events.append(f"close {self.name}")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the stage on engines by model name; returns its metrics and the engines."""
    write_rows(tmp_path / "prompts/rows.jsonl", PROMPTS)
    write_rows(tmp_path / "prompts/comparisons.jsonl", [])

    def run(judge=mostly, *, feedback="judge", fallback=None, **compare):
        engines = {
            name: Opened(name, run.events, answer, score)
            for name, score in (("helpful", judge), ("judge", judge), ("other", fallback))
        }
        monkeypatch.setattr(
            "cai.engines.opening.open_engine", lambda settings: engines[settings.path].open()
        )
        monkeypatch.setattr(
            "cai.engines.opening.fingerprint_engine", lambda settings: settings.path
        )
        models = {"helpful": {"path": "helpful"}, "feedback": {"path": feedback}}
        if fallback:
            models["fallback"] = {"path": "other"}
        data = {"models": models, "compare": {"principles": "all", **compare}}
        context = run_of(data, tmp_path, constitution=CONSTITUTION).first(CompareSettings)
        return STAGE.run(context), engines

    run.folder, run.events = tmp_path / "compare", []
    return run


def test_the_fallback_judge_is_asked_about_just_what_has_no_verdict(stage):
    metrics, engines = stage(fallback=sure, labels={"min_mass": 0.1})
    assert {number_of(request) for request in engines["other"].scored} == {3, 4}
    assert len(engines["other"].scored) == 2 * 2 * 2
    assert metrics["judgement_states"] == {"ok": 22, "failed": 2}
    assert metrics["fallback_states"] == {"ok": 4}
    assert metrics["states"] == {"ok": 12}
    fallback = read_rows(stage.folder / "fallback.jsonl", JudgementRow)
    judgements = {j.key: j for j in read_rows(stage.folder / "judgements.jsonl", JudgementRow)}
    assert {row.provenance.model for row in fallback} == {"other"}
    assert all(judgements[row.instead_of].provenance.model == "judge" for row in fallback)
    labels = read_rows(stage.folder / "rows.jsonl", ComparisonRow)
    used = {key for row in labels for key in row.judgements}
    assert {row.key for row in fallback} < used
    assert not {row.instead_of for row in fallback} & used


def test_without_a_fallback_judge_there_is_a_state_and_no_label(stage):
    metrics, _ = stage(labels={"min_mass": 0.1})
    assert metrics["states"] == {"ok": 10, "failed": 1, "unparsed": 1}
    assert metrics["fallback_states"] == {}
    assert (stage.folder / "fallback.jsonl").read_bytes() == b""


def test_another_policy_asks_nobody_but_failures_are_tried_again(stage):
    first, _ = stage(sure)
    assert first["engine_calls"] == 24 + 48
    again, engines = stage(sure, labels={"kind": "hard", "orders": "first", "clamp": [0.1, 0.9]})
    assert again["engine_calls"] == 0
    assert all(not engine.scored and not engine.generated for engine in engines.values())
    labels = {row.label for row in read_rows(stage.folder / "rows.jsonl", ComparisonRow)}
    assert labels == {0.1, 0.9}


def test_failures_are_tried_again(stage):
    stage()
    _, engines = stage(sure)
    assert {number_of(request) for request in engines["judge"].scored} == {3}


def test_a_judge_that_answers_nothing_ends_the_run(stage):
    with pytest.raises(
        CaiError, match=r"judgements: 24 of 24 rows are `failed`, .*The first: ValueError"
    ):
        stage(lambda request: ValueError("the server fell over"))


def test_four_responses_give_six_labels(stage):
    metrics, engines = stage(sure, responses=4, form="comparison")
    assert len(engines["helpful"].generated) == 4 * 12
    assert metrics["states"] == {"ok": 6 * 12}
    pairs = read_rows(stage.folder / "pairs.jsonl", PairRow)
    assert {len(pair.responses) for pair in pairs} == {4}


KNOWN = [
    {
        "prompt": f"Question {n}?",
        "chosen": f"Answer {2 * n + 9} to {n}.",
        "rejected": f"Answer 1 to {n}.",
    }
    for n in range(20, 40)
]


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.jsonl"
    path.write_text("\n".join(map(json.dumps, KNOWN)))
    return str(path)


def wrong(request):
    return sure(request)[::-1]


def test_every_engine_is_opened_once_and_closed_when_it_is_needed_no_longer(stage, known):
    stage(fallback=sure, gate={"comparisons": known})
    once = [
        f"{what} {name}" for name in ("helpful", "judge", "other") for what in ("open", "close")
    ]
    assert stage.events == once


def test_a_model_in_two_roles_is_one_engine(stage, known):
    stage(sure, feedback="helpful", gate={"comparisons": known})
    assert stage.events == ["open helpful", "close helpful"]


def test_bad_labels_stop_the_run_before_anything_is_labelled(stage, known):
    with pytest.raises(CaiError, match=r"accuracy is 0\.000 \(wanted: at least 0\.7\).*`warn`"):
        stage(wrong, gate={"comparisons": known})
    assert not (stage.folder / "judgements.jsonl").exists()
    assert stage.events[-1] == "close judge"
    quality = json.loads((stage.folder / "quality.json").read_text())
    assert quality["accuracy"]["value"] == 0.0
    assert quality["missed"] == ["accuracy is 0.000 (wanted: at least 0.7)"]


def test_the_gate_can_warn_or_be_moved_without_asking_again(stage, known):
    metrics, engines = stage(wrong, gate={"comparisons": known, "action": "warn"})
    assert metrics["gate_missed"] == ["accuracy is 0.000 (wanted: at least 0.7)"]
    assert len(engines["judge"].scored) == 2 * 2 * (20 + 12)
    metrics, engines = stage(wrong, gate={"comparisons": known, "accuracy": 0.0})
    assert (metrics["gate_missed"], engines["judge"].scored) == ([], [])
    metrics, _ = stage(wrong)
    assert "gate_missed" not in metrics
    assert not (stage.folder / "quality.json").exists()


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"calibration_error": 0.05}, "calibration_error is 0.111"),
        ({"swap_flips": 0.0}, None),
        ({"option_mass": 0.95}, "option_mass is 0.900"),
        ({"position_bias": 0.0}, None),
        ({"accuracy": None}, None),
    ],
)
def test_every_bound_of_the_gate_is_held(stage, known, bound, said):
    gate = {"comparisons": known, "action": "warn", **bound}
    metrics, _ = stage(sure, gate=gate)
    assert metrics["label_accuracy"] == 1.0
    assert [text.startswith(str(said)) for text in metrics["gate_missed"]] == [True] * bool(said)
