"""One evaluation with scripted models: who is asked what, once; what follows; what is flagged."""

import json
import math

import pytest
from rich.console import Console

import cai.engines.opening
from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.evaluate.sets import read_set
from cai.evaluate.texts import BenignText
from cai.pipeline.evaluation import Checkpoint, Evaluation, evaluate
from cai.pipeline.progress import Progress
from cai.settings import EvaluateSettings, ModelSettings

SAID = {
    "base": "Here is how: one, two, three.",
    "tuned": "I can't help with that.",
    "step5": "I can't help with that, because it would hurt somebody.",
}


class Models:
    """Scripted engines by path, and how often each was opened and closed."""

    def __init__(self, score):
        self.engines, self.events, self.score = {}, [], score

    def open(self, settings):
        path = settings.path
        engine = ScriptedEngine(lambda _: SAID[path], lambda request: self.score(path, request))
        self.events.append(f"open {path}")
        self.engines.setdefault(path, []).append(engine)

        async def close():
            self.events.append(f"close {path}")

        engine.close = close
        return engine

    def fingerprint(self, model):
        return f"weights of {model.path}"

    def asked(self, path):
        return sum(len(engine.generated) for engine in self.engines.get(path, []))


def by_letter(path, request):
    """Prefer (B), and find refusals harmless; texts get a log-probability by model."""
    if len(request.options) == 1:
        return [-2.0 if path == "base" else -4.0]
    if len(request.options) == 2 and "Which response" in request.prompt.messages[-1].content:
        content = request.prompt.messages[-1].content
        better = content.find("I can't") < content.find("Here is how")
        return [math.log(0.6), math.log(0.2)] if better else [math.log(0.2), math.log(0.6)]
    return [math.log(0.9 if n == 1 else 0.01) for n in range(len(request.options))]


@pytest.fixture
def models(monkeypatch):
    found = Models(by_letter)
    monkeypatch.setattr(cai.engines.opening, "open_engine", found.open)
    return found


def prompts(count=4):
    return [
        (
            PromptRow(
                key=f"{kind}{n}",
                kind=kind,
                split="held_out",
                messages=user(f"{kind} {n}?"),
                source="test",
                task=f"{kind}{n}",
            ),
            0,
        )
        for kind in ("red_team", "helpful")
        for n in range(count)
    ]


def run(models, folder, /, **changes):
    settings = changes.pop("settings", {})
    evaluation = Evaluation(
        **{
            "folder": folder,
            "settings": EvaluateSettings(**settings),
            "seed": 1,
            "models": {name: ModelSettings(path=name) for name in ("base", "tuned")},
            "asked": prompts(),
            **changes,
        }
    )
    console = Console(quiet=True)
    rows, found, _ = evaluate(evaluation, models.fingerprint, Progress(console))
    return rows, found.plain()


def test_models_are_asked_one_after_the_other_and_not_again(models, tmp_path):
    rows, found = run(models, tmp_path)
    assert models.events == ["open base", "close base", "open tuned", "close tuned"]
    assert found["evaluation"]["base"]["over_refusal_rate"]["value"] == 0
    assert found["evaluation"]["tuned"]["over_refusal_rate"]["value"] == 1
    assert found["evaluation"]["tuned"]["evasive_rate"]["value"] == 1
    again, same = run(models, tmp_path)
    assert len(models.events) == 4
    assert same == found
    assert again.rows == rows.rows


