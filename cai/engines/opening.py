"""Open the engine that a model's settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cai.engines import Engine
from cai.errors import CaiError
from cai.models.loading import fingerprint_model, load_causal_lm, load_chat_format
from cai.settings import ModelSettings


def open_engine(settings: ModelSettings) -> Engine:
    """Load a model and return its engine; close it when done.

    Raises:
        CaiError: The model folder is unusable, or the engine cannot run such a model.
    """
    if (best_of := settings.best_of) is None:
        return _ENGINES[settings.engine](settings)
    from cai.engines.best_of import BestOfEngine
    from cai.models.implicit_reward import load_scorer

    scorer = load_scorer(best_of.by)
    one = open_engine(_plain(settings))
    return BestOfEngine(one, scorer, best_of.n, fingerprint_engine(settings))


def _plain(settings: ModelSettings) -> ModelSettings:
    """Return the model whose responses best-of-n samples."""
    return settings.model_copy(update={"best_of": None})


def _open_transformers(settings: ModelSettings) -> Engine:
    from cai.engines.transformers import TransformersEngine

    chat = load_chat_format(settings)
    model = load_causal_lm(settings)
    _check_model(settings, model, len(chat.tokenizer))
    return TransformersEngine(
        model,
        chat,
        name=settings.path,
        fingerprint=fingerprint_model(settings),
        max_batch_tokens=settings.max_batch_tokens,
    )


def _open_openai(settings: ModelSettings) -> Engine:
    from cai.engines.openai import OpenAIEngine
    from cai.engines.server import fingerprint_server, report_of
    from cai.engines.server_errors import server_of

    report, tokenizer = report_of(settings), server_of(settings).tokenizer
    chat = None
    if tokenizer is not None:
        chat = load_chat_format(ModelSettings(path=tokenizer, format=settings.format))
    return OpenAIEngine(settings, report, chat, fingerprint=fingerprint_server(settings, report))


def _open_vllm(settings: ModelSettings) -> Engine:
    from cai.engines.vllm import VLLMEngine
    from cai.engines.vllm_arguments import import_vllm

    import_vllm()  # says what to install before anything is loaded
    chat = load_chat_format(settings)
    return VLLMEngine(settings, chat, fingerprint=fingerprint_engine(settings))


def fingerprint_engine(settings: ModelSettings) -> str:
    """Hash the contents of a model folder, or the identity of a model behind a server.

    Raises:
        CaiError: The model folder is unusable, or the server does not answer.
    """
    if best_of := settings.best_of:
        from cai.engines.best_of import fingerprint_best_of

        scorer = fingerprint_model(ModelSettings(path=best_of.by))
        return fingerprint_best_of(fingerprint_engine(_plain(settings)), scorer, best_of.n)
    if settings.engine == "openai":
        from cai.engines.server import fingerprint_server, report_of

        return fingerprint_server(settings, report_of(settings))
    return fingerprint_model(settings)  # which names options and adapter, too


def check_engines(*models: ModelSettings | None) -> None:
    """Raise a CaiError with the command that installs it, if an engine is not installed.

    Nothing is opened. (A server's package is found missing by `fingerprint_engine`.)
    """
    if any(model is not None and model.engine == "vllm" for model in models):
        from cai.engines.vllm_arguments import check_vllm

        check_vllm()


def _check_model(settings: ModelSettings, model: Any, vocabulary: int) -> None:  # noqa: ANN401
    embeddings = model.get_input_embeddings().num_embeddings
    if vocabulary > embeddings:
        raise CaiError(
            f"The tokenizer of {settings.path} has {vocabulary} tokens, but its model only has "
            f"{embeddings}. Copy the tokenizer files that belong to the model into its folder."
        )


_ENGINES: dict[str, Callable[[ModelSettings], Engine]] = {
    "transformers": _open_transformers,
    "vllm": _open_vllm,
    "openai": _open_openai,
}
