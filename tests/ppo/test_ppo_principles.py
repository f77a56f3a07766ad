"""The principles of a constitution as the reward, with scripted feedback models."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_runs import run_of
from ppo_references import SHORT, letters, steps_of
from pydantic import ValidationError
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from two_processes import together

from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.engines import PromptTooLong, ScoreRequest, Unanswered, Unscored
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.models.loading import load_causal_lm
from cai.pipeline.stages.ppo import STAGE, PPOJob
from cai.ppo import PPO, PrincipleReward, fitting
from cai.ppo.principles import relative_scores
from cai.ppo.rewards import Samples
from cai.settings import GuardSettings, ModelSettings, PPOSettings, RewardSettings
from cai.training.processes import ALONE

CONSTITUTION = Constitution(
    name="letters",
    principles=(
        Principle(id="a", comparison="Choose by the letter a.", weight=2.0),
        Principle(id="e", comparison="Choose by the letter e."),
        Principle(id="o", critique="Is there an o?", revision="Remove it."),
    ),
)
Scores = Callable[[ScoreRequest], Sequence[float] | Exception]


def shown(text: str) -> list[str]:
    """The responses of a question, in the order of their letters."""
    return [part.strip() for part in re.findall(r"\([A-I]\) (.*?)\n", text + "\n")]


def asked(request: ScoreRequest) -> tuple[str, list[str]]:
    """The letter that a question is about, and the responses that it shows."""
    text = request.prompt.messages[-1].content
    return text.split("by the letter ")[1][0], shown(text.split("by the letter ")[0])


def count(request: ScoreRequest) -> list[float]:
    """Log-probabilities that rise by one for each such letter, with a bias to what comes first."""
    letter, responses = asked(request)
    odds = [text.count(letter) - 0.7 * place for place, text in enumerate(responses)]
    return log_softmax(odds)


def both_orders(odds: float, bias: float = 0.7) -> float:
    """Log-odds of the mean probability of both orders of asking."""
    p = sum(1 / (1 + math.exp(-odds - b)) for b in (bias, -bias)) / 2
    return math.log(p / (1 - p))


def log_softmax(odds: Sequence[float]) -> list[float]:
    total = math.log(sum(map(math.exp, odds)))
    return [x - total for x in odds]


def reward_of(score: Scores = count, **changes: Any) -> PrincipleReward:
    engine = ScriptedEngine(lambda _: "Fine. Clear.", score)
    settings = RewardSettings.model_validate({"principles": ["a", "e"], "clamp": 1e-6, **changes})
    return PrincipleReward(CONSTITUTION, engine, settings, seed=1)


def scored(reward: PrincipleReward) -> list[ScoreRequest]:
    engine = reward.feedback.engine
    assert isinstance(engine, ScriptedEngine)
    return engine.scored


def group(*responses: str, against: str | None = None) -> Samples:
    return Samples(user("How?"), responses, against)


def test_a_score_is_the_mean_of_weighted_log_odds_over_all_samples() -> None:
    """The orders are averaged as probabilities, principles as log-odds: a weighs twice as much."""
    texts = ("a a a", "a e", "e e e")
    reward = reward_of()
    (found,) = reward.score_groups([group(*texts)])

    def odds(one: str, other: str) -> float:
        a, e = (both_orders(one.count(x) - other.count(x)) for x in "ae")
        return (2 * a + e) / 3

    assert found == pytest.approx([sum(odds(x, y) for y in texts) / 3 for x in texts])
    # Three pairs, two principles, two orders; the questions about one pair are neighbours.
    prompts = [request.prompt.messages[-1].content for request in scored(reward)]
    assert len(prompts) == 12
    pairs = [frozenset(shown(text.split("by the letter")[0])) for text in prompts]
    assert [pairs[i] for i in (0, 4, 8)] == [*dict.fromkeys(pairs)]
    (weighted,) = reward_of(weights={"e": 6.0}).score_groups([group("a", "e")])
    expected = (2 - 6) / 8 * both_orders(1.0) / 2
    assert weighted == pytest.approx([expected, -expected])


def test_equal_texts_are_not_asked_about_and_are_even() -> None:
    reward = reward_of()
    found = reward.score_groups(
        [group("a", "a", "e"), group("e", "e"), group("a"), group("a", "e")]
    )
    assert found[0][0] == found[0][1]
    assert found[0][0] - found[0][2] == pytest.approx(both_orders(1.0) / 3)
    assert found[1:3] == [[0.0, 0.0], [0.0]]
    assert len(scored(reward)) == 4  # a against e once, for both groups


def test_all_samples_can_be_ranked_at_once() -> None:
    reward = reward_of(form="ranking")
    (found,) = reward.score_groups([group("a a a", "a e", "e e e")])
    assert len(scored(reward)) == 4
    texts = ("a a a", "a e", "e e e")

    def odds(i: int, j: int) -> float:
        """By Luce's choice rule; the bias is 0.7 for each place."""
        a, e = (both_orders(texts[i].count(x) - texts[j].count(x), 0.7 * (j - i)) for x in "ae")
        return (2 * a + e) / 3

    assert found == pytest.approx([sum(odds(i, j) for j in range(3)) / 3 for i in range(3)])


