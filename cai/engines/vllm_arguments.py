"""How vLLM is started, for stages and for PPO alike."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cai.errors import CaiError
from cai.models.loading import adapter_folder
from cai.settings import ModelSettings

INSTALL = "pip install 'cai[vllm]'"
INSTALL_ON_A_CPU = "make test-vllm"
OUR_OWN = frozenset({"model", "tokenizer", "dtype", "enable_lora", "logprobs_mode"})
"""Engine arguments that come from other settings, or that the engine relies on."""


def check_vllm() -> None:
    """Raise a CaiError with the command that installs vLLM, unless it is installed."""
    if find_spec("vllm") is None:
        raise CaiError(
            f"`vllm` as `engine` or `ppo.rollouts` needs vLLM: {INSTALL} (on a machine without a "
            f"GPU, `{INSTALL_ON_A_CPU}` in a checkout of cai makes an environment with the CPU "
            "build). Or leave the setting out to run the model with transformers."
        )


def import_vllm() -> Any:  # noqa: ANN401 (a module)
    """Return vLLM, set up for offline use; existing environment variables are kept.

    Raises:
        CaiError: It is not installed, or is not usable.
    """
    check_vllm()
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM would take far more
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound to cores that others use, it stands still
    }.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("vllm")
    except Exception as error:  # broken installations fail in many ways
        raise CaiError(
            f"vLLM is installed but cannot be imported ({type(error).__name__}: {error}). "
            f"Install it again: {INSTALL}"
        ) from error


def engine_arguments(settings: ModelSettings, folder: Path) -> dict[str, Any]:
    """Return the arguments of vLLM's engine for the model in a folder; its `options` come last.

    Raises:
        CaiError: vLLM is missing, or does not know one of the options.
    """
    vllm = import_vllm()
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": settings.dtype,
        "seed": 0,
        "enable_prefix_caching": True,
        # log P under the sampling distribution, temperature included, as every engine here gives
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
    }
    if on_cpu():
        # Here, requests with seeds end vLLM where a step takes a part of their prompt.
        arguments |= {"enforce_eager": True, "enable_chunked_prefill": False}
        if settings.dtype == "auto":
            arguments["dtype"] = "float32"
    if settings.adapter is not None:
        rank = json.loads((adapter_folder(settings) / "adapter_config.json").read_text())["r"]
        arguments |= {"enable_lora": True, "max_lora_rank": max(8, rank)}
    known = {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)} - OUR_OWN
    for name in settings.options:
        if name not in known:
            alike = difflib.get_close_matches(name, sorted(known), n=1)
            meant = f" Did you mean `{alike[0]}`?" if alike else ""
            raise CaiError(
                f"`options.{name}` of the model {settings.path} is not an engine argument of vLLM "
                f"that can be set here.{meant} They are listed by `python -m "
                "vllm.entrypoints.openai.api_server --help=all`."
            )
    return {**arguments, **settings.options}


def on_cpu() -> bool:
    """Whether vLLM runs on a CPU here."""
    return bool(importlib.import_module("vllm.platforms").current_platform.is_cpu())


def start(make: Any, settings: ModelSettings) -> Any:  # noqa: ANN401 (an engine of vLLM)
    """Call what starts an engine; a failure becomes a CaiError."""
    try:
        return make()
    except CaiError:
        raise
    except Exception as error:  # whatever vLLM meets in a model, a GPU or an argument
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CaiError(
            f"vLLM cannot start with {settings.path} ({lines[0][:300]}). See its log above; "
            "`options` of the model sets its arguments, such as `gpu_memory_utilization` and "
            "`max_model_len`."
        ) from error
