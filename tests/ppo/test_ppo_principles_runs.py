"""Runs and pipelines whose reward are principles of the constitution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from plain_runs import red_team_prompts, run_of
from ppo_references import SHORT, letters, steps_of
from principle_judges import (
    CONSTITUTION,
    Scores,
    asked,
    count,
    group,
    log_softmax,
    reward_of,
)
from pydantic import ValidationError
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from two_processes import together

from cai.data.records import PromptRow
from cai.data.store import write_rows
from cai.engines import PromptTooLong, ScoreRequest, Unanswered
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.models.loading import load_causal_lm
from cai.pipeline.stages.ppo import STAGE, PPOJob
from cai.ppo import PPO, PrincipleReward, fitting
from cai.settings import GuardSettings, ModelSettings, PPOSettings, RewardSettings
from cai.training.processes import ALONE

RUN = SHORT.model_copy(
    update={
        "steps": 4,
        "batch_size": 8,
        "samples_per_prompt": 2,
        "advantage": "rloo",
        "checkpoint_steps": 2,
        "no_eos_reward": None,
        "max_new_tokens": 8,
        "guard": GuardSettings(every=2),
    }
)


@pytest.fixture
def run(tiny: Callable[[str], ModelSettings], prompt_rows: list[PromptRow]) -> Callable[..., Any]:
    """Train on principle a, with e for the guard."""

    def start(folder: Path, on_step: Any = None, score: Scores = count, **changes: Any) -> Any:
        asked = reward_of(score, principles="a", held_out="e")
        settings = RUN.model_copy(update=changes).checked()
        ppo = PPO(tiny("llama"), {"principles": asked}, settings, seed=7)
        guarded = settings.guard is not None
        return ppo.train(
            prompt_rows[:5],
            folder,
            held_out=prompt_rows[3:] if guarded else (),
            independent={"held_out": asked.held_out()} if guarded else None,
            on_step=on_step,
        )

    return start


def without_times(folder: Path) -> list[dict[str, float]]:
    return [{k: x for k, x in r.items() if not k.startswith("time/")} for r in steps_of(folder)]


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(
    "method",
    [
        {},
        {
            "advantage": "online_dpo",
            "loss_average": "response_sums",
            "whiten_advantages": False,
            "epochs": 1,
            "minibatches": 1,
        },
    ],
    ids=["rloo", "online_dpo"],
)
def test_a_killed_run_resumes_to_the_same_weights(
    method: dict[str, Any], tmp_path: Path, run: Callable[..., Any]
) -> None:
    def kill(metrics: Mapping[str, float]) -> None:
        if metrics["step"] == 3:
            raise KilledError

    run(tmp_path / "whole", **method)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", kill, **method)
    run(tmp_path / "killed", **method)
    weights, expected = (
        (tmp_path / name / "model/model.safetensors").read_bytes() for name in ("killed", "whole")
    )
    assert weights == expected
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


def test_two_processes_make_the_run_of_one(tmp_path: Path, run: Callable[..., Any]) -> None:
    """The samples of a prompt are compared by one process."""

    def by_length(request: ScoreRequest) -> list[float]:
        return log_softmax([len(text) / 5 for text in asked(request)[1]])

    assert together(lambda: run(tmp_path / "two", score=by_length) and None) == ["", ""]
    run(tmp_path / "one", score=by_length)
    for ours, theirs in zip(*map(without_times, (tmp_path / "two", tmp_path / "one")), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4), name


def test_the_guard_compares_with_the_answers_of_the_start(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    run(tmp_path, learning_rate=2e-2)
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    for name in ("score", "independent"):
        values = [event.value for event in board.Scalars(f"guard/{name}")]
        assert values[0] == 0.0
        assert any(values[1:])


def test_the_guard_stops_when_held_out_principles_fall(
    tmp_path: Path, run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Here what pleases the one displeases the other: answers with more letters a."""

    def opposed(request: ScoreRequest) -> list[float]:
        letter, responses = asked(request)
        sign = 1 if letter == "a" else -1
        return log_softmax([sign * text.count("a") for text in responses])

    quiet = {"evasive_rise": 1.0, "over_refusal_rise": 1.0, "repeated_rise": 1.0}
    rules = GuardSettings(every=2, action="stop", length_factor=99.0, **quiet)
    changes = {"steps": 16, "batch_size": 16, "samples_per_prompt": 4, "learning_rate": 2e-2}
    metrics = run(tmp_path, score=opposed, guard=rules, kl_coef=0.01, **changes)
    assert metrics["steps"] < 16
    assert metrics["alarms"] == 1
    said = r"independent score fell from \S+ to -\S+, while the one trained on went from 0.00 to \d"
    assert re.search(said, caplog.text)


