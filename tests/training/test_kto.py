"""Kahneman-Tversky optimisation on single labelled responses."""

import math
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import KTOTrainer
from trl.trainer.utils import add_fused_lm_head

from cai.data.conversation import Prompt, user
from cai.data.tables import LABELLED_COLUMNS, write_parquet
from cai.errors import CaiError
from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import KtoSettings
from cai.training.kto import kto_loss, read_labelled, train_kto
from cai.training.preference_data import training_rows
from cai.training.ratios import collate_with_labels

ROWS = [
    (f"Write line {i % 9}.", "Here it is." if i % 3 else "No. Never.", 0.95 if i % 3 else 0.1)
    for i in range(27)
]
KTO_OUTPUTS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
LABELS = (0, 0.2, 0.5, 0.7, 1, 1)
SETTINGS = KtoSettings(batch_size=9, epochs=3, learning_rate=5e-3)


def write(folder, rows):
    path = folder / "labelled.parquet"
    table = [
        {
            "key": str(number),
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": text}],
            "desirable": label,
        }
        for number, (prompt, text, label) in enumerate(rows)
    ]
    write_parquet(path, table, LABELLED_COLUMNS)
    return path


def train(folder, base, rows=ROWS, settings=SETTINGS):
    folder.mkdir(exist_ok=True)
    return train_kto(
        settings,
        data=write(folder, rows),
        base=base,
        out=folder / "model",
        seed=5,
        log_dir=folder / "logs",
    )


def likelihoods(model, chat, prompts, texts):
    """(N,) nats: one response after the other, without batches or padding."""
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        asked, answer = chat.prompt_ids(Prompt(user(prompt))), chat.completion_ids(text)
        logprobs = model(input_ids=torch.tensor([[*asked, *answer]])).logits[0].log_softmax(-1)
        places = range(len(asked) - 1, len(asked) + len(answer) - 1)
        found.append(sum(logprobs[p, t] for p, t in zip(places, answer, strict=True)))
    return torch.stack(found)


@pytest.fixture(scope="module")
def models(base):
    settings = base().model_copy(update={"dtype": "float32"})
    reference, policy = (load_causal_lm(settings, device="cpu") for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.03 * torch.randn_like(weight))
    add_fused_lm_head(policy)
    add_fused_lm_head(reference)
    return policy.eval(), reference.eval(), load_chat_format(settings)


def batch_of(models, tmp_path, rows):
    """The shipped batch of rows, with the log-likelihoods of the reference."""
    _, reference, chat = models
    pairs = read_labelled(write(tmp_path, rows), chat, 200)
    found = training_rows(pairs.train)
    prompts, texts, _ = zip(*rows, strict=True)
    # The response to the next row with another prompt, written independently of the shipped rule.
    others = []
    for number, prompt in enumerate(prompts):
        later = [*range(number + 1, len(rows)), *range(number)]
        others.append(texts[next(place for place in later if prompts[place] != prompt)])
    with torch.no_grad():
        own = likelihoods(reference, chat, prompts, texts)
        foreign = likelihoods(reference, chat, prompts, others)
    for row, mine, theirs in zip(found, own, foreign, strict=True):
        row["reference"] = torch.stack([mine, theirs])
    batch = collate_with_labels(found, chat.pad_id)
    batch.pop("count")
    return batch, (prompts, texts, others, own, foreign)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_the_loss_is_the_expectation_under_the_label(models, tmp_path, weights):
    policy, _, chat = models
    good, bad = weights
    settings = KtoSettings(beta=0.3, desirable_weight=good, undesirable_weight=bad)
    rows = [(p, t, label) for (p, t, _), label in zip(ROWS[:6], LABELS, strict=True)]
    batch, (prompts, texts, others, own, foreign) = batch_of(models, tmp_path, rows)
    with torch.no_grad():
        ratios = likelihoods(policy, chat, prompts, texts) - own
        kl = (likelihoods(policy, chat, prompts, others) - foreign).mean().clamp(min=0).item()

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    wanted = [
        label * good * (1 - sigmoid(0.3 * (ratio - kl)))
        + (1 - label) * bad * (1 - sigmoid(0.3 * (kl - ratio)))
        for ratio, (_, _, label) in zip(ratios.tolist(), rows, strict=True)
    ]
    assert kto_loss(policy, batch, settings).tolist() == pytest.approx(wanted, rel=1e-4)


