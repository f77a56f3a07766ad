"""vLLM for PPO: samples token requests with weights that are pushed into it.

Three ways to push, by the name in `way`: `in_process` where vLLM's model is in this process (one
worker), `ipc` through vLLM's weight-transfer engine where its workers are processes of their own on
GPUs, `path` through a folder otherwise. `ipc` is written after vLLM's documented interface and has
never been run: there was no machine with several GPUs.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from cai.engines.decode import TokenCompletion, TokenRequest
from cai.engines.vllm import chosen_logprobs
from cai.engines.vllm_arguments import engine_arguments, import_vllm, on_cpu, start
from cai.settings import ModelSettings

Way = Literal["in_process", "ipc", "path"]
MEMORY = 0.3
"""The share of a GPU's memory that vLLM gets beside the trainer, unless `options` says."""
_SEEDS = 2**63
_HASHED_NUMBERS = 2**12


class VLLMSampler:
    """Completes token requests as `DecodeLoop.run` does, with the weights pushed last.

    `fingerprint` is that of those weights (empty before the first push).
    """

    def __init__(
        self,
        settings: ModelSettings,
        folder: Path,
        *,
        stop_ids: Collection[int],
        way: Way | None = None,
    ) -> None:
        """Start vLLM with the shape of the model in `folder`; weights come with the first push.

        `settings` have the policy's precision and `options`. Each of the `stop_ids` ends a
        completion. `way` is None for the best one.

        Raises:
            CaiError: vLLM is not installed, does not know an option, or cannot run the model.
        """
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are pushed within a process
        vllm = import_vllm()
        gpu = not on_cpu()
        beside = {"gpu_memory_utilization": MEMORY, "enable_sleep_mode": True} if gpu else {}
        arguments = {**beside, **engine_arguments(settings, folder)}
        self.fingerprint = ""
        self.way: Way = way or _best_way(arguments, gpu=gpu)
        if self.way == "ipc":
            config = importlib.import_module("vllm.config.weight_transfer").WeightTransferConfig
            arguments["weight_transfer_config"] = config(backend="ipc")
        self._parameters = vllm.SamplingParams
        self._stop_ids = sorted(stop_ids)
        self._llm: Any = start(lambda: vllm.LLM(**arguments), settings)
        self._sleeps = bool(arguments.get("enable_sleep_mode"))
        if self._sleeps:
            self._llm.sleep(level=1)

    def push(self, weights: Mapping[str, Tensor]) -> None:
        """Replace all weights, by their names in transformers; clear the prefix cache."""
        self._wake()
        if self.way == "in_process":
            self._reload(weights_iterator=iter(weights.items()))
        elif self.way == "path":
            with tempfile.TemporaryDirectory() as folder:
                plain = {name: w.detach().cpu().clone().contiguous() for name, w in weights.items()}
                save_file(plain, Path(folder) / "model.safetensors")
                self._reload(weights_path=folder)
        else:
            self._transfer(weights)
        if on_cpu():
            # A head tied to the embeddings is packed for the CPU once, and must be again.
            self._llm.apply_model(_pack_head)
        self._llm.reset_prefix_cache()
        self.fingerprint = weights_fingerprint(weights)

    def run(self, requests: Sequence[TokenRequest]) -> list[TokenCompletion]:
        """Complete all requests, in their order.

        The draws are vLLM's own, from each request's seed; texts may differ with the batch.
        """
        self._wake()
        parameters = [
            self._parameters(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed % _SEEDS,
                stop_token_ids=self._stop_ids,
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        if self._sleeps:
            self._llm.sleep(level=1)
        return [_completion(output) for output in outputs]

    def close(self) -> None:
        """Stop vLLM and give its memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _wake(self) -> None:
        if self._sleeps:
            self._llm.wake_up()

    def _reload(self, **weights: object) -> None:
        self._llm.collective_rpc("reload_weights", kwargs=weights)

    def _transfer(self, weights: Mapping[str, Tensor]) -> None:
        """Send weights to vLLM's processes on the same GPUs."""
        base = importlib.import_module("vllm.distributed.weight_transfer.base")
        ipc = importlib.import_module("vllm.distributed.weight_transfer.ipc_engine")
        trainer = ipc.IPCTrainerWeightTransferEngine.trainer_init(
            ipc.IPCTrainerInitInfo(rank=0),
            client=_Client(self._llm, base),
            source=base.ModuleSource(_as_module(weights)),
        )
        trainer.send_weights()


class _Client:
    """What vLLM's trainer side calls, on an engine in this process."""

    def __init__(self, llm: Any, base: Any) -> None:  # noqa: ANN401
        self._llm = llm
        self._base = base

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._llm.init_weight_transfer_engine(
            self._base.WeightTransferInitRequest(init_info=init_info)
        )

    def start_weight_update(self) -> None:
        self._llm.start_weight_update()

    def update_weights(self, update_info: Any) -> None:  # noqa: ANN401
        self._llm.update_weights(self._base.WeightTransferUpdateRequest(update_info=update_info))

    def finish_weight_update(self) -> None:
        self._llm.finish_weight_update()


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Name weights by some numbers of each tensor: every update moves all of them."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        some = weight.detach().flatten()[:: max(1, weight.numel() // _HASHED_NUMBERS)]
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _best_way(arguments: Mapping[str, Any], *, gpu: bool) -> Way:
    parallel = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    if all(arguments.get(name, 1) == 1 for name in parallel):
        return "in_process"
    return "ipc" if gpu else "path"


def _completion(output: Any) -> TokenCompletion:  # noqa: ANN401 (vLLM's RequestOutput)
    said = output.outputs[0]
    token_ids = tuple(said.token_ids)
    return TokenCompletion(
        token_ids=token_ids,
        logprobs=chosen_logprobs(token_ids, said.logprobs),
        finish="length" if said.finish_reason == "length" else "stop",
        cached=output.num_cached_tokens or 0,
    )


def _pack_head(model: torch.nn.Module) -> None:
    head: Any = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


def _as_module(weights: Mapping[str, Tensor]) -> torch.nn.Module:
    """Return a tree of modules that has tensors under their dotted names."""
    root = torch.nn.Module()
    for name, weight in weights.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        parameter = torch.nn.Parameter(weight.detach(), requires_grad=False)
        module.register_parameter(last, parameter)
    return root
