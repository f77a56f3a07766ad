"""The local engine: a transformers model behind a worker thread.

Stages await single requests; the thread runs all that have arrived together, and new ones join
while others decode.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import torch

from cai.engines import (
    Completion,
    GenerateRequest,
    PromptTooLong,
    ScoreRequest,
    Scores,
    Usage,
)
from cai.engines.decode import FEW, DecodeLoop, TokenCompletion, TokenRequest
from cai.engines.options import check_options
from cai.engines.plain import PlainLoop, loop_for, scores_of
from cai.engines.scoring import TokenQuestion, TokenScores
from cai.engines.stopping import StopTexts
from cai.engines.written import prompt_ids
from cai.errors import CaiError
from cai.models.chat import ChatFormat

_ENOUGH = 1 / 8
"""Questions are answered when they are this share of the rows that decode."""

_PATIENCE = 0.005
"""The most seconds to wait for what is asked next."""

_Future = asyncio.Future[Any]
_Question = tuple[TokenQuestion, _Future]
_Job = tuple[TokenRequest | TokenQuestion, _Future]


class TransformersEngine:
    """Generates and scores with a model in this process; see `Engine` for its functions."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (any transformers causal language model)
        chat: ChatFormat,
        *,
        name: str,
        fingerprint: str,
        max_batch_tokens: int,
    ) -> None:
        """Start the worker thread of a model, which is in eval mode.

        `name` is that in rows; `fingerprint` identifies weights, tokenizer and template. See
        `DecodeLoop` for `max_batch_tokens`.
        """
        self.usage = Usage()
        self._chat = chat
        self.name = name
        self.fingerprint = fingerprint
        self._stop_texts: dict[tuple[str, ...], StopTexts] = {}
        self._outbox: list[_Job] = []
        self._closed = False
        self._worker = _Worker(model, chat, max_batch_tokens, self.usage)

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt; see `Engine.generate`. The row of a cancelled task is still decoded.

        Raises a CaiError if the engine is or was closed.
        """
        stop = (*self._chat.stop_strings, *request.stop)
        tokens = TokenRequest(
            prompt_ids=tuple(prompt_ids(self._chat, request.prompt)),
            seed=request.seed,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            ends=self._ends(stop) if stop else None,
        )
        self._loop.check(tokens)
        sampled: TokenCompletion = await self._ask(tokens)
        self._count(len(tokens.prompt_ids), len(sampled.token_ids), sampled.cached)
        return Completion(
            text=self._chat.text(sampled.token_ids, stop=stop),
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish=sampled.finish,
            fingerprint=self.fingerprint,
        )

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the exact log-probability of each option, of any number of tokens.

        See `Engine.score`. Raises a CaiError for no options, an empty one or two of the same, and
        if the engine is or was closed.
        """
        question = TokenQuestion(
            prompt_ids=tuple(prompt_ids(self._chat, request.prompt)),
            options=tuple(tuple(self._chat.option_ids(option)) for option in request.options),
        )
        check_options(request.options, question.options)
        context = self._loop.context
        if context is not None and question.columns > context:
            raise PromptTooLong(
                f"The prompt and its longest option have {question.columns} tokens, but the "
                f"model's context is {context}."
            )
        scores: TokenScores = await self._ask(question)
        self._count(question.tokens, 0, scores.cached)
        return Scores(logprobs=scores.logprobs, fingerprint=self.fingerprint)

    async def close(self) -> None:
        """Stop the worker and give the memory back; requests in flight raise a CaiError."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        # Before anything is awaited: the worker takes up nothing of what has been flushed.
        self._worker.inbox.put(None)
        await asyncio.to_thread(self._worker.join)

    @property
    def _loop(self) -> DecodeLoop | PlainLoop:
        if self._closed:
            raise _closed()
        return self._worker.loop

    def _ends(self, stop: tuple[str, ...]) -> StopTexts:
        if stop not in self._stop_texts:
            self._stop_texts[stop] = StopTexts(self._chat.decode, stop)
        return self._stop_texts[stop]

    def _count(self, tokens_in: int, tokens_out: int, cached: int) -> None:
        self.usage.engine_calls += 1
        self.usage.tokens_cached += cached
        self.usage.tokens_in += tokens_in
        self.usage.tokens_out += tokens_out

    async def _ask(self, request: TokenRequest | TokenQuestion) -> Any:  # noqa: ANN401
        """Hand a request to the worker and await its answer."""
        future: _Future = asyncio.get_running_loop().create_future()
        self._outbox.append((request, future))
        # All tasks that can run do so before the flush: the worker gets their requests at once.
        future.get_loop().call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        jobs, self._outbox = self._outbox, []
        if jobs:
            self._worker.inbox.put(jobs)


class _Worker:
    """The thread that owns the model."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        chat: ChatFormat,
        max_batch_tokens: int,
        usage: Usage,
    ) -> None:
        self.inbox: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self.loop = loop_for(
            model,
            stop_ids=chat.stop_ids,
            max_batch_tokens=max_batch_tokens,
            prefix_tokens=max_batch_tokens // 2,
        )
        self._usage = usage
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._decoding: set[_Future] = set()
        self._thread = threading.Thread(target=self._work, name="cai-engine", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, which ends at a None and fails what is in flight; free the model."""
        self._thread.join()
        del self.loop, self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _work(self) -> None:
        questions: list[_Question] = []
        while self._receive(questions):
            started = time.perf_counter()
            starved = self.loop.starved and len(questions) < FEW
            if len(questions) >= _ENOUGH * self.loop.rows:
                self._score(questions)
                questions.clear()
            self._decode()
            taken = time.perf_counter() - started
            self._usage.engine_seconds += taken
            self._usage.engine_starved_seconds += taken if starved else 0.0
        self._fail([future for _, future in questions], _closed())
        self._fail(self._decoding, _closed())

    def _receive(self, questions: list[_Question]) -> bool:
        """Take all that has arrived, waiting if there is nothing else to do; False to end."""
        while not self.inbox.empty() or not (self.loop.busy or questions):
            jobs = self.inbox.get()
            if jobs is None:
                return False
            for request, future in jobs:
                if future.cancelled():
                    continue
                if isinstance(request, TokenRequest):
                    self.loop.submit(request, future)
                    self._decoding.add(future)
                else:
                    questions.append((request, future))
        return True

    def _score(self, jobs: list[_Question]) -> None:
        if not jobs:
            return
        futures = [future for _, future in jobs]
        questions = [question for question, _ in jobs]
        try:
            answers = scores_of(
                self._model, self.loop, questions, max_batch_tokens=self._max_batch_tokens
            )
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is awaited)
            self._fail(futures, error)
        else:
            _deliver(zip(futures, answers, strict=True))

    def _decode(self) -> None:
        if not self.loop.busy:
            return
        try:
            finished = self.loop.step()
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is awaited)
            self._fail(self._decoding, error)
            self._decoding.clear()
            self.loop.clear()
        else:
            self._decoding.difference_update(future for future, _ in finished)
            taken = _deliver(finished)
            if self._model.device.type == "cpu":
                # Who takes an answer computes here, too. What is asked next then misses no step.
                for event in taken:
                    event.wait(_PATIENCE)

    def _fail(self, futures: Iterable[_Future], error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            error = CaiError(
                "The GPU is out of memory. Set `max_batch_tokens` of this model below its value of "
                f"{self._max_batch_tokens}."
            )
        _deliver((future, error) for future in futures)


def _deliver(answers: Iterable[tuple[_Future, object]]) -> list[threading.Event]:
    """Hand answers to their futures; each event loop is woken once.

    Returns:
        An event for each loop, set when requests that follow at once have arrived.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Future, object]]] = {}
    for future, answer in answers:
        by_loop.setdefault(future.get_loop(), []).append((future, answer))
    events: list[threading.Event] = []
    for loop, some in by_loop.items():
        with suppress(RuntimeError):  # a loop that is closed: no one waits
            event = threading.Event()
            loop.call_soon_threadsafe(_settle, some, event)
            events.append(event)
    return events


def _settle(answers: Sequence[tuple[_Future, object]], taken: threading.Event) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    # First the tasks go on, then what they ask is flushed, then the event is set.
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(taken.set)))


def _closed() -> CaiError:
    return CaiError("The engine is closed. Open it again with `open_engine`.")