def test_a_rating_is_the_log_odds_of_the_mean_grade_as_a_share() -> None:
    def rate(request: ScoreRequest) -> list[float]:
        text = request.prompt.messages[-1].content
        grade = 2 if "poor" in text else 6
        shares = [0.9 if n == grade else 0.1 / 6 for n in range(1, 8)]
        return [math.log(x) for x in shares]

    reward = reward_of(rate, form="rating")
    (found,) = reward.score_groups([group("poor", "good", "poor")])
    assert len(scored(reward)) == 4  # two texts, two principles
    for text, grade in zip(found, (2, 6, 2), strict=True):
        mean = sum(n * (0.9 if n == grade else 0.1 / 6) for n in range(1, 8))
        share = (mean - 1) / 6
        assert text == pytest.approx(math.log(share / (1 - share)))
    (sure,) = reward_of(rate, form="rating", clamp=0.4).score_groups([group("good")])
    assert sure == pytest.approx([math.log(0.6 / 0.4)])


def test_a_critique_gives_the_log_odds_of_finding_no_fault() -> None:
    """The letters are exchanged in the second question; the judge likes (B)."""
    likes = {" (A)": 0.2, " (B)": 0.6}

    def find(request: ScoreRequest) -> list[float]:
        return [math.log(likes[option]) for option in request.options]

    reward = reward_of(find, form="critique", principles=["o"])
    (found,) = reward.score_groups([group("x")])
    assert len(scored(reward)) == 2
    assert found == pytest.approx([0.0])
    sure = reward_of(lambda _: [math.log(0.2), math.log(0.6)], form="critique", principles=["o"])
    assert sure.score_groups([group("x")]) == [pytest.approx([math.log(3)])]


def test_principles_without_an_opinion_have_no_vote() -> None:
    (found,) = reward_of(ignore_within=0.2).score_groups([group("a a a e", "e")])
    expected = both_orders(3.0) / 2  # e is even: its vote would have made this two thirds
    assert found == pytest.approx([expected, -expected])
    (even,) = reward_of(ignore_within=0.4).score_groups([group("a", "e")])
    assert even == [0.0, 0.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5), st.data())
@hypothesis_settings(max_examples=100, deadline=None)
def test_scores_of_consistent_log_odds_differ_by_them_and_sum_to_zero(
    worth: list[float], data: st.DataObject
) -> None:
    of = data.draw(st.lists(st.integers(0, len(worth) - 1), min_size=2, max_size=6))
    odds = {(i, j): worth[i] - worth[j] for i, j in combinations(range(len(worth)), 2)}
    scores = [float(x) for x in relative_scores(odds, of)]
    assert sum(scores) == pytest.approx(0, abs=1e-9)
    for (x, i), (y, j) in combinations(zip(scores, of, strict=True), 2):
        assert x - y == pytest.approx(worth[i] - worth[j], abs=1e-9)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ({}, [1.0, 0.0, -1.0]),
        ({(0, 1): "refused"}, ["refused", "refused", "refused"]),  # and 2 has nobody left
        ({(0, 1): "too_long", (0, 2): "too_long"}, ["too_long", 0.5, -0.5]),
        ({(0, 1): "failed", (0, 2): "failed", (1, 2): "refused"}, ["failed", "failed", "failed"]),
    ],
)
def test_a_text_whose_comparisons_failed_is_left_out(
    failed: Mapping[tuple[int, int], str], expected: list[float | str]
) -> None:
    odds: dict[tuple[int, int], float | str] = {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 1.0, **failed}
    assert relative_scores(odds, [0, 1, 2]) == expected


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PromptTooLong("long"), "too_long"),
        (Unanswered("refused", "no"), "refused"),
        (Unscored("what?"), "unparsed"),
        (ValueError("the server fell over"), "failed"),
        ([-20.0, -20.0], "unparsed"),
    ],
)
@pytest.mark.parametrize("form", ["comparison", "ranking", "rating"])
def test_a_verdict_that_fails_is_a_state_and_never_a_number(
    form: str, error: Any, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    def score(request: ScoreRequest) -> Any:
        text = request.prompt.messages[-1].content
        if "broken" in text and "letter e" in text:
            return error if isinstance(error, Exception) else [-20.0] * len(request.options)
        return log_softmax([0.0] * len(request.options))

    reward = reward_of(score, form=form, min_mass=0.01)
    with caplog.at_level(logging.WARNING):
        found = reward.score_groups([group("a", "broken", "e"), group("a", "e")])
    if form == "ranking":
        assert found[0] == [state] * 3
    else:
        assert found[0][1] == state
        assert all(isinstance(found[0][i], float) for i in (0, 2))
    assert all(isinstance(x, float) for x in found[1])
    if isinstance(error, Exception):
        assert sum(f"ended as `{state}`: " in text for text in caplog.messages) == 1


def test_a_response_can_be_compared_with_a_given_one() -> None:
    reward = reward_of()
    found = reward.score_groups([group("a a", against="a"), group("a", against="a")])
    assert found == [pytest.approx([2 / 3 * both_orders(1.0)]), [0.0]]


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


@pytest.mark.parametrize(
    ("ppo", "words"),
    [
        ({}, "`ppo` needs a preference model, .*samples_per_prompt: 2"),
        (
            {"reward": {"preference_weight": 1.0}, "samples_per_prompt": 2},
            "`ppo` gives a weight to a preference model",
        ),
        ({"reward": {"principles": "thefts", "form": "rating"}}, "did you mean `theft`"),
        ({"reward": {"held_out": "privac", "form": "rating"}}, "ppo.reward.held_out. names"),
        ({"reward": {"weights": {"x": 1}, "form": "rating"}}, "ppo.reward.weights. names"),
    ],
)
def test_what_a_pipeline_lacks_is_said_before_it_runs(
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
