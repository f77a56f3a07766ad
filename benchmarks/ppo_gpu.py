"""PPO on a GPU: tokens a second, the fraction of the peak, where memory and time go.

    python -m benchmarks.ppo_gpu --json ppo_gpu.json

Random weights of the shape of a 0.5B and an 8B model, in bfloat16, with LoRA: policy, reference,
critic and preference model are one base in memory. Each step samples, scores and updates as a run
does; the first one warms up. The peak is a product of large bfloat16 matrices, measured here.
Without a GPU it says so and measures nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.machine import machine
from benchmarks.ratios import llama_config
from benchmarks.show import markdown_table
from cai.engines.decode import TokenCompletion, TokenRequest
from cai.models.chat import ChatFormat
from cai.ppo.learner import Learner
from cai.ppo.loading import judge_on
from cai.ppo.prompts import TokenPrompt
from cai.ppo.rewards import Reward
from cai.ppo.rollout import collect_rollout
from cai.ppo.sampling import sample_here
from cai.ppo.update import update
from cai.settings import PPOSettings
from cai.training.lora import AdapterWeights

RANK = 16


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and how much of it a step does."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    batch: int = 128
    prompt: int = 256
    response: int = 256


SHAPES = (
    Shape("0.5B", 896, 4864, 24, 14, 2, 151_936, tied=True),
    Shape("8B", 4096, 14_336, 32, 32, 8, 128_256, tied=False),
)


class Clock:
    """Seconds by phase; the device has finished its work when a phase begins and ends."""

    def __init__(self, device: torch.device) -> None:
        """Start with nothing."""
        self._device = device
        self.seconds: dict[str, float] = {"sampling": 0.0, "scoring": 0.0, "update": 0.0}
        self.peaks: dict[str, int] = {"sampling": 0, "scoring": 0, "update": 0}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Count what is done inside."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - started
        if self._device.type == "cuda":
            self.peaks[name] = max(self.peaks[name], torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()

    def sample(self, learner: Learner, requests: Sequence[TokenRequest]) -> list[TokenCompletion]:
        """Sample for a learner; its time is taken off `scoring`, inside which it runs."""
        before = self.seconds["sampling"]
        with self.phase("sampling"):
            completions = sample_here(learner, requests)
        self.seconds["scoring"] -= self.seconds["sampling"] - before
        return list(completions)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def random_learner(
    shape: Shape, settings: PPOSettings, device: torch.device, dtype: torch.dtype
) -> tuple[Learner, Reward]:
    """Make four roles on one random base."""
    torch.manual_seed(0)
    config = llama_config(
        vocabulary=shape.vocabulary,
        hidden=shape.hidden,
        inner=shape.inner,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        context=shape.prompt + shape.response,
        end=0,
        pad=1,
        tied=shape.tied,
    )
    with device:
        policy = cast("Any", AutoModelForCausalLM.from_config(config, dtype=dtype))
    matrices: dict[str, Tensor] = {}
    for name, module in policy.base_model.named_modules():
        if isinstance(module, nn.Linear):
            matrices[f"{name}.lora_A"] = torch.randn(RANK, module.in_features) / RANK
            matrices[f"{name}.lora_B"] = torch.zeros(module.out_features, RANK)
    adapter = AdapterWeights(matrices, torch.randn(1, shape.hidden), RANK)
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"</s>": 0, "<pad>": 1, "?": 2}, unk_token="?")),
        eos_token="</s>",
        pad_token="<pad>",
    )
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chat = ChatFormat(words)
    learner = Learner.start(
        policy,
        None,
        chat,
        settings,
        dtype=dtype,
        max_batch_tokens=shape.batch * (shape.prompt + shape.response),
        preference_adapter=adapter,
    )
    judge = judge_on(policy, adapter, chat, 0.0, 1.0)
    return learner, Reward({"preference": (judge, 1.0)})


def flops(learner: Learner, settings: PPOSettings, tokens: int) -> float:
    """Return the operations of a step's matrix products on so many tokens, attention left out.

    Two per weight and token forward; as many back through frozen weights, whose own gradients LoRA
    never forms. Sampling, preference model, reference, critic and (in bfloat16) the policy once
    more go forward; policy and critic go forward and back in each epoch.
    """
    policy = cast("Any", learner.policy)
    head = policy.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for p in policy.base_model.parameters())
    layers -= policy.get_input_embeddings().weight.numel()
    again = learner.dtype != torch.float32
    forward = (4 + again) * layers + (2 + again) * head
    update = settings.epochs * (2 * 2 * layers + 2 * head)
    return 2.0 * tokens * (forward + update)


def peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return operations a second in a product of large matrices."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(2):  # the first time warms up
        clock = Clock(device)
        with clock.phase("update"):
            for _ in range(10):
                torch.matmul(a, a)
        best = max(best, 10 * 2 * size**3 / clock.seconds["update"])
    return best


def roles(learner: Learner) -> dict[str, int]:
    """Return the bytes that stay in memory, by role."""

    def size(tensors: Sequence[Tensor]) -> int:
        return sum(
            x.numel() * x.element_size() for x in {x.data_ptr(): x for x in tensors}.values()
        )

    optimizers = learner.optimizers
    moments = [x for o in optimizers.values() for s in o.inner.state.values() for x in s.values()]
    trained = [x for o in optimizers.values() for x in o.parameters]
    own = {id(x) for x in trained}
    everything = list(learner.policy.parameters())
    adapters = [
        p for name, p in learner.policy.named_parameters() if "preference" in name.split(".")
    ]
    own |= {id(x) for x in adapters}
    return {
        "shared base": size([p for p in everything if id(p) not in own]),
        "policy": size(optimizers["policy"].parameters),
        "critic": size(optimizers["critic"].parameters),
        "preference model": size(adapters),
        "gradients": size([p.grad for p in trained if p.grad is not None]),
        "Adam": size(moments),
    }


def measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, *, steps: int, product: int = 8192
) -> dict[str, Any]:
    """Run steps of PPO and say what they took.

    Args:
        shape: Of the models and the batch.
        device: Where.
        dtype: Of the base, and of autocast.
        steps: Measured; one more comes before them.
        product: Rows of the matrices whose product is the peak.
    """
    settings = PPOSettings(
        steps=steps + 1,
        batch_size=shape.batch,
        max_new_tokens=shape.response,
        no_eos_reward=None,
        lora_rank=RANK,
        gradient_checkpointing=shape.layers * shape.hidden > 2**16,
    )
    best = peak(device, dtype, product)
    learner, reward = random_learner(shape, settings, device, dtype)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(3, shape.vocabulary, (shape.batch, shape.prompt), generator=generator)
    prompts = [TokenPrompt(tuple(ids)) for ids in drawn.tolist()]
    clock, tokens, sampled = Clock(device), 0, 0
    for step in range(steps + 1):
        if step == 1:
            clock, tokens, sampled = Clock(device), 0, 0
        learner.sampler = clock.sample
        with clock.phase("scoring"):
            rollout = collect_rollout(learner, prompts, reward, settings, seed=0, step=step)
        with clock.phase("update"):
            update(learner, rollout, settings, seed=0, step=step)
        print(f"{shape.name}: step {step} of {steps}: {sum(clock.seconds.values()):.1f} s in all")
        tokens += int(rollout.episodes.lengths_B.sum())
        sampled += int(rollout.episodes.response_lengths_B.sum())
    seconds = sum(clock.seconds.values())
    return {
        "shape": asdict(shape),
        "seconds_per_step": seconds / steps,
        "sampled_tokens_per_second": sampled / seconds,
        "sampled_tokens_per_second_of_sampling": sampled / clock.seconds["sampling"],
        "trained_tokens_per_second_of_update": settings.epochs * tokens / clock.seconds["update"],
        "fraction_of_peak": flops(learner, settings, tokens) / seconds / best,
        "peak_tflops": best / 1e12,
        "time": {phase: spent / seconds for phase, spent in clock.seconds.items()},
        "memory": roles(learner),
        "peak_memory": clock.peaks,
    }


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Lay the results out, one column a model."""

    def gigabytes(n: int) -> str:
        return f"{n / 1e9:.2f}"

    rows: list[tuple[str, ...]] = [
        ("seconds per step", *(f"{r['seconds_per_step']:.1f}" for r in results)),
        ("sampled tokens/s", *(f"{r['sampled_tokens_per_second']:.0f}" for r in results)),
        ("fraction of peak", *(f"{r['fraction_of_peak']:.2f}" for r in results)),
    ]
    for part, form in (
        ("time", "{:.0%}".format),
        ("memory", gigabytes),
        ("peak_memory", gigabytes),
    ):
        named = {"time": "time: ", "memory": "GB: ", "peak_memory": "peak GB while "}[part]
        rows += [
            (f"{named}{name}", *(form(r[part][name]) for r in results)) for name in results[0][part]
        ]
    return markdown_table(("", *(r["shape"]["name"] for r in results)), rows)


def main() -> int:
    """Measure every shape that fits, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=[shape.name for shape in SHAPES])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU here: nothing is measured. Run this where torch.cuda.is_available().")
        return 0
    device, results = torch.device("cuda"), list[dict[str, Any]]()
    for shape in SHAPES:
        if options.only in (None, shape.name):
            results.append(measure(shape, device, torch.bfloat16, steps=options.steps))
            torch.cuda.empty_cache()
    print(tables(results))
    about = {**machine(), "gpu": torch.cuda.get_device_name()}
    print(about)
    if options.json:
        found = {"name": "ppo_gpu", "machine": about, "results": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
