"""TRL's GRPOTrainer or RLOOTrainer on a workload: WORKLOAD RESULT MICRO grpo|rloo."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


class Clock(TrainerCallback):
    """Notes the seconds of each step, by the clock and of the processor."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.start = 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start[0])
        self.cpu_seconds.append(time.process_time() - self.start[1])
        self.start = time.perf_counter(), time.process_time()


def score(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Score as `IdScorer` of ours.py does."""
    return [sum(ids[-8:]) % 17 / 5 for ids in completion_ids]


def main() -> None:
    """Train; write the seconds and the response lengths of each step."""
    torch.set_num_threads(1)
    folder, result, micro = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    trainer_class, config_class = TRAINERS[sys.argv[4]]
    workload = json.loads((folder / "workload.json").read_text())
    prompts = json.loads((folder / "prompts.json").read_text())
    config = config_class(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=workload["batch_size"] // micro,
        num_generations=workload["method"]["samples_per_prompt"],
        num_iterations=workload["epochs"],
        max_completion_length=workload["max_new_tokens"],
        max_steps=workload["steps"] + 1,
        beta=workload["kl_coef"],
        temperature=1.0,
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        seed=workload["seed"],
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    clock = Clock()
    trainer: Any = trainer_class(
        model=str(folder / "policy"),
        reward_funcs=score,
        args=config,
        processing_class=AutoTokenizer.from_pretrained(folder / "policy", padding_side="left"),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(len(prompts))]}),
        callbacks=[clock],
    )
    # The prompts are ids already: those of the random Llama are no text.
    trainer._tokenize_prompts = lambda asked: ([prompts[int(i)] for i in asked], None, {})
    lengths: list[list[int]] = []
    generate = trainer._generate_single_turn

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = generate(*args, **kwargs)
        completions = found[0] if isinstance(found, tuple) else found
        lengths.append([len(ids) for ids in completions])
        return found

    trainer._generate_single_turn = counted
    trainer.log = lambda *_, **__: None
    trainer.train()
    measured = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "lengths": lengths}
    result.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
