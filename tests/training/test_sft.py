"""Fine-tuning: what carries loss, what is saved, and that a killed training loses nothing."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import FAMILIES, THINKING_FAMILIES, make_tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from cai.errors import CaiError
from cai.models.chat import TEMPLATE_DATE, ChatFormat
from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import ModelSettings, SftSettings
from cai.training.activations import kept
from cai.training.arguments import Run, training_arguments
from cai.training.data import read_rows
from cai.training.sft import train_sft
from cai.training.sft_data import (
    COLUMNS,
    NO_LOSS,
    collate_completions,
    completion_rows,
    mixture,
)
from cai.training.trainer import FitTrainer

SETTINGS = SftSettings(
    batch_size=4, micro_batch_size=2, learning_rate=1e-2, epochs=2, checkpoint_steps=2
)


def train(
    out: Path, base: ModelSettings, data: Path, settings: SftSettings = SETTINGS, seed: int = 5
):
    return train_sft(
        settings, data=data, base=base, out=out / "model", seed=seed, log_dir=out / "logs"
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 0):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=atol, msg=name)


def texts_in(data: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(data).to_pylist()
    return [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]


def reference_loss(base: ModelSettings, texts: list[tuple[str, str]]) -> float:
    """Mean over completion tokens of −log p, row by row, without padding, in float64."""
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float64).eval()
    chat = load_chat_format(base)
    total, count = 0.0, 0
    for prompt, completion in texts:
        messages = [{"role": "user", "content": prompt}]
        if base.format == "transcript":
            text, lead = f"Human: {prompt}\n\nAssistant:", " "
        else:
            text, lead = (
                chat.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
                ),
                "",
            )
        start = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        rest = chat.tokenizer(lead + completion, add_special_tokens=False)["input_ids"]
        rest = [*rest, chat.turn_end]
        logits = model(torch.tensor([start + rest])).logits[0]
        for place, token in enumerate(rest, start=len(start)):
            total -= torch.log_softmax(logits[place - 1], dim=-1)[token].item()
            count += 1
    return total / count


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_counts_exactly_the_completion_tokens_and_the_turn_end(
    family, base, completions, tmp_path
):
    settings = SftSettings(batch_size=5, micro_batch_size=5, learning_rate=1e-3)
    data = completions(5)
    metrics = train(tmp_path, base(family), data, settings)
    expected = reference_loss(base(family), texts_in(data))
    assert metrics["first_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["steps"] == 1
    assert metrics["rows"] == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_folder_is_a_plain_model_with_the_base_models_special_tokens(
    family, base, completions, tmp_path
):
    train(tmp_path / "run", base(family), completions())
    out, start = tmp_path / "run" / "model", Path(base(family).path)
    assert not (tmp_path / "run" / "checkpoints").exists()
    load_causal_lm(ModelSettings(path=str(out)))
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((folder / name).read_text()) for folder in (start, out))
        for token in ("eos_token_id", "bos_token_id", "pad_token_id"):
            assert after.get(token) == before.get(token), (name, token)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == load_chat_format(base(family)).tokenizer.chat_template
    assert tokenizer.pad_token == AutoTokenizer.from_pretrained(start).pad_token


def test_labels_are_on_the_completion_alone_whatever_the_pad_token(base, completions):
    chat = load_chat_format(base("llama"))
    data = completions(5)
    rows, _ = completion_rows(list(read_rows(data, COLUMNS)), data, chat, 1024)
    batch = collate_completions(rows, pad_id=chat.turn_end)
    for i, (_, answer) in enumerate(texts_in(data)):
        ids = chat.tokenizer(answer, add_special_tokens=False)["input_ids"]
        labelled = batch["labels"][i][batch["labels"][i] != NO_LOSS].tolist()
        assert labelled == [*ids, chat.turn_end]
        real = int(batch["attention_mask"][i].sum())
        assert batch["labels"][i, real - 1] == chat.turn_end
        assert (batch["labels"][i, real:] == NO_LOSS).all()
        assert (batch["attention_mask"][i, :real] == 1).all()
        assert (batch["attention_mask"][i, real:] == 0).all()


@pytest.mark.parametrize("family", THINKING_FAMILIES)
def test_answers_are_trained_where_a_thinking_template_writes_them(family, completions):
    chat = ChatFormat(make_tiny_tokenizer(family))
    data = completions(5)
    rows, _ = completion_rows(list(read_rows(data, COLUMNS)), data, chat, 10_000)
    for row, (prompt, answer) in zip(rows, texts_in(data), strict=True):
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
        written = chat.tokenizer.apply_chat_template(
            messages, tokenize=False, strftime_now=TEMPLATE_DATE.strftime
        )
        assert chat.tokenizer.decode(row["input_ids"]) == written.rstrip("\n")
        labelled = row["labels"][row["labels"] != NO_LOSS]
        assert chat.tokenizer.decode(labelled) == answer + chat.tokenizer.decode([chat.turn_end])


def test_long_rows_are_left_out_and_counted_never_cut(base, completions):
    chat = load_chat_format(base())
    data = completions(10)
    everything, _ = completion_rows(list(read_rows(data, COLUMNS)), data, chat, 10_000)
    lengths = [len(row["input_ids"]) for row in everything]
    limit = sorted(lengths)[4]
    kept, too_long = completion_rows(list(read_rows(data, COLUMNS)), data, chat, limit)
    assert [len(row["input_ids"]) for row in kept] == [n for n in lengths if n <= limit]
    assert too_long == sum(n > limit for n in lengths) > 0


@pytest.fixture(scope="module")
def undisturbed(base, completions, tmp_path_factory):
    """A training from beginning to end: 13 rows, so the last batch of an epoch is a partial one."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder, base(), completions(13))


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_change_memory_not_results(micro, undisturbed, base, completions, tmp_path):
    settings = SETTINGS.model_copy(update={"micro_batch_size": micro})
    metrics = train(tmp_path, base(), completions(13), settings)
    assert_same(weights(undisturbed[0]), weights(tmp_path), atol=2e-4)
    for loss in ("first_loss", "final_loss"):
        assert metrics[loss] == pytest.approx(undisturbed[1][loss], rel=1e-4)


