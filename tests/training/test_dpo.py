"""Direct preference optimisation on soft labels."""

import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from cai.data.conversation import Prompt, user
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import load_causal_lm, load_chat_format
from cai.settings import DpoSettings, ModelSettings
from cai.training.dpo import dpo_loss, train_dpo
from cai.training.dpo_losses import PAIR_LOSSES, expected_loss
from cai.training.ratios import collate_with_labels
from cai.training.snapshots import snapshots

FILE = "model.safetensors"
PAIRS = [
    (f"Here is line {i}." + " Fine." * (i % 4), "No." + " Never." * (i % 3), 0.5 + (i % 13) / 24)
    for i in range(26)
]
SETTINGS = DpoSettings(batch_size=8, micro_batch_size=4, epochs=2, learning_rate=5e-3)


def train(out, base, data, settings=SETTINGS, seed=5):
    return train_dpo(
        settings, data=data, base=base, out=out / "model", seed=seed, log_dir=out / "logs"
    )


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same(first, second, atol=0.0):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=atol, msg=name)


def ids_of(chat: ChatFormat, pair):
    chosen, rejected, _ = pair
    prompt = chat.prompt_ids(Prompt(user("Write a line.")))
    return prompt, chat.completion_ids(chosen), chat.completion_ids(rejected)


def rows_of(chat, pairs, references=None):
    rows = []
    for number, pair in enumerate(pairs):
        prompt, chosen, rejected = ids_of(chat, pair)
        rows.append(
            {
                "chosen_ids": [*prompt, *chosen],
                "rejected_ids": [*prompt, *rejected],
                "prompt_tokens": len(prompt),
                "probability": pair[2],
                "weight": 1.0,
                "reference": torch.zeros(2) if references is None else references[number],
            }
        )
    return rows


def loss_of(model, chat, pairs, settings, references):
    """The shipped loss of a batch, `(B,)`."""
    batch = collate_with_labels(rows_of(chat, pairs, references), chat.pad_id)
    batch.pop("count")
    return dpo_loss(model, batch, settings)


def naive_likelihoods(model, chat, pairs):
    """(2,) nats for each pair: token by token, without batches or padding."""
    found = []
    for pair in pairs:
        prompt, *answers = ids_of(chat, pair)
        sums = []
        for answer in answers:
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
            logprobs = logits.float().log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            sums.append(sum(logprobs[p, t] for p, t in zip(places, answer, strict=True)))
        found.append(torch.stack(sums))
    return torch.stack(found)


@pytest.fixture(scope="module")
def models(base):
    """A policy, and a reference with other weights, both with TRL's fused head."""
    settings = base()
    reference = load_causal_lm(settings.model_copy(update={"dtype": "float32"}), device="cpu")
    policy = load_causal_lm(settings.model_copy(update={"dtype": "float32"}), device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.03 * torch.randn_like(weight))
    add_fused_lm_head(policy)
    return policy.eval(), reference.eval(), load_chat_format(settings)


def logistic(x):
    return 1 / (1 + math.exp(-x))


EXPECTED = {
    "sigmoid": lambda b, w, beta: math.log1p(math.exp(-beta * (b - w))),
    "hinge": lambda b, w, beta: max(0.0, 1 - beta * (b - w)),
    "ipo": lambda b, w, beta: (b - w - 1 / (2 * beta)) ** 2,
    "apo_zero": lambda b, w, beta: (
        1 - 1 / (1 + math.exp(-beta * b)) + 1 / (1 + math.exp(-beta * w))
    ),
    "apo_down": lambda b, w, beta: (
        1 / (1 + math.exp(-beta * b)) + 1 - 1 / (1 + math.exp(-beta * (b - w)))
    ),
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (1.5, -2.0), (-3.0, 0.5)])
def test_the_loss_is_the_expectation_under_the_label(name, probability, first, second):
    plain = EXPECTED[name]
    wanted = probability * plain(first, second, 0.2) + (1 - probability) * plain(second, first, 0.2)
    found = expected_loss(
        PAIR_LOSSES[name],
        torch.tensor([first], dtype=torch.float64),
        torch.tensor([second], dtype=torch.float64),
        torch.tensor([probability], dtype=torch.float64),
        0.2,
    )
    assert found.item() == pytest.approx(wanted)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_labels_p_and_one_minus_p_have_mirrored_gradients(name):
    def gradients(first, second, probability):
        ratios = torch.tensor([first, second], dtype=torch.float64, requires_grad=True)
        one, two = ratios.chunk(2)
        label = torch.tensor([probability], dtype=torch.float64)
        expected_loss(PAIR_LOSSES[name], one, two, label, 0.2).sum().backward()
        return ratios.grad.tolist()

    assert gradients(1.5, -2.0, 0.8) == pytest.approx(gradients(-2.0, 1.5, 1 - 0.8)[::-1])
    if not name.startswith("apo"):
        assert gradients(0.0, 0.0, 0.5) == pytest.approx([0.0, 0.0])
        up, down = gradients(0.0, 0.0, 0.9), gradients(0.0, 0.0, 0.1)
        assert up == pytest.approx([-one for one in down])
        assert up[0] < 0 < up[1]


