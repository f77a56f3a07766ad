"""Models whose attention cannot be replaced: one request at a time, by transformers' `generate`.

Slow, and right for any causal language model, since transformers keeps the states: recurrent
layers, compressed keys and values, an attention of their own. Texts are drawn from a request's seed
as in `DecodeLoop`, so they are the same.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from cai.engines.decode import DecodeLoop, Row, TokenCompletion, TokenRequest, check_request
from cai.engines.draws import TokenSampler, nan_error
from cai.engines.forward import attention_problem
from cai.engines.scoring import TokenQuestion, TokenScores, score_options

_LOG = logging.getLogger(__name__)
_SAID: set[str] = set()


class PlainLoop:
    """Has the functions of `DecodeLoop`, for a model that it cannot run; nothing is cached."""

    def __init__(self, model: Any, *, stop_ids: Collection[int]) -> None:  # noqa: ANN401
        """Prepare for a transformers causal language model; each of the `stop_ids` ends a text."""
        self._model = model
        self._stop_ids = frozenset(stop_ids)
        config = model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.rows = 0
        self.starved = False
        """A row more at once would change nothing."""
        self._waiting: deque[Row] = deque()

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting)

    def run(self, requests: Sequence[TokenRequest]) -> list[TokenCompletion]:
        """Complete all requests, see `DecodeLoop.run`."""
        was_training = self._model.training
        self._model.eval()
        try:
            for request in requests:
                self.submit(request, None)
            return [completion for _ in requests for _, completion in self.step()]
        finally:
            self.clear()
            self._model.train(was_training)

    def check(self, request: TokenRequest) -> None:
        """Raise what `submit` would raise."""
        check_request(request, self.context)

    def submit(self, request: TokenRequest, tag: Any) -> None:  # noqa: ANN401
        """Queue a request, see `DecodeLoop.submit`."""
        self.check(request)
        self._waiting.append(Row(request, tag))

    def clear(self) -> None:
        """Forget all requests."""
        self._waiting.clear()

    @torch.inference_mode()
    def step(self) -> list[tuple[Any, TokenCompletion]]:
        """Complete the first request."""
        row, model = self._waiting.popleft(), self._model
        ids = torch.tensor([row.request.prompt_ids], device=model.device)
        # The model's own settings would change the distribution.
        usual, model.generation_config = model.generation_config, GenerationConfig()
        try:
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    max_new_tokens=row.request.max_tokens, do_sample=False, pad_token_id=0
                ),
                logits_processor=[_Draw(row, self._stop_ids)],
                stopping_criteria=[lambda *_, **__: torch.tensor([row.finish is not None])],
            )
        finally:
            model.generation_config = usual
        return [(row.tag, row.completion())]


class _Draw(LogitsProcessor):
    """Draws each token of a row, and leaves only this one to choose from."""

    def __init__(self, row: Row, stop_ids: frozenset[int]) -> None:
        self._row, self._stop_ids = row, stop_ids

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ANN401, ARG002
        request = self._row.request
        sampler = TokenSampler([request.seed], [request.temperature], scores.device)
        tokens, ids, logprobs = sampler.sample(scores, [len(self._row.token_ids)])
        if math.isnan(logprobs[0]):
            raise nan_error()
        self._row.append(ids[0], logprobs[0], self._stop_ids)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


@torch.inference_mode()
def score_plainly(model: Any, questions: Sequence[TokenQuestion]) -> list[TokenScores]:  # noqa: ANN401
    """Return what `score_options` does, by one forward pass per option."""
    return [
        TokenScores(tuple(_score(model, q.prompt_ids, option) for option in q.options), cached=0)
        for q in questions
    ]


def _score(model: Any, prompt: Sequence[int], option: Sequence[int]) -> float:  # noqa: ANN401
    ids = torch.tensor([[*prompt, *option]], device=model.device)
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    more = {"logits_to_keep": len(option) + 1} if keeps else {}
    logits = model(input_ids=ids, use_cache=False, **more).logits[0, -len(option) - 1 : -1]
    targets = ids[0, -len(option) :, None]
    score = torch.log_softmax(logits.float(), -1).gather(1, targets).sum().item()
    if math.isnan(score):
        raise nan_error()
    return score


def loop_for(
    model: Any,  # noqa: ANN401
    *,
    stop_ids: Collection[int],
    max_batch_tokens: int,
    prefix_tokens: int = 0,
) -> DecodeLoop | PlainLoop:
    """Return what samples from a model: `DecodeLoop` where it can; else say so, once for a kind."""
    if problem := attention_problem(model.config, model):
        if (kind := type(model).__name__) not in _SAID:
            _SAID.add(kind)
            _LOG.warning(
                "The local engine runs %s one request at a time, which is slow: it %s. "
                "`engine: vllm` (for PPO, `ppo.rollouts: vllm`) may run it faster.",
                kind,
                problem,
            )
        return PlainLoop(model, stop_ids=stop_ids)
    return DecodeLoop(
        model, stop_ids=stop_ids, max_batch_tokens=max_batch_tokens, prefix_tokens=prefix_tokens
    )


def scores_of(
    model: Any,  # noqa: ANN401
    loop: DecodeLoop | PlainLoop,
    questions: Sequence[TokenQuestion],
    *,
    max_batch_tokens: int,
) -> list[TokenScores]:
    """Return log P of every option of every question, in the way of the loop."""
    if isinstance(loop, PlainLoop):
        return score_plainly(model, questions)
    return score_options(
        model, questions, max_batch_tokens=max_batch_tokens, prefixes=loop.prefixes
    )