@pytest.mark.parametrize(
    ("batch", "share", "expected"), [(24, 0.01, 24), (24, 0.08, 12), (24, 0.1, 8), (7, 0.9, 1)]
)
def test_without_a_micro_batch_a_pass_on_a_cpu_keeps_a_gibibyte(
    batch, share, expected, base, tmp_path
):
    model = load_causal_lm(base(), device="cpu")
    run = Run(base(), tmp_path, 0, tmp_path, tmp_path, None)
    # The longest row takes this share of it.
    longest = int(share * 2**30 / kept(model.config, torch.float32, lora=False).per_token)

    def micro(**settings):
        found = training_arguments(
            SftSettings(batch_size=batch, **settings), run, rows=50, longest=longest, model=model
        )
        assert found.per_device_train_batch_size * found.gradient_accumulation_steps == batch
        return found.per_device_train_batch_size

    assert micro() == expected
    assert micro(micro_batch_size=batch) == batch


@pytest.mark.parametrize("passes", [3, 9, 13])
def test_killed_and_resumed_training_ends_with_the_same_weights(
    passes, undisturbed, base, completions, killed_after, tmp_path
):
    # 4 steps and 7 passes an epoch: killed in the first epoch, in the second, and in the last step.
    with killed_after(passes):
        train(tmp_path, base(), completions(13))
    assert not (tmp_path / "model").exists()
    resumed = train(tmp_path, base(), completions(13))
    assert_same(weights(undisturbed[0]), weights(tmp_path))
    for metric in ("steps", "tokens", "first_loss", "final_loss"):
        assert resumed[metric] == undisturbed[1][metric]