@pytest.mark.parametrize("changes", [{}, {"loss": "ipo"}, {"normalise_length": True}])
def test_likelihoods_are_those_of_the_responses_alone(models, changes):
    policy, reference, chat = models
    settings = DpoSettings(beta=0.3, **changes)
    pairs = PAIRS[:5]
    known, now = naive_likelihoods(reference, chat, pairs), naive_likelihoods(policy, chat, pairs)
    ratios = (now - known).detach()
    if changes:
        lengths = [[len(ids_of(chat, pair)[side]) for side in (1, 2)] for pair in pairs]
        ratios = ratios / torch.tensor(lengths)
    wanted = [
        p * EXPECTED[settings.loss](a, b, 0.3) + (1 - p) * EXPECTED[settings.loss](b, a, 0.3)
        for (a, b), (_, _, p) in zip(ratios.tolist(), pairs, strict=True)
    ]
    found = loss_of(policy, chat, pairs, settings, known)
    assert found.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_with_hard_labels_loss_and_gradients_are_those_of_trl(name, models, base, tmp_path):
    policy, reference, chat = models
    pairs = [(chosen, rejected, 1.0) for chosen, rejected, _ in PAIRS[:6]]
    policy.zero_grad()
    known = naive_likelihoods(reference, chat, pairs).detach()
    ours = loss_of(policy, chat, pairs, DpoSettings(beta=0.3, loss=name), known).mean()
    ours.backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}

    theirs_policy = AutoModelForCausalLM.from_pretrained(base().path, dtype=torch.float32)
    theirs_policy.load_state_dict(policy.state_dict())
    theirs_reference = AutoModelForCausalLM.from_pretrained(base().path, dtype=torch.float32)
    ids = [ids_of(chat, pair) for pair in pairs]
    texts = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(
        theirs_policy,
        theirs_reference,
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=0.3,
            loss_type=[name],
            per_device_train_batch_size=len(pairs),
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            disable_dropout=True,
        ),
        train_dataset=texts,
        processing_class=chat.tokenizer,
    )
    batch = DataCollatorForPreference(chat.pad_id)(
        [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in ids]
    )
    theirs = trainer.compute_loss(trainer.model.eval(), batch)
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for parameter, weight in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[parameter], weight.grad, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def undisturbed(base, comparisons, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder, base(), comparisons(PAIRS))


def test_the_policy_moves_towards_the_likelier_response(undisturbed):
    _, metrics = undisturbed
    assert metrics["first_loss"] == pytest.approx(math.log(2), rel=1e-3)
    assert metrics["final_loss"] < metrics["first_loss"]
    assert metrics["train_accuracy"] > 0.9
    assert metrics["train_margin"] == pytest.approx(
        metrics["train_chosen_log_ratio"] - metrics["train_rejected_log_ratio"], rel=1e-4
    )
    assert metrics["train_margin"] > 0.5
    assert metrics["rows"] == 26


def test_labels_below_one_half_move_it_the_other_way(base, comparisons, tmp_path):
    turned = [(chosen, rejected, 1 - p) for chosen, rejected, p in PAIRS]
    metrics = train(tmp_path, base(), comparisons(turned))
    assert metrics["train_accuracy"] > 0.9
    assert metrics["train_margin"] < -0.5


