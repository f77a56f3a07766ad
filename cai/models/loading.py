"""Model folders in transformers' format: find, check, load and fingerprint them.

Errors in a folder are reported here, before transformers reads it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cai.errors import CaiError
from cai.models.chat import CHAT_FORMAT, ChatFormat, use_transcripts
from cai.settings import ModelSettings
from cai.settings.paths import user_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAYGROUND = Path(__file__).parents[1] / "playground" / "model"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_LOADED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_LFS_POINTER = b"version https://git-lfs"
_HASH_ALL_BELOW = 2 * 1024**3
_BLOCK = 1024**2
_BLOCKS = 256


def resolve_model(path: str) -> str:
    """Return the folder of a model, given as `playground`, a folder or a hub id, or its hub id.

    Raises:
        CaiError: It is none of these.
    """
    if path == "playground":
        return str(PLAYGROUND)
    folder = user_path(path)
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise CaiError(f"The model {path} is a file. Give the folder that holds config.json.")
    if _HUB_ID.fullmatch(path):
        return path
    raise CaiError(
        f"The model folder {path} does not exist. Give a folder in transformers' format, a hub id "
        "(`owner/name`), or `playground` for the shipped tiny model."
    )


def model_folder(settings: ModelSettings, *, weights: bool = True) -> Path:
    """Return the checked folder of a model, downloaded first if it is a hub id.

    Without `weights`, they are neither downloaded nor checked.

    Raises:
        CaiError: It cannot be found, or is missing or damaged in part.
    """
    resolved = resolve_model(settings.path)
    is_hub_id = _HUB_ID.fullmatch(resolved) and not Path(resolved).is_dir()
    folder = _download(resolved, weights=weights) if is_hub_id else Path(resolved)
    _check_folder(folder, weights=weights)
    return folder


def load_tokenizer(settings: ModelSettings, *, weights: bool = True) -> PreTrainedTokenizerBase:
    """Load the tokenizer; `format: transcript` gives it the transcript template.

    Without `weights`, its folder need not have them.

    Raises:
        CaiError: The folder is unusable, or its tokenizer files are.
    """
    from transformers import AutoTokenizer

    folder = model_folder(settings, weights=weights)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception on files it cannot read
        raise CaiError(
            f"The tokenizer in {folder} cannot be loaded ({_first_line(error)}). Save it again "
            "with `save_pretrained`, or copy the tokenizer files of the model it came from."
        ) from error
    if settings.format == "transcript":
        use_transcripts(tokenizer)
    return tokenizer


def load_chat_format(settings: ModelSettings) -> ChatFormat:
    """Load a model's chat format; the EOS ids of its generation config also end a turn."""
    return ChatFormat(load_tokenizer(settings), eos_ids(model_folder(settings)))


def device_and_dtype(
    settings: ModelSettings, wanted: torch.device | str | None = None
) -> tuple[torch.device, torch.dtype]:
    """Return where a model runs (the GPU if there is one, unless `wanted`) and in which precision.

    `dtype: auto` is bfloat16 on a GPU and float32 on a CPU.
    """
    import torch

    device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    if settings.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, torch.float32 if settings.dtype == "float32" else torch.bfloat16


def load_causal_lm(
    settings: ModelSettings, *, device: torch.device | str | None = None
) -> PreTrainedModel:
    """Load a language model in eval mode, with every dropout set to zero, also for training.

    `device` is None for the GPU if there is one.

    Raises:
        CaiError: The folder is unusable, is no language model, or lacks some of the weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    if settings.best_of:
        raise CaiError(
            f"{settings.path} with `best_of` chooses among samples of a model, and has no weights "
            "of its own to train. Start from the model itself, without `best_of`."
        )
    folder = model_folder(settings)
    target, dtype = device_and_dtype(settings, device)
    logging.disable_progress_bar()
    try:
        config = without_dropout(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # whatever transformers meets in a foreign folder
        raise CaiError(
            f"The model in {folder} cannot be loaded as a language model ({_first_line(error)}). "
            "Check that config.json and the weights belong together."
        ) from error
    model, report = loaded
    _check_report(folder, report, config.architectures or [])
    return cast("PreTrainedModel", model.to(target).eval())


def without_dropout(config: Any) -> Any:  # noqa: ANN401 (any transformers config)
    """Set every dropout probability of a config to zero and return it."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    return config


def adapter_folder(settings: ModelSettings) -> Path:
    """Return the folder of the LoRA adapter in the settings; raise a CaiError if it is none."""
    folder = user_path(settings.adapter or "")
    if not (folder / "adapter_config.json").is_file():
        raise CaiError(
            f"The adapter {folder} has no adapter_config.json. Give the folder that PEFT's "
            "`save_pretrained` wrote."
        )
    return folder


