"""vLLM for the stages: continuous batching and a prefix cache, in processes of its own.

Prompts are token ids, as for every engine here. Options are scored exactly: the log-probabilities
of their tokens are requested after each beginning of an option, all at once.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Sequence
from typing import Any

from cai.engines import (
    Completion,
    GenerateRequest,
    PromptTooLong,
    ScoreRequest,
    Scores,
    Unanswered,
    Usage,
)
from cai.engines.finish import end_of
from cai.engines.in_flight import InFlight
from cai.engines.options import check_options, probabilities, questions, summed
from cai.engines.vllm_arguments import engine_arguments, import_vllm, start
from cai.engines.written import prompt_ids
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.models.loading import adapter_folder, model_folder
from cai.settings import ModelSettings

_SEEDS = 2**63
_FEW = 16
"""With fewer requests than this a step costs nearly as much as with twice as many."""


class VLLMEngine:
    """Generates and scores with vLLM; it belongs to the event loop of the first request."""

    def __init__(self, settings: ModelSettings, chat: ChatFormat, *, fingerprint: str) -> None:
        """Start vLLM, which takes some seconds.

        Raises:
            CaiError: vLLM is not installed, does not know an option, or cannot run the model.
        """
        vllm = import_vllm()
        arguments = engine_arguments(settings, model_folder(settings))
        self.usage = Usage()
        self._parameters = vllm.SamplingParams
        self._final = importlib.import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self._chat = chat
        self.name = settings.path
        self.fingerprint = fingerprint
        self._lora = _lora(settings)
        self._numbers = itertools.count()
        self._in_flight = InFlight(self.usage, few=_FEW)
        engine = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
        made = vllm.AsyncEngineArgs(**arguments)
        self._engine: Any = start(lambda: engine.from_engine_args(made), settings)
        self._context: int = self._engine.model_config.max_model_len

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt; see `Engine.generate`. Raises a CaiError if the engine is closed."""
        stop = (*self._chat.stop_strings, *request.stop)
        ids = prompt_ids(self._chat, request.prompt)
        self._check(len(ids), request.max_tokens)
        with self._in_flight:
            said = await self._ask(
                ids,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed % _SEEDS,
                stop=list(stop),
                stop_token_ids=sorted(self._chat.stop_ids),
                logprobs=0,
                detokenize=bool(stop),
            )
        self.usage.engine_calls += 1
        end = end_of(said.finish_reason)
        if end in ("refused", "failed"):
            raise Unanswered(end, f"vLLM ended with `{said.finish_reason}`")
        sampled = tuple(said.token_ids)
        return Completion(
            text=self._chat.text(sampled, stop=stop),
            token_ids=sampled,
            logprobs=chosen_logprobs(sampled, said.logprobs),
            finish="length" if end == "cut_off" else "stop",
            fingerprint=self.fingerprint,
        )

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the exact log-probability of each option, of any number of tokens.

        See `Engine.score`. Raises a CaiError for no options, an empty one or two of the same, and
        if the engine is or was closed.
        """
        ids = prompt_ids(self._chat, request.prompt)
        options = [tuple(self._chat.option_ids(option)) for option in request.options]
        check_options(request.options, options)
        self._check(len(ids), max(map(len, options)))

        async def after(beginning: Sequence[int], tokens: Sequence[int]) -> dict[int, float]:
            said = await self._ask(
                [*ids, *beginning],
                max_tokens=1,
                temperature=1.0,
                logprob_token_ids=list(tokens),
                detokenize=False,
            )
            told = {token: said.logprobs[0][token].logprob for token in tokens}
            probabilities({str(token): logprob for token, logprob in told.items()})
            return told

        asked = questions(options)
        with self._in_flight:
            answers = await asyncio.gather(*(after(*question) for question in asked.items()))
        self.usage.engine_calls += 1
        logprobs = summed(options, dict(zip(asked, answers, strict=True)))
        return Scores(logprobs=tuple(logprobs), fingerprint=self.fingerprint)

    async def close(self) -> None:
        """Stop vLLM's processes; requests in flight raise a CaiError."""
        engine, self._engine = self._engine, None
        if engine is not None:
            if engine.output_handler is not None and not self._in_flight.busy:
                engine.output_handler.cancel()  # it would tell of the processes' end as a failure
            await asyncio.to_thread(engine.shutdown)

    def _check(self, length: int, new: int) -> None:
        if length + new > self._context:
            raise PromptTooLong(
                f"The prompt has {length} tokens and may be followed by {new}, but the model's "
                f"context is {self._context}."
            )

    async def _ask(self, ids: Sequence[int], **parameters: Any) -> Any:  # noqa: ANN401
        """Return vLLM's only completion of a prompt."""
        if self._engine is None:
            raise CaiError("The engine is closed. Open it again with `open_engine`.")
        stream = self._engine.generate(
            {"prompt_token_ids": list(ids)},
            self._parameters(output_kind=self._final, **parameters),
            f"{next(self._numbers)}",
            lora_request=self._lora,
        )
        last: Any = None
        try:
            async for output in stream:
                last = output
        except Exception as error:  # vLLM's processes die of many things
            if self._engine is not None and not self._engine.errored:
                raise
            raise CaiError(
                f"vLLM stopped during a request ({type(error).__name__}: {error}). See its "
                "log above; finished rows are kept."
            ) from error
        if last is None or last.outputs[0].finish_reason == "abort":
            raise CaiError("The engine was closed during a request. Finished rows are kept.")
        said = last.outputs[0]
        self.usage.tokens_in += len(ids)
        self.usage.tokens_cached += last.num_cached_tokens or 0
        # A score's one token is drawn because vLLM must; no one asked for it.
        self.usage.tokens_out += 0 if "logprob_token_ids" in parameters else len(said.token_ids)
        return said


def chosen_logprobs(token_ids: Sequence[int], listed: Any) -> tuple[float, ...]:  # noqa: ANN401
    """Return the log-probability of each sampled token from vLLM's lists."""
    return tuple(place[token].logprob for token, place in zip(token_ids, listed, strict=True))


def _lora(settings: ModelSettings) -> Any:  # noqa: ANN401 (vLLM's LoRARequest, or None)
    if settings.adapter is None:
        return None
    folder = adapter_folder(settings)
    lora = importlib.import_module("vllm.lora.request").LoRARequest
    return lora(lora_name=folder.name, lora_int_id=1, lora_path=str(folder))
