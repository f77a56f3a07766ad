"""Whole PPO runs on tiny models: what they leave, how they resume, and how they refuse."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_references import SHORT, steps_of
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import copy_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.data.records import PromptRow
from cai.errors import CaiError
from cai.models.loading import load_chat_format, load_tokenizer
from cai.models.preference_model import PreferenceModel
from cai.ppo import PPO
from cai.settings import ModelSettings

SETTINGS = SHORT.model_copy(update={"steps": 5, "no_eos_reward": -1.0, "checkpoint_steps": 2})

Tiny = Callable[[str], ModelSettings]
Run = Callable[..., dict[str, float]]


class KilledError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def run(tiny: Tiny, tiny_preference: Callable[[str], Path], prompt_rows: list[PromptRow]) -> Run:
    """Run PPO in a folder; keyword arguments replace the usual ones."""

    def start(folder: Path, **changes: Any) -> dict[str, float]:
        settings = changes.pop("settings", SETTINGS)
        policy = changes.pop("policy", tiny("llama"))
        judge = changes.pop("preference_model", tiny_preference("llama"))
        ppo = PPO(policy, judge, settings, seed=7)
        return ppo.train(changes.pop("prompts", prompt_rows), folder, **changes)

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def whole(undisturbed: Path, run: Run) -> Path:
    """The folder of a run that nothing killed, made once."""
    if not (undisturbed / "model").exists():
        run(undisturbed)
    return undisturbed


def kill_after(step: int) -> Callable[[Mapping[str, float]], None]:
    def on_step(metrics: Mapping[str, float]) -> None:
        if metrics["step"] == step:
            raise KilledError

    return on_step


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def without_times(records: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in records]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_a_plain_model_and_its_metrics(tmp_path: Path, run: Run, tiny: Tiny) -> None:
    seen: list[Mapping[str, float]] = []
    metrics = run(tmp_path, on_step=seen.append)
    assert metrics["steps"] == 5
    assert metrics["prompts"] == 6
    assert metrics["prompts_too_long"] == 0
    assert 5 * 4 <= metrics["tokens"] <= 5 * 4 * 6

    records = steps_of(tmp_path)
    assert records == seen
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert [record["episode"] for record in records] == [4, 8, 12, 16, 20]
    assert records[0]["lr"] == pytest.approx(1e-3)
    assert records[-1]["lr"] == pytest.approx(2e-4)
    for record in records:
        assert record["objective/rlhf_reward"] == pytest.approx(
            record["objective/scores"] + record["objective/non_score_reward"]
        )
        assert record["policy/entropy_avg"] >= 0
        assert 0 <= record["policy/clipfrac_avg"] <= 1
        assert record["policy/approxkl_avg"] >= 0
    assert records[0]["objective/kl"] == pytest.approx(0, abs=1e-3)

    folder = tmp_path / "model"
    assert AutoTokenizer.from_pretrained(folder).chat_template == (
        load_tokenizer(tiny("llama")).chat_template
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    stop_ids = load_chat_format(tiny("llama")).stop_ids
    assert set(model.generation_config.eos_token_id) == stop_ids
    assert not same(weights(tmp_path), load_file(Path(tiny("llama").path) / "model.safetensors"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["logs", "model", "steps.jsonl"]

    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    logged = [event.value for event in board.Scalars("objective/kl")]
    assert logged == pytest.approx([record["objective/kl"] for record in records], abs=1e-6)


def test_fact_26_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, run: Run, whole: Path
) -> None:
    killed = tmp_path / "killed"
    for step in (1, 3, 4, 5):  # before the first checkpoint, between two, on one, at the end
        with pytest.raises(KilledError):
            run(killed, on_step=kill_after(step))
        assert not (killed / "model").exists()
    metrics = run(killed)
    assert metrics["tokens"] == sum(record["tokens"] for record in steps_of(whole))
    assert same(weights(whole), weights(killed))
    assert without_times(steps_of(whole)) == without_times(steps_of(killed))


def events_of(function: Callable[[], Any], last: int | None = None) -> int:
    """Count the calls and returns of a function's run; this process is shot dead at the last."""
    count = 0

    def count_one(*_: object) -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count_one)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_fact_26_kill_9_at_random_moments_changes_nothing(tmp_path: Path, run: Run) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    moments = events_of(lambda: run(whole))
    rng = random.Random(0)
    for _ in range(3):
        child = multiprocessing.get_context("fork").Process(
            target=events_of, args=(lambda: run(killed), rng.randrange(moments))
        )
        child.start()
        child.join(timeout=300)
        assert child.exitcode == -signal.SIGKILL
    run(killed)
    assert same(weights(whole), weights(killed))
    assert without_times(steps_of(whole)) == without_times(steps_of(killed))