@pytest.mark.slow
def test_killed_lora_training_resumes_too(base, completions, killed_after, tmp_path):
    settings = SETTINGS.model_copy(update={"lora_rank": 2})
    train(tmp_path / "undisturbed", base(), completions(13), settings)
    with killed_after(9):
        train(tmp_path / "killed", base(), completions(13), settings)
    train(tmp_path / "killed", base(), completions(13), settings)
    assert_same(weights(tmp_path / "undisturbed"), weights(tmp_path / "killed"))


def test_training_killed_while_saving_the_model_resumes_at_its_end(
    undisturbed, base, completions, monkeypatch, tmp_path
):
    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cai.training.sft.save_policy", fail)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, base(), completions(13))
    resumed = train(tmp_path, base(), completions(13))
    assert_same(weights(undisturbed[0]), weights(tmp_path))
    assert resumed["final_loss"] == undisturbed[1]["final_loss"]


def test_torn_checkpoint_is_skipped_with_a_warning(
    undisturbed, base, completions, killed_after, caplog, tmp_path
):
    with killed_after(12):
        train(tmp_path, base(), completions(13))
    (tmp_path / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    train(tmp_path, base(), completions(13))
    assert "checkpoint-6 was not written to its end" in caplog.text
    assert_same(weights(undisturbed[0]), weights(tmp_path))


def test_checkpoints_of_another_training_are_not_resumed_from(
    undisturbed, base, completions, killed_after, tmp_path
):
    with killed_after(9):
        train(tmp_path, base(), completions(13), seed=6)
    train(tmp_path, base(), completions(13))
    assert_same(weights(undisturbed[0]), weights(tmp_path))


def test_order_of_rows_depends_on_the_seed(undisturbed, base, completions, tmp_path):
    train(tmp_path, base(), completions(13), seed=6)
    first, second = weights(undisturbed[0]), weights(tmp_path)
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_is_merged_into_what_is_saved(family, base, completions, monkeypatch, tmp_path):
    monkeypatch.setattr("cai.training.fit.shutil.rmtree", lambda folder, **_: None)
    settings = SETTINGS.model_copy(update={"lora_rank": 2})
    train(tmp_path / "run", base(family), completions(13), settings)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    start = AutoModelForCausalLM.from_pretrained(base(family).path).eval()
    ids = torch.arange(5, 30)[None]
    before = start(ids).logits
    adapted = PeftModel.from_pretrained(start, tmp_path / "run" / "checkpoints" / "checkpoint-8")
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=0, atol=1e-3)
    assert (merged(ids).logits - before).abs().max() > 0.05


def test_training_is_silent_and_offline_and_logs_to_tensorboard(
    base, completions, monkeypatch, capfd, tmp_path
):
    def refuse(*args, **kwargs):
        raise AssertionError("telemetry")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    train(tmp_path / "run", base(), completions(4))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
    assert list((tmp_path / "run" / "logs").glob("events.out.tfevents.*"))


def test_batch_that_does_not_divide_is_refused_before_anything_is_loaded(tmp_path):
    settings = SETTINGS.model_copy(update={"batch_size": 8, "micro_batch_size": 3})
    with pytest.raises(CaiError, match=r"micro-batches of 3 .*Make it a multiple of 3\."):
        train(tmp_path, ModelSettings(path="/nowhere"), tmp_path / "missing.parquet", settings)


