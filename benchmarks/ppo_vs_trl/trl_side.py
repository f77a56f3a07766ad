"""TRL's side, run by the Python of TRL's own environment: trl_side.py WORKLOAD RESULT MICRO.

With a fourth argument it also saves there, for each epoch, what TRL's own loop had in its hands
when it computed the losses (torch.save), for benchmarks/ppo_vs_trl/agreement.py.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

ROLLOUT = ("query_responses", "context_length", "logprobs", "ref_logprobs", "values", "scores",
           "rewards", "sequence_lengths", "padding_mask", "padding_mask_p1")  # fmt: skip
LOSSES = ("micro_batch_inds", "new_logprobs", "vpred", "mb_logprobs", "mb_advantage", "mb_return",
          "mb_values", "vf_loss", "pg_loss_max")  # fmt: skip


class Clock(TrainerCallback):
    """Notes the seconds of each step, by the clock and of the processor; saves snapshots after."""

    def __init__(self, policy, folder, every):
        self.policy, self.folder, self.every = policy, folder, every
        self.seconds, self.cpu_seconds = [], []

    def on_train_begin(self, *_, **__):
        self.start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start[0])
        self.cpu_seconds.append(time.process_time() - self.start[1])
        step = len(self.seconds) - 1
        if self.every and step % self.every == 0:  # the name is SNAPSHOT of workloads.py
            torch.save(self.policy.state_dict(), self.folder / f"snapshot-{step:03d}.pt")
        self.start = time.perf_counter(), time.process_time()


def normalise(model):
    """Let a preference model of cai score as it does there: mean 0, standard deviation 1."""
    std = getattr(model.config, "cai_score_std", 1.0)
    shift = -getattr(model.config, "cai_score_mean", 0.0) / std
    head = torch.nn.Linear(model.score.in_features, 1)
    head.weight = torch.nn.Parameter(model.score.weight.detach() / std)
    head.bias = torch.nn.Parameter(torch.tensor([shift]))
    model.score = head


def record_locals(tape):
    """Note the local variables of TRL's training loop whenever it averages or whitens."""

    def wrap(name):
        function = getattr(ppo_trainer, name)

        def wrapped(values, mask, *args, **kwargs):
            outcome = function(values, mask, *args, **kwargs)
            scope = sys._getframe(1).f_locals
            if name == "masked_whiten" and "advantages" in scope:
                kept = {key: scope[key] for key in ROLLOUT}
                kept |= {"advantages": values, "whitened": outcome, "returns": scope["returns"]}
                tape.append(("rollout", kept))
            if name == "masked_mean" and scope.get("pg_loss_max") is values:
                kept = {key: scope[key] for key in LOSSES} | {"pg_loss": outcome}
                tape.append(("losses", {k: torch.as_tensor(v).clone() for k, v in kept.items()}))
            return outcome

        setattr(ppo_trainer, name, wrapped)

    for name in ("masked_whiten", "masked_mean"):
        wrap(name)


def main():
    torch.set_num_threads(1)
    folder, result, micro = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    tape_file = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    workload = json.loads((folder / "workload.json").read_text())
    prompts = json.loads((folder / "prompts.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
    reference = AutoModelForCausalLM.from_pretrained(folder / "policy")
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "preference", num_labels=1)
        for _ in range(2)
    )
    normalise(reward)
    normalise(value)
    if tape_file:  # as VALUE_HEAD in workloads.py
        value.score.weight.data.mul_(0.5)
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=workload["batch_size"] // micro,
        num_mini_batches=workload["minibatches"],
        total_episodes=workload["batch_size"] * (workload["steps"] + 1),
        num_ppo_epochs=workload["epochs"],
        response_length=workload["max_new_tokens"],
        stop_token="eos",
        missing_eos_penalty=1.0,
        temperature=1.0,
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        kl_coef=workload["kl_coef"],
        gamma=workload["gamma"],
        lam=workload["lam"],
        cliprange=workload["clip_range"],
        cliprange_value=workload["clip_range"],
        seed=workload["seed"],
        num_sample_generations=0,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({"input_ids": prompts})
    clock, tape = Clock(policy, folder, workload["snapshot_every"]), []
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=dataset,
        eval_dataset=dataset,
        callbacks=[clock],
    )
    lengths = []
    truncate = ppo_trainer.truncate_response

    def count(stop, pad, responses):
        kept = truncate(stop, pad, responses)
        lengths.append((kept != pad).sum(1).tolist())
        return kept

    ppo_trainer.truncate_response = count
    trainer.log = lambda *_: None
    if tape_file:
        record_locals(tape)
    trainer.train()
    if tape_file:
        torch.save(tape, tape_file)
    measured = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "lengths": lengths}
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
