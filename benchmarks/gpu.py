"""Generation on a GPU: an 8B-shaped model of random weights, against bare vLLM or `generate`.

    python -m benchmarks.gpu --json gpu.json

The same prompts through cai's engine and through what it is built on: vLLM where it is installed
(cai's `vllm` engine against `vllm.LLM`), else transformers (the local engine against
`model.generate`). Beside the ratio, how near the limits it is: bytes that a decoding step must read
(weights, and the states of all rows) over what a copy reaches on this device, and operations of the
prompts over what a matrix product reaches. Both limits are measured in the same run.

Without a GPU it measures nothing, says so and exits with 0.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.ratios import alternate, conclude, llama_config, options
from cai.data.conversation import Prompt, user
from cai.engines import Engine, GenerateRequest
from cai.engines.transformers import TransformersEngine
from cai.models.chat import ChatFormat
from cai.models.loading import PLAYGROUND, load_chat_format
from cai.settings import ModelSettings

WORDS = ("which", "answer", "is", "kind", "honest", "clear", "short", "and", "safe", "at", "home")


@dataclass(frozen=True)
class Shape:
    """A Llama model and what it is asked to do."""

    hidden: int = 4096
    inner: int = 14336
    layers: int = 32
    heads: int = 32
    key_value_heads: int = 8
    vocabulary: int = 128256
    context: int = 2048
    rows: int = 256
    prompt_words: int = 200
    new_tokens: int = 256
    square: int = 8192
    """Side of the matrices that measure the device's limits."""

    def config(self) -> LlamaConfig:
        """Return the model's configuration."""
        return llama_config(
            vocabulary=self.vocabulary,
            hidden=self.hidden,
            inner=self.inner,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.key_value_heads,
            context=self.context,
            end=0,
        )

    def bytes_of_states(self, size: int) -> int:
        """Return the bytes of keys and values of one token, each number of `size` bytes."""
        return 2 * self.layers * self.key_value_heads * (self.hidden // self.heads) * size


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Make a model of random weights, on the device from the start."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with device:
        model = LlamaForCausalLM(shape.config()).eval()
    torch.set_default_dtype(default)
    return model


def save(shape: Shape, folder: Path) -> None:
    """Save the configuration, a tokenizer, and for weights an empty file that nothing reads."""
    shape.config().save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    AutoTokenizer.from_pretrained(PLAYGROUND).save_pretrained(folder)


def requests(shape: Shape) -> list[GenerateRequest]:
    """Return the prompts: words of which no two rows have the same first ones."""
    texts = (
        " ".join(WORDS[(row * 7 + place * (row + 1)) % len(WORDS)] for place in range(length))
        for row in range(shape.rows)
        for length in [shape.prompt_words - row % (shape.prompt_words // 4 or 1)]
    )
    return [
        GenerateRequest(Prompt(user(f"{row} {text}")), seed=row, max_tokens=shape.new_tokens)
        for row, text in enumerate(texts)
    ]


def seconds(body: Callable[[], Any], device: torch.device) -> float:
    """Return how long a call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    body()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def limits(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Return the bytes and the operations per second that a copy and a matrix product reach."""
    left, right = (
        torch.randn(shape.square, shape.square, device=device, dtype=dtype) for _ in "ab"
    )
    out = torch.empty_like(left)
    copies = min(seconds(lambda: out.copy_(left), device) for _ in range(5))
    products = min(seconds(lambda: torch.matmul(left, right, out=out), device) for _ in range(5))
    return 2 * left.nbytes / copies, 2 * shape.square**3 / products


async def through(engine: Engine, asked: Sequence[GenerateRequest]) -> int:
    """Ask an engine everything at once; return the new tokens."""
    said = await asyncio.gather(*map(engine.generate, asked))
    return sum(len(completion.token_ids) for completion in said)


@torch.inference_mode()
def plain_generate(model: Any, prompts: Sequence[Sequence[int]], shape: Shape) -> int:  # noqa: ANN401
    """Complete prompts with `model.generate`, all in one batch; return the new tokens."""
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=model.device)
        mask[row, longest - len(prompt) :] = 1
    out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        max_new_tokens=shape.new_tokens,
        min_new_tokens=shape.new_tokens,
        pad_token_id=0,
    )
    return (out.shape[1] - longest) * len(prompts)


@dataclass
class Sides:
    """What is compared, and how to stop it."""

    name: str
    ours: Callable[[], int]
    theirs: Callable[[], int]
    close: Callable[[], None]


def transformers_sides(
    shape: Shape, chat: ChatFormat, device: torch.device, dtype: torch.dtype
) -> Sides:
    """Return the local engine and `generate` on one model."""
    model = random_model(shape, device, dtype)
    asked = requests(shape)
    engine = TransformersEngine(
        model, chat, name="", fingerprint="", max_batch_tokens=shape.rows * shape.context
    )
    prompts = [chat.prompt_ids(request.prompt) for request in asked]
    runner = asyncio.Runner()
    return Sides(
        "tokens/s, local engine over model.generate in one batch",
        lambda: runner.run(through(engine, asked)),
        lambda: plain_generate(model, prompts, shape),
        lambda: runner.run(engine.close()),
    )


def vllm_sides(shape: Shape, chat: ChatFormat, folder: Path, dtype: torch.dtype) -> Sides:
    """Return cai's `vllm` engine and bare vLLM, each with the model's weights made up."""
    from cai.engines.vllm import VLLMEngine
    from cai.engines.vllm_arguments import engine_arguments, import_vllm

    asked = requests(shape)
    prompts = [{"prompt_token_ids": chat.prompt_ids(request.prompt)} for request in asked]
    # Both are in memory at once.
    more = {"load_format": "dummy", "gpu_memory_utilization": 0.45}
    settings = ModelSettings(path=str(folder), engine="vllm", dtype=_named(dtype), options=more)
    vllm = import_vllm()
    bare = vllm.LLM(**engine_arguments(settings, folder))
    runner = asyncio.Runner()

    async def opened() -> VLLMEngine:
        return VLLMEngine(settings, chat, fingerprint="")

    engine = runner.run(opened())
    parameters = [
        vllm.SamplingParams(
            max_tokens=request.max_tokens,
            seed=request.seed,
            logprobs=0,
            stop_token_ids=sorted(chat.stop_ids),
        )
        for request in asked
    ]

    def theirs() -> int:
        said = bare.generate(prompts, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in said)

    return Sides(
        "tokens/s, cai's vllm engine over bare vLLM",
        lambda: runner.run(through(engine, asked)),
        theirs,
        lambda: runner.run(engine.close()),
    )


def measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, *, rounds: int, vllm: bool
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the ratios, and how near the device's limits the engine comes."""
    bandwidth, arithmetic = limits(shape, device, dtype)
    counted: dict[str, int] = {}

    def timed(name: str, side: Callable[[], int]) -> float:
        def body() -> None:
            counted[name] = side()

        return seconds(body, device)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(shape, folder)
        chat = load_chat_format(ModelSettings(path=str(PLAYGROUND)))
        sides = (
            vllm_sides(shape, chat, folder, dtype)
            if vllm
            else transformers_sides(shape, chat, device, dtype)
        )
        ours, theirs = alternate(
            rounds, partial(timed, "ours", sides.ours), partial(timed, "theirs", sides.theirs)
        )
        sides.close()
    speeds = [
        (counted["ours"] / our) / (counted["theirs"] / their)
        for our, their in zip(ours, theirs, strict=True)
    ]
    best = min(ours)
    parameters = _parameters(shape)
    size = torch.empty((), dtype=dtype).element_size()
    prompt = sum(len(chat.prompt_ids(request.prompt)) for request in requests(shape))
    # Every row reads the weights together with the others, and its own states alone.
    steps = counted["ours"] / shape.rows
    columns = prompt / shape.rows + steps / 2
    read = steps * (parameters * size + shape.rows * columns * shape.bytes_of_states(size))
    operations = 2 * parameters * (prompt + counted["ours"])
    return {sides.name: speeds}, {
        "shape": asdict(shape),
        "parameters": parameters,
        "new tokens/s": round(counted["ours"] / best, 1),
        "fraction of memory bandwidth": round(read / best / bandwidth, 4),
        "fraction of arithmetic": round(operations / best / arithmetic, 4),
        "bytes/s of a copy": round(bandwidth),
        "operations/s of a matrix product": round(arithmetic),
    }


def _parameters(shape: Shape) -> int:
    """Count the weights that every token passes through (not the embedding table)."""
    head = shape.hidden // shape.heads
    attention = 2 * shape.hidden**2 + 2 * shape.hidden * head * shape.key_value_heads
    layer = attention + 3 * shape.hidden * shape.inner
    return shape.layers * layer + shape.hidden * shape.vocabulary


def _named(dtype: torch.dtype) -> Any:  # noqa: ANN401 (one of the settings' names)
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def main() -> int:
    """Measure, print and save; without a GPU, say so."""
    chosen = options(__doc__ or "", rounds=3).parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return 0
    ratios, facts = measure(
        Shape(),
        torch.device("cuda"),
        torch.bfloat16,
        rounds=chosen.rounds,
        vllm=find_spec("vllm") is not None,
    )
    for name, value in facts.items():
        print(f"{name}: {value}")
    facts["gpu"] = torch.cuda.get_device_name()
    return conclude("gpu", ratios, {}, chosen.json, **facts)


if __name__ == "__main__":
    sys.exit(main())
