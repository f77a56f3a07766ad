"""The guard: a collapse is noticed, and the policy that is kept is the better one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from plain_runs import run_of
from ppo_references import SHORT, steps_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cai.data.records import PromptRow
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.errors import CaiError
from cai.models.loading import load_causal_lm, load_chat_format
from cai.pipeline.stages.ppo import STAGE, PPOJob, watched
from cai.ppo import PPO
from cai.ppo.guard import MOST_ROLL_BACKS, Guard, alarms_of, text_measures
from cai.settings import GuardSettings, ModelSettings, PPOSettings

Tiny = Callable[[str], ModelSettings]
Run = Callable[..., tuple[dict[str, float], list[str]]]

HELD_OUT = [f"{verb} {thing}." for verb in ("Bake", "Plant", "Write") for thing in "abcd"]
QUIET = GuardSettings(
    every=2, evasive_rise=1.0, over_refusal_rise=1.0, length_factor=100.0, max_kl=1e9
)
SETTINGS = SHORT.model_copy(
    update={
        "steps": 16,
        "batch_size": 16,
        "max_new_tokens": 10,
        "learning_rate": 4e-2,
        "final_learning_rate": 1.0,
        "kl_coef": 0.0,
        "guard": QUIET,
    }
)


def share_of_a(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """A reward that is easily hacked: "a a a a a a" to everybody."""
    return [text.count("a") / 10 for text in responses]


@pytest.fixture
def run(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> Run:
    """Train in a folder with changed settings; returns metrics and what the guard said."""

    def train(folder: Path, **changes: Any) -> tuple[dict[str, float], list[str]]:
        caplog.clear()
        settings = SETTINGS.model_copy(update=changes)
        metrics = PPO(tiny("llama"), share_of_a, settings).train(
            ["Bake bread.", "Plant seeds.", "Name a word."], folder, held_out=HELD_OUT
        )
        return metrics, [text for text in caplog.messages if "held-out" in text]

    return train


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def different_answers(folder: Path, tiny: Tiny) -> int:
    """Count what nothing in the training has looked at: different answers to new prompts."""
    chat = load_chat_format(tiny("llama"))
    loop = DecodeLoop(
        load_causal_lm(ModelSettings(path=str(folder / "model")), device="cpu"),
        stop_ids=chat.stop_ids,
        max_batch_tokens=9999,
    )
    requests = [TokenRequest((5, 60 + i, 7), seed=i, max_tokens=8) for i in range(30)]
    return len({chat.text(done.token_ids)[:8] for done in loop.run(requests)})


def test_a_collapse_is_noticed_and_the_better_policy_is_kept(
    tmp_path: Path, tiny: Tiny, run: Run
) -> None:
    # Rolling back needs a positive coefficient. With another one in one of the runs, rounding would
    # make it another run.
    same = {"kl_coef": 1e-9}
    warned, said = run(tmp_path / "warn", **same)
    assert warned["steps"] == warned["kept_step"] == SETTINGS.steps
    assert warned["alarms"] > 0
    assert any("open alike rose from" in text and "goes on" in text for text in said)
    last = steps_of(tmp_path / "warn")[-1]
    first = next(r for r in steps_of(tmp_path / "warn") if "guard/score" in r)
    assert last["guard/score"] > first["guard/score"]  # the score alone sees nothing wrong
    assert last["guard/repeated_openings"] > 2 * first["guard/repeated_openings"]

    stop = QUIET.model_copy(update={"action": "stop"})
    stopped, said = run(tmp_path / "early", guard=stop, **same)
    assert stopped["steps"] < SETTINGS.steps
    assert stopped["kept_step"] < stopped["steps"]
    assert stopped["alarms"] == 1
    assert "stops with the policy of step" in said[-1]
    # An alarm at the very last step is acted upon as well.
    late: list[bytes] = []
    for action in ("stop", "roll_back"):
        rules = QUIET.model_copy(update={"action": action})
        metrics, _ = run(tmp_path / action, guard=rules, steps=stopped["steps"], **same)
        assert metrics["steps"] == stopped["steps"]
        assert metrics["kept_step"] == stopped["kept_step"]
        late.append(weights_of(tmp_path / action))
    assert late[0] == late[1]
    best, _ = run(tmp_path / "best", keep="best", **same)
    assert best["steps"] == SETTINGS.steps
    assert best["kept_step"] == stopped["kept_step"]

    collapsed = different_answers(tmp_path / "warn", tiny)
    for kept in ("early", "stop", "roll_back"):
        assert different_answers(tmp_path / kept, tiny) > 2 * collapsed
    assert different_answers(tmp_path / "best", tiny) > 2 * collapsed


def test_rolling_back_raises_beta_to_what_the_alarm_was_worth(tmp_path: Path, run: Run) -> None:
    back = QUIET.model_copy(update={"action": "roll_back"})
    metrics, said = run(tmp_path, guard=back, kl_coef=1e-6)
    assert "Back to the policy of step" in said[0]
    records = steps_of(tmp_path)
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    score, kl = (
        {event.step: event.value for event in board.Scalars(f"guard/{name}")}
        for name in ("score", "kl")
    )
    first = next(int(r["step"]) for r in records if r.get("guard/alarms", 0) > 0)
    best = int(said[0].rsplit("step ", 1)[1].split(",")[0])
    worth = (score[first] - score[best]) / (kl[first] - kl[best])
    assert records[first - 1]["objective/kl_coef"] == 1e-6
    assert records[first]["objective/kl_coef"] == pytest.approx(worth, rel=1e-3)
    assert metrics["steps"] == SETTINGS.steps


def test_rolling_back_doubles_beta_at_least_and_ends_after_a_few_times(
    tmp_path: Path, run: Run
) -> None:
    """Here any move is an alarm, and the score does not pay for it."""
    back = QUIET.model_copy(update={"action": "roll_back", "max_kl": 1e-4, "every": 1})
    metrics, said = run(tmp_path, guard=back, kl_coef=1.0, steps=40, learning_rate=1e-3)
    assert sum("Back to the policy" in text for text in said) == MOST_ROLL_BACKS
    assert "stops with" in said[-1]
    assert metrics["steps"] < 40
    raised = sorted({record["objective/kl_coef"] for record in steps_of(tmp_path)})
    assert len(raised) == MOST_ROLL_BACKS + 1
    assert all(after >= 2 * before for before, after in pairwise(raised))


def test_a_killed_guarded_run_resumes_to_the_same_end(tmp_path: Path, tiny: Tiny) -> None:
    class KilledError(Exception):
        pass

    def kill(metrics: Any) -> None:
        if metrics["step"] == 3:
            raise KilledError

    settings = SETTINGS.model_copy(update={"keep": "best", "checkpoint_steps": 2, "steps": 6})
    weights: list[bytes] = []
    for name in ("whole", "killed"):
        if name == "killed":
            with pytest.raises(KilledError):
                PPO(tiny("llama"), share_of_a, settings).train(
                    ["Bake."], tmp_path / name, held_out=HELD_OUT, on_step=kill
                )
        PPO(tiny("llama"), share_of_a, settings).train(
            ["Bake."], tmp_path / name, held_out=HELD_OUT
        )
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_checks_come_when_they_are_due_and_leave_the_training_as_it_is(
    tmp_path: Path, run: Run
) -> None:
    silent = QUIET.model_copy(update={"every": 3, "repeated_rise": 1.0})
    settings = {"guard": silent, "steps": 4, "normalise_rewards": True}
    for _ in range(2):  # from the start, both times: the second takes the first one's place
        run(tmp_path / "guarded", **settings)
    run(tmp_path / "alone", **{**settings, "guard": None})
    guarded, alone = steps_of(tmp_path / "guarded"), steps_of(tmp_path / "alone")
    assert ["guard/score" in record for record in guarded] == [False, False, True, True]
    for with_guard, without in zip(guarded, alone, strict=True):
        assert with_guard["objective/scores"] == without["objective/scores"]
        assert with_guard["loss/policy_avg"] == without["loss/policy_avg"]
    board = EventAccumulator(str(tmp_path / "guarded" / "logs"))
    board.Reload()
    assert [event.step for event in board.Scalars("guard/kl")] == [0, 3, 4]
    assert board.Scalars("guard/kl")[0].value == pytest.approx(0, abs=1e-4)


def test_texts_are_measured_by_wording() -> None:
    texts = [
        "I can't help with that.",
        "I cannot help with that, because it is illegal and could hurt people around you.",
        "First, take the flour. Then bake the bread in the oven.",
        "First, take the flour. And wait.",
    ]
    measures = text_measures(texts, ["red_team", "helpful", "helpful", "helpful"])
    assert measures["guard/evasive"] == 1 / 4
    assert measures["guard/over_refusal"] == 1 / 3
    assert measures["guard/repeated_openings"] == 1 / 4
    assert measures["guard/repeated_ngrams"] == 0
    assert text_measures([texts[2]] * 2, [None, None])["guard/repeated_ngrams"] == 1 / 2
    assert text_measures([""], ["red_team"])["guard/over_refusal"] == 0


START = {
    "guard/evasive": 0.1,
    "guard/over_refusal": 0.0,
    "guard/repeated_openings": 0.2,
    "guard/repeated_ngrams": 0.1,
    "guard/length": 30.0,
    "guard/kl": 0.0,
    "guard/score": 0.0,
    "guard/independent": 0.4,
}


@pytest.mark.parametrize(
    ("name", "quiet", "loud", "rule", "words"),
    [
        ("evasive", 0.3, 0.35, "evasive_rise", "evasive answers rose from 10% to 35%"),
        ("over_refusal", 0.2, 0.25, "over_refusal_rise", "refusals of benign prompts rose"),
        ("repeated_openings", 0.5, 0.55, "repeated_rise", "open alike"),
        ("repeated_ngrams", 0.39, 0.45, "repeated_rise", "phrases"),
        ("length", 90.0, 91.0, "length_factor", "from 30 to 91 tokens"),
        ("length", 10.0, 9.0, "length_factor", "from 30 to 9 tokens"),
        ("kl", 100.0, 101.0, "max_kl", "KL is 101.0 nats"),
        ("independent", 0.31, 0.29, "independent_fall", "independent score fell from 0.50 to 0.29"),
    ],
)
def test_every_rule_raises_its_alarm_at_its_setting(
    name: str, quiet: float, loud: float, rule: str, words: str
) -> None:
    rules = GuardSettings()
    assert alarms_of(START, {**START, f"guard/{name}": quiet}, rules, highest=0.5) == []
    (alarm,) = alarms_of(START, {**START, f"guard/{name}": loud}, rules, highest=0.5)
    assert words in alarm
    if name == "independent":
        again = {**START, "guard/independent": loud}
        assert alarms_of(START, again, rules, highest=0.5, deviation=2.0) == []
    loose = rules.model_copy(update={rule: 1000.0})
    assert alarms_of(START, {**START, f"guard/{name}": loud}, loose, highest=0.5) == []


def test_a_policy_is_kept_by_a_guard_it_has(tmp_path: Path, tiny: Tiny) -> None:
    for changes in (
        {"keep": "best"},
        {"guard": QUIET.model_copy(update={"action": "stop"})},
        {"keep": "best", "guard": None},
    ):
        ppo = PPO(tiny("llama"), share_of_a, SETTINGS.model_copy(update=changes))
        with pytest.raises(CaiError, match="held-out"):
            ppo.train(["Bake."], tmp_path)


def test_a_best_check_raises_no_alarm_and_has_the_highest_reward() -> None:
    from cai.ppo.guard import Check

    guard = Guard([], SETTINGS, QUIET, 0)

    def check(reward: float, *alarms: str) -> Check:
        metrics = {"guard/reward": reward, "guard/score": reward, "guard/kl": 2 * reward}
        return Check(metrics, alarms, ())

    assert guard.is_best(check(1.0), 0)
    assert not guard.is_best(check(0.5), 2)
    assert not guard.is_best(check(9.0, "too long"), 4)
    assert guard.is_best(check(2.0), 6)
    assert guard.best_step == 6
    # A score of 1 more for 2 nats more; nothing for what did not pay, or did not move.
    assert guard.dissuading_kl_coef(check(3.0)) == 0.5
    for score, kl in ((1.0, 9.0), (3.0, 4.0)):
        worse = Check({"guard/score": score, "guard/kl": kl}, (), ())
        assert guard.dissuading_kl_coef(worse) == 0
    again = Guard([], SETTINGS, QUIET, 0)
    again.load_state_dict(guard.state_dict())
    assert again == guard


def share_of_words(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """A second opinion: different letters, which "a a a a a a" has few of."""
    return [100 * len(set(text)) for text in responses]


def test_an_independent_score_is_watched_and_chooses_the_best(
    tmp_path: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    """With every rule about words and KL out of the way."""
    rules = QUIET.model_copy(update={"repeated_rise": 1.0, "action": "stop"})
    ppo = PPO(tiny("llama"), share_of_a, SETTINGS.model_copy(update={"guard": rules}))
    metrics = ppo.train(
        ["Bake bread.", "Plant seeds.", "Name a word."],
        tmp_path,
        held_out=HELD_OUT,
        independent={"letters": share_of_words},
    )
    assert metrics["alarms"] == 1
    assert metrics["steps"] < SETTINGS.steps
    assert "the independent score fell from" in caplog.text
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    seen = {event.step: event.value for event in board.Scalars("guard/independent")}
    *before, last = seen.values()
    assert max(before) > last
    assert metrics["kept_step"] == max(list(seen)[:-1], key=lambda step: seen[step])
    first, *_, end = board.Scalars("guard/score")
    assert end.value > first.value


def test_an_independent_preference_model_must_read_the_same_tokens_and_be_one(
    tmp_path: Path, tiny: Tiny, tiny_preference: Callable[[str], Path]
) -> None:
    folder = str(tiny_preference("qwen3"))
    rules = QUIET.model_copy(update={"independent": folder})
    ppo = PPO(tiny("llama"), share_of_a, SETTINGS.model_copy(update={"guard": rules}))
    with pytest.raises(CaiError, match="cannot be used together"):
        ppo.train(["Bake."], tmp_path, held_out=HELD_OUT)
    ppo = PPO(tiny("llama"), share_of_a, SETTINGS)
    with pytest.raises(CaiError, match="independent scorer need held-out"):
        ppo.train(["Bake."], tmp_path, independent=share_of_words)
    with pytest.raises(CaiError, match="is not a number"):
        ppo.train(
            ["Bake."],
            tmp_path,
            held_out=HELD_OUT,
            independent=lambda prompts, responses: [math.nan for _ in responses],
        )


def test_a_pipeline_reads_its_independent_model_beside_its_file(
    tmp_path: Path, tiny_preference: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_preference("llama"), tmp_path / "beside" / "judge")
    data = {"compare": {}, "preference": {}, "ppo": {"guard": {"independent": "judge"}}}
    run = run_of(data, tmp_path / "run", base_dir=tmp_path / "beside")
    context = run.first(PPOSettings)
    jobs: list[PPOJob] = []
    monkeypatch.setattr(PPOJob, "run", lambda job, on_step: jobs.append(job) or {})
    STAGE.run(context)
    assert jobs[0].independent == tmp_path / "beside" / "judge"
    before = STAGE.inputs(context)["independent preference model"]
    config = tmp_path / "beside" / "judge" / "config.json"
    config.write_text(config.read_text().replace("0.25", "0.75"))
    run.forget_fingerprints()
    assert STAGE.inputs(context)["independent preference model"] != before


def test_rolling_back_needs_a_beta_to_double(tiny: Tiny) -> None:
    back = QUIET.model_copy(update={"action": "roll_back"})
    with pytest.raises(CaiError, match="stays at 0"):
        PPO(tiny("llama"), share_of_a, SETTINGS.model_copy(update={"guard": back}))


def test_the_pipeline_keeps_whole_tasks_from_training_for_the_guard(
    prompt_rows: list[PromptRow],
) -> None:
    rows = [
        prompt_rows[0].model_copy(update={"key": f"{kind}{i}", "kind": kind, "task": f"{i // 3}"})
        for kind in ("red_team", "helpful")
        for i in range(120)
    ]
    chosen = watched(rows, 8)
    for kind in ("red_team", "helpful"):
        tasks = [row.task for row in chosen if row.kind == kind]
        assert 6 <= len(tasks) <= 8
        rest = {row.task for row in rows if row.kind == kind and row not in chosen}
        assert not rest & set(tasks)
    assert len(watched(rows, 1000)) == 24
    assert watched(rows, 8) == watched(rows, 8)
    assert watched(prompt_rows, 8) == []