def test_data_that_cannot_be_used_is_named(base, completions, tmp_path):
    with pytest.raises(CaiError, match=r"missing\.parquet does not exist"):
        train(tmp_path, base(), tmp_path / "missing.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(completions().read_bytes()[:-20])
    with pytest.raises(CaiError, match=r"broken\.parquet is not a whole parquet file"):
        train(tmp_path, base(), broken)
    with pytest.raises(CaiError, match="longer than `max_length` 4"):
        train(tmp_path, base(), completions(), SftSettings(max_length=4))
    with pytest.raises(CaiError, match="one assistant message"):
        train(tmp_path, base(), completions(completion=[{"role": "user", "content": "x"}]))
    with pytest.raises(CaiError, match=r"Row 0000 of .*: `prompt` is not a list of messages"):
        train(tmp_path, base(), completions(prompt=[{"role": "narrator", "content": "x"}]))


def test_empty_data_is_named(base, completions, tmp_path):
    data = completions(1)
    pq.write_table(pq.read_table(data)[:0], data)
    with pytest.raises(CaiError, match="no trainable rows"):
        train(tmp_path, base(), data)


def test_missing_column_is_named(base, comparisons, tmp_path):
    with pytest.raises(CaiError, match="has no column `kind`"):
        train(tmp_path, base(), comparisons([("a", "b", 1.0)]))


def test_base_model_without_chat_template_is_named(base, completions, tmp_path):
    plain = base("gpt2").model_copy(update={"format": "chat"})
    with pytest.raises(CaiError, match="format: transcript"):
        train(tmp_path, plain, completions())


def test_training_that_breaks_down_stops_with_the_fix(base, completions, tmp_path):
    settings = SftSettings(batch_size=4, learning_rate=1e20)
    with pytest.raises(CaiError, match=r"step 2 of 4\. Lower `learning_rate` \(now 1e\+20\)"):
        train(tmp_path, base(), completions(13), settings)
    assert not (tmp_path / "model").exists()


def test_weights_broken_by_the_very_last_step_are_not_saved(
    base, completions, monkeypatch, tmp_path
):
    def break_weights(trainer, resume_from_checkpoint):
        next(trainer.model.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(FitTrainer, "train", break_weights)
    with pytest.raises(CaiError, match="weights that are not finite"):
        train(tmp_path, base(), completions(4))
    assert not (tmp_path / "model").exists()


def test_an_answer_that_was_cut_off_is_not_taught_to_end(tmp_path, base, completions):
    chat = load_chat_format(base())
    for ended in (True, False):
        data = completions(ended=ended)
        rows, _ = completion_rows(list(read_rows(data, COLUMNS)), data, chat, 10_000)
        assert all((row["labels"][-1] == chat.turn_end) == ended for row in rows)


def rows_of(revisions, helpful):
    return [{"key": f"r{n}", "kind": "red_team"} for n in range(revisions)] + [
        {"key": f"h{n}", "kind": "helpful"} for n in range(helpful)
    ]


@pytest.mark.parametrize(
    ("revisions", "helpful", "ratio", "kept"),
    [(10, 30, 1.0, 10), (10, 30, 0.5, 5), (10, 3, 1.0, 3), (0, 30, 0.0, 30), (10, 30, 0.0, 0)],
)
def test_helpful_samples_are_mixed_in_up_to_the_ratio(revisions, helpful, ratio, kept):
    mixed, left_out = mixture(rows_of(revisions, helpful), ratio, seed=0)
    assert sum(row["kind"] == "helpful" for row in mixed) == kept
    assert sum(row["kind"] == "red_team" for row in mixed) == revisions
    assert len(mixed) + left_out == revisions + helpful


def test_another_seed_mixes_in_other_samples():
    one, other = (mixture(rows_of(10, 100), 1.0, seed=seed)[0] for seed in (0, 1))
    assert one != other


def test_every_step_is_told(tmp_path, base, completions):
    told = []
    data = completions()
    train_sft(
        SftSettings(batch_size=4),
        data=data,
        base=base(),
        out=tmp_path / "sft" / "model",
        seed=0,
        log_dir=tmp_path / "logs",
        on_step=told.append,
    )
    steps = [metrics["step"] for metrics in told if "loss" in metrics]
    assert steps == list(range(1, int(told[0]["steps"]) + 1))


@pytest.mark.parametrize(("share", "last"), [(1.0, 1e-2), (0.1, 1e-3)])
def test_the_learning_rate_falls_to_its_final_share(share, last, tmp_path):
    settings = SftSettings(batch_size=4, learning_rate=1e-2, final_learning_rate=share)
    run = Run(ModelSettings(path="x"), tmp_path, 0, tmp_path, tmp_path, None)
    arguments = training_arguments(settings, run, rows=400)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.warmup_steps,
        num_training_steps=100,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    rates: list[float] = []
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == pytest.approx(1e-2, rel=0.05)
    assert rates[-1] == pytest.approx(last)
