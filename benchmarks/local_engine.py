"""The local engine against `model.generate` at its best batch size.

    python -m benchmarks.local_engine --json local_engine.json
    python -m benchmarks.local_engine --max-batch-tokens 16384

Both complete the same prompts with samples of the same lengths from the same weights. `generate`
gets them sorted by length, in batches of 16, 32 and 64, of which the fastest counts; a batch runs
until its longest completion is done. Mixed: prompts of 28 to 148 tokens, completions of 8 to 64.
Fixed: prompts of 64 tokens, completions of 64. Peak memory is what a process of its own takes
beyond the loaded model; that of `generate` counts at its fastest batch size. Where vLLM is
installed (`.venv-vllm/bin/python -m benchmarks.local_engine`), it is compared on the same lengths;
no ratio to it is wanted.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.ratios import alternate, conclude, options
from cai.engines.decode import DecodeLoop, TokenRequest
from cai.engines.vllm_arguments import engine_arguments, import_vllm
from cai.models.loading import PLAYGROUND, load_causal_lm
from cai.settings import ModelSettings

BATCHES = (16, 32, 64)
PAD_ID = 1
WANTED = {
    "tokens/s, playground model, mixed lengths": 1.5,
    "tokens/s, playground model, fixed lengths": 1.0,
    "peak memory, playground model, mixed lengths": 1.0,
}


def requests(count: int, *, mixed: bool) -> list[TokenRequest]:
    """Return prompts of random tokens, each with its own length and length of completion."""
    rng = np.random.default_rng(0)
    made: list[TokenRequest] = []
    for seed in range(count):
        length, new = (rng.integers(28, 149), rng.integers(8, 65)) if mixed else (64, 64)
        ids = tuple(rng.integers(5, 1000, length).tolist())
        made.append(TokenRequest(ids, seed, max_tokens=int(new)))
    return made


def ours(model: torch.nn.Module, wanted: list[TokenRequest], max_batch_tokens: int) -> float:
    """Return the seconds that the local engine takes; nothing but its length ends a completion."""
    loop = DecodeLoop(model, stop_ids=(), max_batch_tokens=max_batch_tokens)
    started = time.perf_counter()
    completions = loop.run(wanted)
    seconds = time.perf_counter() - started
    assert [len(c.token_ids) for c in completions] == [r.max_tokens for r in wanted]
    return seconds


@torch.inference_mode()
def theirs(model: torch.nn.Module, wanted: list[TokenRequest], batch: int) -> float:
    """Return the seconds that `generate` takes."""
    started = time.perf_counter()
    waiting = sorted(wanted, key=lambda request: len(request.prompt_ids))
    for begin in range(0, len(waiting), batch):
        some = waiting[begin : begin + batch]
        longest = max(len(request.prompt_ids) for request in some)
        ids = torch.full((len(some), longest), PAD_ID)
        for row, request in zip(ids, some, strict=True):
            row[longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        lengths = torch.tensor([[len(request.prompt_ids)] for request in some])
        new = max(request.max_tokens for request in some)
        model.generate(  # pyright: ignore[reportCallIssue]
            ids,
            attention_mask=torch.arange(longest) >= longest - lengths,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=new,
            min_new_tokens=new,
            eos_token_id=0,
            pad_token_id=PAD_ID,
        )
    return time.perf_counter() - started


class BareVLLM:
    """vLLM alone, in this process, on the playground model."""

    def __init__(self) -> None:
        """Start it."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._vllm = import_vllm()
        settings = ModelSettings(path="playground", engine="vllm", dtype="float32")
        self._llm = self._vllm.LLM(**engine_arguments(settings, PLAYGROUND))

    def seconds(self, wanted: list[TokenRequest]) -> float:
        """Return the seconds that it takes, with draws of its own as `generate` has them."""
        started = time.perf_counter()
        self._llm.reset_prefix_cache()
        self._llm.generate(
            [{"prompt_token_ids": list(request.prompt_ids)} for request in wanted],
            [
                self._vllm.SamplingParams(
                    max_tokens=request.max_tokens, ignore_eos=True, detokenize=False
                )
                for request in wanted
            ],
            use_tqdm=False,
        )
        return time.perf_counter() - started