def fingerprint_model(settings: ModelSettings) -> str:
    """Hash a model: config, tokenizer, chat template, weights, adapter, options, `CHAT_FORMAT`.

    Of weights above 2 GB, 256 evenly spaced blocks of 1 MB per file are hashed. The result has 16
    hexadecimal digits.

    Raises:
        CaiError: The folder is unusable.
    """
    folder = model_folder(settings)
    files = sorted({file for pattern in _LOADED for file in folder.glob(pattern)})
    named = f"{CHAT_FORMAT}:{settings.format}:{_hash_files(_states(files))}"
    if settings.adapter is not None:
        adapter = sorted(adapter_folder(settings).glob("adapter_*"))
        named += f":{_hash_files(_states(adapter))}"
    if settings.options:
        named += f":{json.dumps(settings.options, sort_keys=True, default=str)}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _states(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    states = ((file, file.stat()) for file in files)
    return tuple((str(file), state.st_size, state.st_mtime_ns) for file, state in states)


@lru_cache(maxsize=64)
def _hash_files(states: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files by name, size and content; the modification times only key the cache."""
    everything = sum(size for _, size, _ in states) <= _HASH_ALL_BELOW
    digest = hashlib.sha256()
    for name, size, _ in states:
        digest.update(f"{Path(name).name}:{size}\n".encode())
        with Path(name).open("rb") as file:
            if everything or size <= _BLOCK * _BLOCKS:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _download(hub_id: str, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    left_out = ["*/*"] if weights else ["*/*", "*.safetensors"]
    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=list(_LOADED), ignore_patterns=left_out)
        )
    except Exception as error:  # offline, gated, misspelt: the hub's errors share no base class
        raise CaiError(
            f"{hub_id} is neither a local folder nor a model that can be downloaded from the hub "
            f"({_first_line(error)}). Check the spelling and the network, run `hf auth login` for "
            "a gated model, or give the path of a folder."
        ) from error


def _check_folder(folder: Path, *, weights: bool) -> None:
    """Raise a CaiError that names what a model folder lacks."""
    if not folder.is_dir():
        raise CaiError(f"The model folder {folder} does not exist.")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise CaiError(
            f"{folder} holds a PEFT adapter, not a model. Merge it into its base model "
            "(`merge_and_unload`) and save the result."
        )
    _check_needs_no_code(folder, _read_json(_required(folder, ("config.json",), "no config.json")))
    _required(folder, _VOCABULARIES, "no tokenizer (tokenizer.json or tokenizer.model)")
    for file in _weight_files(folder) if weights else ():
        _check_weights(file)


def _check_needs_no_code(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a model or tokenizer that needs Python code of its folder (`auto_map`).

    Many folders name such code although transformers has had their architecture for long.
    """
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if config.get("model_type") not in CONFIG_MAPPING:
            raise _remote_code_error(folder, "config.json")
    file = folder / "tokenizer_config.json"
    tokenizer = _read_json(file) if file.is_file() else {}
    if "auto_map" in tokenizer and "tokenizer_class" in tokenizer:
        import transformers

        if not hasattr(transformers, str(tokenizer["tokenizer_class"])):
            raise _remote_code_error(folder, file.name)


def _remote_code_error(folder: Path, name: str) -> CaiError:
    return CaiError(
        f"The model in {folder} needs Python code of its own (`auto_map` in {name}), which cai "
        "never runs: give a model whose architecture and tokenizer transformers has."
    )


def _weight_files(folder: Path) -> list[Path]:
    first = _required(folder, _WEIGHTS, "no weights (model.safetensors)")
    if first.suffix == ".safetensors":
        return [first]
    names = sorted(set(_read_json(first).get("weight_map", {}).values()))
    return [_required(folder, (name,), f"no {name}, which {first.name} names") for name in names]


def _required(folder: Path, names: Sequence[str], lack: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            _check_not_pointer(folder / name)
            return folder / name
    raise CaiError(
        f"The model folder {folder} has {lack}. Give a folder written by `save_pretrained` of both "
        "the model and its tokenizer."
    )


def _check_not_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CaiError(
                f"{file} is a Git LFS pointer, not the file itself. Run `git lfs pull` in "
                f"{file.parent}."
            )


def _check_weights(file: Path) -> None:
    """Read the header, which also tells whether the file is as long as it should be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        raise CaiError(
            f"The weights in {file} are damaged or cut short ({_first_line(error)}). Copy or "
            "download the file again."
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaiError(f"{file} is not valid JSON ({error}). Copy or save it again.") from error
    if not isinstance(content, dict):
        raise CaiError(f"{file} must hold a JSON object. Copy or save it again.")
    return cast("dict[str, Any]", content)


def _check_report(folder: Path, report: dict[str, Any], architectures: Sequence[str]) -> None:
    """Refuse incomplete weights, which transformers fills at random, and other kinds of model."""
    if any(name.endswith("Classification") for name in architectures):
        raise CaiError(
            f"{folder} holds a {architectures[0]}, such as a preference model. Give the folder of "
            "a language model."
        )
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise CaiError(
            f"The weights in {folder} lack {len(missing)} tensors of a language model, such as "
            f"{missing[0]}. Copy the whole model again."
        )


def eos_ids(folder: Path) -> list[int]:
    """Return the EOS ids that the config and the generation config name."""
    ids: list[int] = []
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            named = _read_json(folder / name).get("eos_token_id")
            ids += named if isinstance(named, list) else [] if named is None else [named]
    return ids


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