def test_a_resumed_run_redoes_only_what_came_after_the_checkpoint(tmp_path: Path, run: Run) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, on_step=kill_after(3))
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 4, "torn')
    seen: list[float] = []
    run(tmp_path, on_step=lambda metrics: seen.append(metrics["step"]))
    assert seen == [3, 4, 5]
    assert [record["step"] for record in steps_of(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, run: Run, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = tmp_path / "torn"
    with pytest.raises(KilledError):
        run(torn, on_step=kill_after(4))
    names = [path.name for path in sorted((torn / "checkpoints").iterdir())]
    assert names == ["step-000002", "step-000004"]
    state = torn / "checkpoints" / "step-000004" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    seen: list[float] = []
    run(torn, on_step=lambda metrics: seen.append(metrics["step"]))
    assert "step-000004 and removes it: it is damaged" in caplog.text
    assert seen == [3, 4, 5]
    assert same(weights(whole), weights(torn))


def test_checkpoints_of_another_run_are_not_resumed(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, on_step=kill_after(4))
    changed = SETTINGS.model_copy(update={"kl_coef": 0.5})
    seen: list[float] = []

    def on_step(metrics: Mapping[str, float]) -> None:
        seen.append(metrics["step"])
        kill_after(3)(metrics)

    with pytest.raises(KilledError):
        run(tmp_path, settings=changed, on_step=on_step)
    assert "are others" in caplog.text
    assert seen == [1, 2, 3]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_a_smaller_micro_batch_resumes_a_run(tmp_path: Path, run: Run) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, on_step=kill_after(2))
    seen: list[float] = []
    smaller = SETTINGS.model_copy(update={"micro_batch_size": 1})
    run(tmp_path, settings=smaller, on_step=lambda metrics: seen.append(metrics["step"]))
    assert seen == [3, 4, 5]


def test_an_earlier_model_is_replaced_only_by_a_finished_one(tmp_path: Path, run: Run) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(KilledError):
        run(tmp_path, on_step=kill_after(5))
    assert (tmp_path / "model" / "old").exists()
    run(tmp_path)
    assert not (tmp_path / "model" / "old").exists()


def test_sampling_defaults_that_transformers_refuses_to_save_do_not_spoil_the_end(
    tmp_path: Path, run: Run, tiny: Tiny
) -> None:
    folder = copy_of(Path(tiny("llama").path), tmp_path / "policy")
    config = folder / "generation_config.json"
    contradiction = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    config.write_text(json.dumps(json.loads(config.read_text()) | contradiction))
    settings = SETTINGS.model_copy(update={"steps": 1})
    run(tmp_path, settings=settings, policy=ModelSettings(path=str(folder)))
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("family", ["qwen3", "gemma", "gpt2"])
def test_every_family_trains(
    family: str,
    tmp_path: Path,
    run: Run,
    tiny: Tiny,
    tiny_preference: Callable[[str], Path],
) -> None:
    settings = SETTINGS.model_copy(update={"steps": 2})
    run(
        tmp_path,
        settings=settings,
        policy=tiny(family),
        preference_model=tiny_preference(family),
    )
    chat = load_chat_format(ModelSettings(path=str(tmp_path / "model")))
    assert chat.stop_ids == load_chat_format(tiny(family)).stop_ids


def refuses(run: Run, folder: Path, words: str, **changes: Any) -> None:
    with pytest.raises(CaiError, match=words):
        run(folder, **changes)
    assert not (folder / "model").exists()
    assert not (folder / "steps.jsonl").exists()


def test_settings_and_prompts_that_cannot_work_are_refused(
    tmp_path: Path, run: Run, prompt_rows: list[PromptRow]
) -> None:
    uneven = SETTINGS.model_copy(update={"minibatches": 3})
    refuses(run, tmp_path, "ppo.batch_size. 4 .*ppo.minibatches. 3", settings=uneven)
    refuses(run, tmp_path, "no prompts", prompts=[])
    endless = SETTINGS.model_copy(update={"max_new_tokens": 2048})
    refuses(run, tmp_path, "Lower .ppo.max_new_tokens", settings=endless)
    refuses(run, tmp_path, "asks for 2 helpful prompts", prompts=prompt_rows[:3])


def test_prompts_that_are_too_long_are_left_out_and_counted(
    tmp_path: Path, run: Run, prompt_rows: list[PromptRow]
) -> None:
    long = prompt_rows[0].messages[0].model_copy(update={"content": "x " * 2100})
    rows = [*prompt_rows, prompt_rows[0].model_copy(update={"key": "long", "messages": (long,)})]
    settings = SETTINGS.model_copy(update={"steps": 1})
    metrics = run(tmp_path, prompts=rows, settings=settings)
    assert metrics["prompts"] == 6
    assert metrics["prompts_too_long"] == 1


def test_other_tokens_in_the_preference_model_are_refused(
    tmp_path: Path, run: Run, tiny: Tiny, tiny_preference: Callable[[str], Path]
) -> None:
    refuses(run, tmp_path, "vocabularies differ", preference_model=tiny_preference("qwen3"))
    transcript = tiny("llama").model_copy(update={"format": "transcript"})
    refuses(run, tmp_path, "chat templates differ", policy=transcript)


def test_a_folder_without_preference_model_is_refused(tmp_path: Path, run: Run, tiny: Tiny) -> None:
    refuses(run, tmp_path, "not a preference model", preference_model=Path(tiny("llama").path))


def test_divergence_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PreferenceModel.score_ids
    calls: list[int] = []

    def huge_from_step_4(self: PreferenceModel, sequences: Any) -> torch.Tensor:
        calls.append(1)
        return real(self, sequences) * (1e38 if len(calls) > 3 else 1)

    monkeypatch.setattr(PreferenceModel, "score_ids", huge_from_step_4)
    with pytest.raises(CaiError, match=r"diverged at step \d of 5.*critic_learning_rate"):
        run(tmp_path)
    assert (tmp_path / "checkpoints" / "step-000002" / "state.pt").exists()
    assert not (tmp_path / "model").exists()


def test_a_score_that_is_not_a_number_stops_the_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PreferenceModel, "score_ids", lambda self, ids: torch.full((len(ids),), float("nan"))
    )
    with pytest.raises(CaiError, match="not a number at PPO step"):
        run(tmp_path)