def best(model: torch.nn.Module, wanted: list[TokenRequest], fastest: Counter[int]) -> float:
    """Return the seconds of `generate` at its best batch size, and count which one that is."""
    seconds = {batch: theirs(model, wanted, batch) for batch in BATCHES}
    fastest[min(seconds, key=lambda batch: seconds[batch])] += 1
    return min(seconds.values())


def peak_memory(side: Callable[..., float], arguments: tuple[object, ...], threads: int) -> float:
    """Return the MiB that a side takes beyond the loaded model, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (side, arguments, threads))


def _measured(side: Callable[..., float], arguments: tuple[object, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    model = load_causal_lm(ModelSettings(path="playground"), device="cpu")
    model(torch.tensor([[5, 6]]))  # what is loaded on first use belongs to the libraries
    # Linux sets the high-water mark back to what is resident now. getrusage's would not do: it
    # starts at the parent's size and counts what loading took.
    Path("/proc/self/clear_refs").write_text("5")
    before = _mebibytes("VmRSS")
    side(model, *arguments)
    return _mebibytes("VmHWM") - before


def _mebibytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> int:
    """Measure, print and save."""
    parser = options(__doc__ or "", rounds=5)
    parser.add_argument("--count", type=int, default=256, help="completions")
    parser.add_argument("--max-batch-tokens", type=int, default=8192, help="of the local engine")
    chosen = parser.parse_args()
    most: int = chosen.max_batch_tokens
    torch.set_num_threads(chosen.threads)
    model = load_causal_lm(ModelSettings(path="playground"), device="cpu")
    ratios: dict[str, list[float]] = {}
    speeds: dict[str, str] = {}
    bare = BareVLLM() if find_spec("vllm") else None
    fastest: dict[str, Counter[int]] = {"mixed": Counter(), "fixed": Counter()}
    for lengths, counts in fastest.items():
        wanted = requests(chosen.count, mixed=lengths == "mixed")
        mine, peers = alternate(
            chosen.rounds, partial(ours, model, wanted, most), partial(best, model, wanted, counts)
        )
        label = f"tokens/s, playground model, {lengths} lengths"
        ratios[label] = [their / our for our, their in zip(mine, peers, strict=True)]
        tokens = sum(request.max_tokens for request in wanted)
        speeds[f"new tokens/s, {lengths}"] = (
            f"engine {tokens / min(mine):.0f}, generate {tokens / min(peers):.0f}"
        )
        if bare is not None:
            mine, peers = alternate(
                chosen.rounds, partial(ours, model, wanted, most), partial(bare.seconds, wanted)
            )
            label = f"tokens/s over vLLM, playground model, {lengths} lengths"
            ratios[label] = [their / our for our, their in zip(mine, peers, strict=True)]
    wanted = requests(chosen.count, mixed=True)
    memory = peak_memory(ours, (wanted, most), chosen.threads)
    peers_memory = {b: peak_memory(theirs, (wanted, b), chosen.threads) for b in BATCHES}
    [(batch, _)] = fastest["mixed"].most_common(1)
    ratios["peak memory, playground model, mixed lengths"] = [peers_memory[batch] / memory]
    said = ", ".join(f"{mebibytes:.0f} at {b}" for b, mebibytes in peers_memory.items())
    speeds["MiB beyond the model, mixed"] = f"engine {memory:.0f}, generate {said}"
    speeds["fastest batch of generate"] = str(batch)
    speeds["max_batch_tokens"] = str(most)
    return conclude("local_engine", ratios, WANTED, chosen.json, **speeds)


if __name__ == "__main__":
    sys.exit(main())