def test_with_hard_labels_loss_and_gradients_are_those_of_trl(models, base, tmp_path):
    policy = models[0]
    rows = [(prompt, text, float(label > 0.5)) for prompt, text, label in ROWS[:6]]
    batch, (_, _, _, own, foreign) = batch_of(models, tmp_path, rows)
    count = len(rows)
    masked = batch["labels"] != -100
    theirs_batch = {
        "input_ids": batch["input_ids"][:count],
        "attention_mask": batch["attention_mask"][:count],
        "completion_mask": masked[:count].long(),
        "KL_input_ids": batch["input_ids"][count:],
        "KL_attention_mask": batch["attention_mask"][count:],
        "KL_completion_mask": masked[count:].long(),
        "label": torch.tensor([bool(label) for _, _, label in rows]),
        "ref_logps": own,
        "ref_KL_logps": foreign,
    }
    policy.zero_grad()
    ours = kto_loss(policy, batch, KtoSettings(beta=0.3)).mean()
    ours.backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}

    theirs_policy = AutoModelForCausalLM.from_pretrained(base().path, dtype=torch.float32)
    theirs_policy.load_state_dict(policy.state_dict())
    add_fused_lm_head(theirs_policy, outputs=KTO_OUTPUTS)
    theirs_policy.eval()
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x)
    # The loss of TRL's trainer, without a trainer: it reads these attributes.
    trainer = SimpleNamespace(
        accelerator=accelerator,
        model=theirs_policy,
        calculate_KL=True,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        loss_type="kto",
        beta=0.3,
        desirable_weight=1.0,
        undesirable_weight=1.0,
        _metrics={"eval": defaultdict(list), "train": defaultdict(list)},
        args=SimpleNamespace(gradient_checkpointing=False),
        _total_train_tokens=0,
    )
    trainer._compute_kl_logps = partial(KTOTrainer._compute_kl_logps, trainer)
    theirs = KTOTrainer._compute_loss(trainer, theirs_policy, theirs_batch, False)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, weight in theirs_policy.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kto")
    return folder, train(folder, base())


def test_good_responses_become_likelier_than_bad_ones(undisturbed):
    _, metrics = undisturbed
    assert metrics["rows"] == 27
    assert metrics["final_loss"] < metrics["first_loss"]
    assert metrics["train_accuracy"] > 0.9
    assert metrics["train_desirable_log_ratio"] > metrics["train_undesirable_log_ratio"] + 0.5


def test_turned_labels_move_it_the_other_way(base, tmp_path):
    metrics = train(tmp_path, base(), [(p, t, 1 - label) for p, t, label in ROWS])
    texts = metrics["train_desirable_log_ratio"], metrics["train_undesirable_log_ratio"]
    assert texts[0] > texts[1] + 0.5


@pytest.mark.parametrize("passes", [3, 8])
def test_killed_and_resumed_training_ends_with_the_same_weights(
    passes, undisturbed, base, killed_after, tmp_path
):
    with killed_after(passes):
        train(tmp_path, base())
    resumed = train(tmp_path, base())
    one, other = (load_file(f / "model/model.safetensors") for f in (undisturbed[0], tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed["train_kl"] == undisturbed[1]["train_kl"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "x", 1.5), ("b", "y", 0.0)], "`desirable` is 1.5, which is not a probability"),
        ([("a", "x", 1.0), ("a", "y", 0.0)], "All rows of .* have the same prompt"),
        ([("a", "x" * 3000, 1.0), ("b", "y" * 3000, 0.0)], "longer than `max_length`"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(base, tmp_path, rows, said):
    settings = SETTINGS.model_copy(update={"max_length": 50})
    with pytest.raises(CaiError, match=said):
        train(tmp_path, base(), rows, settings)