def test_an_interrupted_evaluation_goes_on(models, tmp_path):
    rows, found = run(models, tmp_path)
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    (tmp_path / "rows.partial.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:30])
    before = models.asked("base") + models.asked("tuned")
    again, same = run(models, tmp_path)
    assert models.asked("base") + models.asked("tuned") == before + len(lines) - 5
    assert (again.rows, same) == (rows.rows, found)


def test_a_change_of_grader_asks_the_judge_and_not_the_models(models, tmp_path):
    run(models, tmp_path)
    models.events.clear()
    judge = ModelSettings(path="judge")
    _, found = run(models, tmp_path, settings={"grader": "judge", "judge": judge})
    assert models.events == ["open judge", "close judge"]
    assert found["evaluation"]["base"]["states"] == {"tie": 8}  # (B), whichever it is
    assert found["measures"]["judge"] == "judge"
    assert found["measures"]["flags"] == []


def test_matches_and_ratings_by_a_judge(models, tmp_path):
    settings = {"elo": "judge", "harmfulness": "judge", "judge": ModelSettings(path="judge")}
    _, found = run(models, tmp_path, settings={**settings, "elo_prompts": 3})
    elo = found["measures"]["elo"]
    assert (elo["method"], elo["anchor"], elo["matches"]) == ("judge", "base", {"ok": 6})
    # Three to one in either order.
    for side in ("harmless", "helpful"):
        assert elo[side]["tuned"]["value"] == pytest.approx(400 * math.log10(3))
        assert elo[side]["tuned"]["n"] == 3
    assert elo["order_agreement"] == 1
    rated = found["measures"]["harmfulness"]["models"]["tuned"]
    assert rated["value"] == pytest.approx((0.9 + 0.01 * (2 + 3 + 4)) / 0.94)
    assert rated["n"] == 4
    assert "judge" in models.events[0] or models.events[-1] == "close judge"


def test_a_judge_that_is_a_party_is_never_in_memory_with_another(models, tmp_path):
    settings = {"harmfulness": "judge", "judge": ModelSettings(path="base")}
    rows, found = run(models, tmp_path, settings=settings)
    assert models.events == ["open tuned", "close tuned", "open base", "close base"]
    assert list(found["evaluation"]) == ["base", "tuned"]
    assert [row.key for row in rows.rows] == sorted(row.key for row in rows.rows)


@pytest.mark.parametrize(
    ("judge", "said"),
    [("tuned", "one of the models"), ("feedback", "made the labels"), ("other", None)],
)
def test_a_judge_that_is_a_party_is_flagged(models, tmp_path, judge, said):
    settings = {"elo": "judge", "judge": ModelSettings(path=judge)}
    _, found = run(models, tmp_path, settings=settings, labelled_by="weights of feedback")
    about_judges = [flag for flag in found["measures"]["flags"] if "judge" in flag]
    assert len(about_judges) == (said is not None)
    assert all(said in flag for flag in about_judges)


def test_checkpoints_come_before_the_model_that_training_ended_in(models, tmp_path):
    checkpoints = [Checkpoint("tuned", "ppo", 5, ModelSettings(path="step5"))]
    settings = {"elo": "judge", "judge": ModelSettings(path="judge")}
    _, found = run(
        models,
        tmp_path,
        settings=settings,
        checkpoints=checkpoints,
        checkpoint_asked=prompts()[:2] + prompts()[4:5],
    )
    (swept,) = found["measures"]["checkpoints"]
    assert (swept["step"], swept["name"]) == (5, "ppo-step-5")
    assert swept["evaluation"]["explained_refusal_rate"] | {"low": 0, "high": 0} == {
        "value": 1,
        "low": 0,
        "high": 0,
        "n": 2,
    }
    assert list(found["measures"]["elo"]["harmless"]) == ["base", "ppo-step-5", "tuned"]
    assert list(found["evaluation"]) == ["base", "tuned"]
    lines = (tmp_path / "checkpoints.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {"ppo-step-5"}


def test_the_alignment_tax_is_flagged(models, tmp_path):
    texts = [BenignText(user(f"Q{n}?"), "two words", f"t{n}") for n in range(5)]
    _, found = run(models, tmp_path, texts=texts)
    tax = found["measures"]["alignment_tax"]
    assert tax["base"]["perplexity"] == pytest.approx(math.e)
    assert tax["tuned"]["perplexity_ratio"]["value"] == pytest.approx(math.e)
    assert tax["base"]["flags"] == []
    assert "is 2.72 times as high" in tax["tuned"]["flags"][0]
    assert models.events.count("open base") == 1
    assert any(flag.startswith("tuned: its perplexity") for flag in found["measures"]["flags"])


@pytest.fixture
def questions(tmp_path):
    row = {
        "prompt": "Human: Hi?\n\nOptions:\n (A) yes\n (B) no, it is not\n\nThe answer is:",
        "corrects": [" (B)"],
        "incorrects": [" (A)"],
    }
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return read_set("hhh", str(path)).questions


def test_a_model_is_opened_once_for_answers_texts_and_questions(models, tmp_path, questions):
    texts = [BenignText(user("Q?"), "two words", "t")]
    out = tmp_path / "out"
    named = {name: ModelSettings(path=name) for name in ("base", "tuned")}
    both = {**named, "again": named["base"]}  # two names of one model
    _, found = run(models, out, models=both, texts=texts, questions=questions)
    assert models.events == ["open base", "close base", "open tuned", "close tuned"]
    measures = found["measures"]
    assert set(measures["choices"]["hhh"]["models"]) == set(both)
    assert {name for name, tax in measures["alignment_tax"].items() if tax["perplexity"]} == set(
        both
    )
    # The next time there is nothing to ask but texts, which are not kept; questions are.
    models.events.clear()
    _, again = run(models, out, models=both, texts=texts, questions=questions)
    assert len(models.events) == 4
    assert again == found
    lines = (out / "choices.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_questions_are_asked_of_every_model(models, tmp_path, questions):
    _, found = run(models, tmp_path / "out", asked=(), questions=questions)
    of_set = found["measures"]["choices"]["hhh"]
    assert {m: v["accuracy"]["value"] for m, v in of_set["models"].items()} == {
        "base": 1,
        "tuned": 1,
    }
    assert of_set["models"]["base"]["first_share"]["value"] == 0
    assert of_set["models"]["base"]["mean_mass"] == pytest.approx(0.91)
    assert of_set["baselines"]["longest"]["value"] == 1
    assert of_set["baselines"]["always_first"]["value"] == 0


def test_a_judge_without_a_name_is_an_error(models, tmp_path):
    with pytest.raises(CaiError, match="none is set"):
        run(models, tmp_path, settings={"grader": "judge"})
    assert models.events == []


def test_a_harmfulness_model_is_looked_at_before_anybody_is_asked(models, tmp_path):
    with pytest.raises(CaiError, match="no harmfulness model"):
        run(models, tmp_path, settings={"harmfulness": str(tmp_path)})
    assert models.events == []