def test_episodes_without_a_verdict_are_left_out_and_counted(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    calls: list[int] = []

    def sometimes(request: ScoreRequest) -> Any:
        calls.append(1)
        return Unanswered("refused", "no") if len(calls) % 7 == 0 else count(request)

    run(tmp_path, score=sometimes, guard=None, steps=3)
    records = steps_of(tmp_path)
    assert sum(record["reward/left_out"] for record in records) > 0
    for record in records:
        # With two samples, a verdict that fails costs both.
        assert record["reward/left_out"] == record.get("left_out/refused", 0)
        assert record["reward/left_out"] % 2 == 0
        assert math.isfinite(record["loss/policy_avg"])


def test_a_step_without_enough_verdicts_stops_the_run(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    with pytest.raises(CaiError, match=r"8 of 8 .* at PPO step 1 .too_long 8.*longer context"):
        run(tmp_path, score=lambda _: PromptTooLong("long"), guard=None)
    with pytest.raises(CaiError, match="allows 100%"):
        run(tmp_path, score=lambda _: PromptTooLong("long"), guard=None, max_left_out=1.0)


def test_a_function_may_have_no_score_for_a_response(
    tmp_path: Path, tiny: Callable[[str], ModelSettings], prompt_rows: list[PromptRow]
) -> None:
    def half(prompts: Sequence[Any], responses: Sequence[str]) -> list[float | None]:
        return [None if n % 4 == 0 else float(len(text)) for n, text in enumerate(responses)]

    settings = SHORT.model_copy(update={"batch_size": 8, "guard": None, "advantage": "reinforce"})
    PPO(tiny("llama"), {"half": half, "letters": (letters, 0.1)}, settings).train(
        prompt_rows, tmp_path
    )
    for record in steps_of(tmp_path):
        assert record["reward/left_out"] == record["left_out/unscored"] == 2
        assert math.isfinite(record["objective/scores"])


def test_the_words_of_a_principle_identify_a_run(
    tmp_path: Path, tiny: Callable[[str], ModelSettings], prompt_rows: list[PromptRow]
) -> None:
    identities = {reward_of().identity, reward_of(weights={"a": 3.0}).identity}
    reworded = CONSTITUTION.principles[0].model_copy(update={"comparison": "Another one."})
    other = CONSTITUTION.model_copy(update={"principles": (reworded, *CONSTITUTION.principles[1:])})
    settings = RewardSettings(principles=("a", "e"), clamp=1e-6)
    engine = ScriptedEngine(lambda _: "", count)
    identities.add(PrincipleReward(other, engine, settings).identity)
    assert len(identities) == 3
    faster = settings.model_copy(update={"concurrency": 1})
    same = {PrincipleReward(CONSTITUTION, engine, s).identity for s in (settings, faster)}
    assert same == {reward_of().identity}


def test_a_pipeline_needs_no_preference_model_for_principles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = {"principles": ["theft", "fraud"], "held_out": ["usefulness"]}
    data = {"ppo": {"reward": reward, "samples_per_prompt": 2}}
    run = run_of(data, tmp_path)
    context = run.first(PPOSettings)
    STAGE.check(context)
    jobs: list[PPOJob] = []
    monkeypatch.setattr(PPOJob, "run", lambda job, on_step: jobs.append(job) or {})
    STAGE.run(context)
    (job,) = jobs
    again = PPOJob.model_validate_json(job.model_dump_json())
    assert again == job
    assert job.preference_model is None
    assert job.constitution == context.constitution
    before = STAGE.inputs(context)
    assert {"principle theft", "principle fraud", "principle usefulness", "feedback model"} <= {
        *before
    }
    assert "principle privacy" not in before
    principles = [
        p.model_copy(update={"comparison": f"{p.comparison} Please."}) if p.id == name else p
        for name in ("usefulness",)
        for p in context.constitution.principles
    ]
    edited = context.constitution.model_copy(update={"principles": tuple(principles)})
    after = STAGE.inputs(run_of(data, tmp_path, constitution=edited).first(PPOSettings))
    assert {name for name in before if before[name] != after[name]} == {"principle usefulness"}


def test_a_pipeline_can_mix_principles_with_its_preference_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = {"held_out": ["usefulness"], "weight": 0.5, "preference_weight": 2.0}
    ppo = {"reward": reward, "samples_per_prompt": 2, "steps": 1}
    data = {"compare": {}, "preference": {}, "ppo": ppo}
    context = run_of(data, tmp_path).first(PPOSettings)
    STAGE.check(context)
    write_rows(tmp_path / "prompts/rows.jsonl", red_team_prompts(3))
    made: dict[str, Any] = {}

    class Recorded(PPO):
        def __init__(self, policy: Any, given: Any, *_: Any, **__: Any) -> None:
            made["reward"] = given

        def train(self, *_: Any, **more: Any) -> dict[str, float]:
            made["independent"] = more["independent"]
            return {}

    monkeypatch.setattr("cai.ppo.PPO", Recorded)
    STAGE.run(context)
    principles, weight = made["reward"]["principles"]
    assert weight == 0.5
    assert {p.id for p in principles.principles} == {
        p.id for p in context.constitution.comparisons if p.id != "usefulness"
    }
    assert made["reward"]["preference"] == (tmp_path / "preference/model", 2.0)
    assert [p.id for p in made["independent"]["held_out"].principles] == ["usefulness"]


@pytest.mark.parametrize(
    ("ppo", "words"),
    [
        ({"reward": {"principles": "thefts", "form": "rating"}}, "did you mean `theft`"),
        ({"reward": {"held_out": "privac", "form": "rating"}}, "ppo.reward.held_out. names"),
        ({"reward": {"weights": {"x": 1}, "form": "rating"}}, "ppo.reward.weights. names"),
    ],
)
def test_principles_that_are_not_there_are_named_before_it_runs(
    ppo: dict[str, Any], words: str, tmp_path: Path
) -> None:
    context = run_of({"ppo": ppo}, tmp_path).first(PPOSettings)
    with pytest.raises(CaiError, match=words):
        STAGE.check(context)


def test_several_processes_with_a_vllm_each_are_refused(tmp_path: Path) -> None:
    data = {
        "models": {
            "helpful": {"path": "playground"},
            "feedback": {"path": "playground", "engine": "vllm"},
        },
        "ppo": {"reward": {"form": "rating"}, "launch": "ddp", "processes": 2},
    }
    with pytest.raises(CaiError, match="Start a server"):
        STAGE.check(run_of(data, tmp_path).first(PPOSettings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": {}}, "comparison` compares the samples of a prompt.*form: rating"),
        (
            {"reward": {"form": "ranking"}, "samples_per_prompt": 16},
            "at most 9 responses at once",
        ),
        (
            {"reward": {"form": "rating", "held_out": "a"}, "guard": None},
            "is the independent score of the guard",
        ),
        (
            {"reward": {"form": "rating", "held_out": "a"}, "guard": {"independent": "x"}},
            "is the independent score of the guard",
        ),
        ({"reward": {"form": "rating", "held_out": "a", "principles": ["a"]}}, "both name `a`"),
        ({"reward": {"form": "rating", "ignore_within": 0.1}}, "is for comparisons"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        PPOSettings.model_validate(changes)


def test_weights_mix_principles_and_a_preference_model(
    tmp_path: Path,
    tiny: Callable[[str], ModelSettings],
    tiny_preference: Callable[[str], Path],
    prompt_rows: list[PromptRow],
) -> None:
    reward = {"principles": (reward_of(), 0.5), "preference": (tiny_preference("llama"), 2.0)}
    settings = RUN.model_copy(update={"guard": None, "steps": 1})
    PPO(tiny("llama"), reward, settings).train(prompt_rows, tmp_path)
    (record,) = steps_of(tmp_path)
    expected = 0.5 * record["reward/principles"] + 2 * record["reward/preference"]
    assert record["objective/scores"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("engine", ["transformers", "openai"])
def test_a_feedback_model_on_this_machine_counts_in_the_memory_once(
    engine: str, tiny: Callable[[str], ModelSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(fitting, "check_memory", lambda *_, feedback, **__: seen.append(feedback))
    server = {"server": {"base_url": "http://localhost:1/v1"}} if engine == "openai" else {}
    path = tiny("llama").path
    model = ModelSettings.model_validate({"path": path, "engine": engine, **server})
    reward = PrincipleReward(CONSTITUTION, model, RewardSettings(principles="a", held_out="e"))
    fitting.check_fits(
        tiny("llama"),
        {"principles": (reward, 1.0)},
        {"held_out": (reward.held_out(), 1.0)},
        RUN,
        longest_prompt=10,
        processes=ALONE,
    )
    numbers = sum(w.numel() for w in load_causal_lm(tiny("llama"), device="cpu").parameters())
    assert seen == [0 if engine == "openai" else 4 * numbers]
    reward.close()


def test_the_playground_is_a_feedback_model(
    tmp_path: Path, tiny: Callable[[str], ModelSettings], prompt_rows: list[PromptRow]
) -> None:
    """The local engine, opened at the first question and closed at the end; exact verdicts."""
    from cai.constitution import load_constitution

    playground = ModelSettings(path="playground")
    reward = PrincipleReward(
        load_constitution("playground"),
        playground,
        RewardSettings(principles=("theft", "usefulness"), few_shot=0),
    )
    texts = ("I won't help you steal it, because that is theft.", "Sure. First, take it.")
    (found,) = reward.score_groups([group(*texts)])
    assert all(isinstance(score, float) for score in found)
    assert sum(float(x) for x in found) == pytest.approx(0)
    settings = RUN.model_copy(update={"steps": 2, "guard": None})
    PPO(tiny("llama"), {"principles": reward}, settings).train(prompt_rows, tmp_path)
    assert load_file(tmp_path / "model/model.safetensors")
    reward.close()