def test_labels_of_one_half_leave_the_policy_as_it_is(base, comparisons, tmp_path):
    even = [(chosen, rejected, 0.5) for chosen, rejected, _ in PAIRS]
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 26, "micro_batch_size": 26})
    metrics = train(tmp_path, base(), comparisons(even), settings)
    assert "train_accuracy" not in metrics
    assert abs(metrics["train_margin"]) < 1e-3


@pytest.mark.parametrize("passes", [3, 9])
def test_killed_and_resumed_training_ends_with_the_same_weights(
    passes, undisturbed, base, comparisons, killed_after, tmp_path
):
    with killed_after(passes):
        train(tmp_path, base(), comparisons(PAIRS))
    resumed = train(tmp_path, base(), comparisons(PAIRS))
    assert_same(weights(undisturbed[0]), weights(tmp_path))
    assert resumed["train_margin"] == undisturbed[1]["train_margin"]


def test_adapters_start_from_the_reference(base, comparisons, tmp_path):
    settings = SETTINGS.model_copy(update={"lora_rank": 2, "learning_rate": 2e-2, "epochs": 4})
    metrics = train(tmp_path, base(), comparisons(PAIRS), settings)
    assert metrics["first_loss"] == pytest.approx(math.log(2), rel=1e-3)
    assert metrics["train_margin"] > 0.2


def test_micro_batches_change_memory_not_results(undisturbed, base, comparisons, tmp_path):
    settings = SETTINGS.model_copy(update={"micro_batch_size": 2})
    metrics = train(tmp_path, base(), comparisons(PAIRS), settings)
    assert_same(weights(undisturbed[0]), weights(tmp_path), atol=2e-4)
    assert metrics["final_loss"] == pytest.approx(undisturbed[1]["final_loss"], rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}])
def test_snapshots_are_the_policy_of_their_step_and_change_nothing(
    changes, base, comparisons, killed_after, tmp_path
):
    settings = SETTINGS.model_copy(update=changes)
    plain = train(tmp_path / "plain", base(), comparisons(PAIRS), settings)
    kept = settings.model_copy(update={"snapshot_steps": 2})
    found = train(tmp_path / "kept", base(), comparisons(PAIRS), kept)
    assert found | {"seconds": 0} == plain | {"seconds": 0}
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "kept"))
    found = snapshots(tmp_path / "kept")
    assert list(found) == [2, 4, 6]  # of 8 steps
    policy = load_causal_lm(ModelSettings(path=str(found[4])))
    assert policy.config.use_cache
    assert load_chat_format(ModelSettings(path=str(found[4]))).stop_ids

    # The trainer's own checkpoint of step 2, of a training that was killed later.
    stopped = kept.model_copy(update={"checkpoint_steps": 2})
    with killed_after(7):
        train(tmp_path / "killed", base(), comparisons(PAIRS), stopped)
    checkpoint = tmp_path / "killed/checkpoints/checkpoint-2"
    if not changes:
        assert_same(load_file(checkpoint / "model.safetensors"), load_file(found[2] / FILE))
    train(tmp_path / "killed", base(), comparisons(PAIRS), stopped)
    assert list(snapshots(tmp_path / "killed")) == [2, 4, 6]
    for step in (2, 4, 6):
        again = snapshots(tmp_path / "killed")[step]
        assert_same(load_file(again / FILE), load_file(found[step] / FILE))
    assert not same(load_file(found[2] / FILE), load_file(found[6] / FILE))


def test_snapshots_of_other_settings_are_removed(base, comparisons, tmp_path):
    (tmp_path / "snapshots/step-000003").mkdir(parents=True)
    (tmp_path / "snapshots/step-000040").mkdir()
    kept = SETTINGS.model_copy(update={"snapshot_steps": 4})
    train(tmp_path, base(), comparisons(PAIRS), kept)
    assert list(snapshots(tmp_path)) == [4]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_rows_that_are_all_too_long_are_refused(base, comparisons, tmp_path):
    with pytest.raises(CaiError, match="longer than `max_length` 4"):
        train(tmp_path, base(), comparisons(PAIRS), SETTINGS.model_copy(update={"max_length": 4}))
