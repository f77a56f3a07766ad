"""Models behind a server that speaks OpenAI's API, hosted or local.

How a prompt is sent: as token ids where the settings name the model's tokenizer, so that it is the
same prompt as in every other engine; else as a transcript to the completions endpoint
(`format: transcript`), or as messages to the chat endpoint (`format: chat`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import Any, Literal

from cai.data.conversation import TRANSCRIPT_LABELS, Message, Prompt, one_turn, to_transcript
from cai.data.records import derive_seed
from cai.engines import (
    Completion,
    GenerateRequest,
    ScoreRequest,
    Scores,
    Unanswered,
    Unscored,
    Usage,
)
from cai.engines.finish import Said
from cai.engines.in_flight import InFlight
from cai.engines.options import (
    Estimates,
    Ids,
    check_options,
    from_listed,
    from_samples,
    probabilities,
    questions,
    summed,
)
from cai.engines.request_body import body_for, complaints_of
from cai.engines.server import ModelReport, ask, open_client
from cai.engines.server_answers import answer_of, answers_of, count, echo_of, listed_by, told_by
from cai.engines.server_errors import NoLogprobsError, keyless, server_of
from cai.engines.written import prompt_ids
from cai.errors import CaiError
from cai.models.chat import ChatFormat
from cai.settings import ModelSettings

GO_ON = "Go on exactly where your last answer stopped, without repeating any of it."
ONE_OF = "Complete your last answer with one of these and nothing else: {options}"
"""What servers are asked that cannot go on with an answer that has begun."""

_STOPS = 4
"""OpenAI's API takes so many stop texts; the others are looked for here."""
_LISTED = {"chat": 20, "completions": 5}
"""How many tokens OpenAI's API lists at each place; vLLM lists 20 in either."""
_SEEDS = 2**31
_VERDICT_TOKENS = 16


class OpenAIEngine:
    """Generates and scores by asking a server; it belongs to the event loop that first asks."""

    def __init__(
        self,
        settings: ModelSettings,
        report: ModelReport,
        chat: ChatFormat | None,
        *,
        fingerprint: str,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: With a `server`.
            report: What the server says of the model.
            chat: How to write prompts as token ids; None to send them as text or messages.
            fingerprint: Names the model and the way it is asked.

        Raises:
            CaiError: The key is not set, or `server.scores` needs what is not there.
        """
        self.usage = Usage()
        self._settings = settings
        self._server = server_of(settings)
        self._chat = chat
        self._fingerprint = fingerprint
        self._vllm = self._server.kind == "vllm" or (
            self._server.kind == "auto" and report.owner == "vllm"
        )
        self._endpoint: Literal["chat", "completions"] = (
            "completions" if chat or settings.format == "transcript" else "chat"
        )
        self._body = body_for(settings)
        self.scores = self._best_scores()
        self._has_answered = False
        self._client = open_client(settings)
        self._slots = asyncio.Semaphore(self._server.concurrency)
        self._in_flight = InFlight(self.usage)

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return self._settings.path

    @property
    def fingerprint(self) -> str:
        """Names the model and the way it is asked."""
        return self._fingerprint

    async def generate(self, request: GenerateRequest) -> Completion:
        """Complete a prompt. Token ids and their log-probabilities are not asked for.

        Raises:
            PromptTooLong: The server says that the prompt and `max_tokens` exceed the context.
            Unanswered: A filter or the model refused, or the answer failed halfway.
            CaiError: The server is down, refuses, or answers nonsense.
        """
        stop = (*request.stop, *self._stop_texts)
        body: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed % _SEEDS,
            **self._ends(stop),
        }
        with self._in_flight, keyless(self._server):
            said = await self._ask(request.prompt, body, answer_of)
        self.usage.engine_calls += 1
        text = said.text
        prefill = request.prompt.prefill.strip()
        if prefill and self._must_ask_to_go_on:
            text = text.strip().removeprefix(prefill)
        ends = [text.find(end) for end in stop if end in text]
        return Completion(
            text=text[: min(ends, default=len(text))].strip(),
            token_ids=(),
            logprobs=(),
            finish="stop" if ends or said.end == "ended" else "length",
            fingerprint=self._fingerprint,
            sampling=self._body.sampled_otherwise(body),
        )

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the log-probability of each option, as well as the server tells.

        Raises:
            PromptTooLong: The server says so.
            Unanswered: The server gave no answer.
            Unscored: The server lists none of the options, or no sampled verdict is one of them.
            CaiError: The options cannot be told apart, or as `generate`.
        """
        ids = self._option_ids(request.options)
        check_options([o.strip() for o in request.options], ids)
        with self._in_flight, keyless(self._server):
            estimates = await self._estimate(request, ids)
        self.usage.engine_calls += 1
        bounds = estimates.bounds
        asked = {"temperature": 1 if self.scores == "samples" else 0}
        otherwise = self._body.sampled_otherwise(asked)
        return Scores(estimates.logprobs, self._fingerprint, bool(bounds), bounds, otherwise)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _best_scores(self) -> Literal["exact", "echo", "top", "samples"]:
        wanted = self._server.scores
        ids, text = self._chat is not None, self._endpoint == "completions"
        if (wanted == "exact" and not (ids and self._vllm)) or (wanted == "echo" and not text):
            raise CaiError(
                f"`server.scores: {wanted}` needs "
                + ("a vLLM server and `server.tokenizer`." if wanted == "exact" else "")
                + ("`server.tokenizer` or `format: transcript`." if wanted == "echo" else "")
            )
        if wanted != "auto":
            return wanted
        if not self._body.lists:
            return "samples"
        return "exact" if self._vllm and ids else "echo" if self._vllm and text else "top"

    @property
    def _stop_texts(self) -> tuple[str, ...]:
        if self._chat is not None:
            return self._chat.stop_strings
        if self._settings.format == "chat":
            return ()
        return tuple(f"\n\n{label}:" for label in TRANSCRIPT_LABELS)

    @property
    def _must_ask_to_go_on(self) -> bool:
        return self._endpoint == "chat" and not self._vllm

    def _ends(self, stop: Sequence[str]) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if stop:
            body["stop"] = list(stop[:_STOPS])
        if self._chat is not None and self._vllm:
            body["stop_token_ids"] = sorted(self._chat.stop_ids)
        return body

    def _option_ids(self, options: Sequence[str]) -> list[Ids] | None:
        if self._chat is None:
            return None
        return [tuple(self._chat.option_ids(option)) for option in options]

    async def _estimate(self, request: ScoreRequest, ids: Sequence[Ids] | None) -> Estimates:
        if len(request.options) == 1 and self.scores in ("top", "samples"):
            raise Unscored(
                "this server tells how options compare, not how likely one text is: that needs "
                "`server.scores: echo`, or a vLLM server"
            )
        if self.scores == "exact" and ids is not None:
            return await self._exact(request.prompt, ids)
        if self.scores == "echo":
            return await self._echoed(request, ids)
        if self.scores == "top":
            try:
                return await self._listed(request)
            except NoLogprobsError as error:
                if self._server.scores == "top":
                    raise
                self._body.gives_no_logprobs(error.words)
                self.scores = "samples"
        return await self._sampled(request)

    async def _exact(self, prompt: Prompt, options: Sequence[Ids]) -> Estimates:
        """Ask for the options' very tokens, after each beginning of an option."""

        async def after(beginning: Ids, tokens: Sequence[int]) -> dict[int, float]:
            body = {
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(tokens),
                "logprob_token_ids": list(tokens),
                "return_tokens_as_token_ids": True,
            }
            use = partial(told_by, tokens=tokens)
            return await self._ask(prompt, body, use, more=beginning)

        asked = questions(options)
        answers = await asyncio.gather(*(after(b, tokens) for b, tokens in asked.items()))
        return Estimates(tuple(summed(options, dict(zip(asked, answers, strict=True)))))

    async def _echoed(self, request: ScoreRequest, ids: Sequence[Ids] | None) -> Estimates:
        """Have each option said after the prompt, and read the log-probabilities of its tokens."""

        async def one(number: int, option: str) -> float:
            body = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
            more = option if ids is None else ids[number]
            written = self._written(request.prompt)
            return await self._ask(
                request.prompt,
                body,
                lambda answer: echo_of(answer, len(written), None if ids is None else len(more)),
                more=more,
            )

        each = [one(number, option) for number, option in enumerate(request.options)]
        logprobs = await asyncio.gather(*each)
        if not any(a.startswith(b) for a, b in permutations(request.options, 2)):
            probabilities(dict(zip(request.options, logprobs, strict=True)))
        return Estimates(tuple(logprobs))

    async def _listed(self, request: ScoreRequest) -> Estimates:
        """Read the options' probabilities off the likeliest tokens of a greedy answer."""
        count = 20 if self._vllm else _LISTED[self._endpoint]
        listing = (
            {"logprobs": True, "top_logprobs": count}
            if self._endpoint == "chat"
            else {"logprobs": count}
        )
        body = {"max_tokens": _VERDICT_TOKENS, "temperature": 0, **listing}
        places, text = await self._ask(request.prompt, body, listed_by, options=request.options)
        return from_listed(places, request.options, text)

    async def _sampled(self, request: ScoreRequest) -> Estimates:
        """Sample verdicts and count them."""
        said: list[Said] = []
        while len(said) < self._server.samples:
            seed = derive_seed("verdict", *request.prompt.messages, len(said))
            wanted = self._server.samples - len(said)
            body = {
                "max_tokens": _VERDICT_TOKENS,
                "temperature": 1,
                "n": wanted,
                "seed": seed % _SEEDS,
            }
            told = await self._ask(request.prompt, body, answers_of, options=request.options)
            if len(told) == 1 < wanted:
                self._body.gives_one_answer()
            said += told
        said = said[: self._server.samples]
        if all(one.why for one in said):
            state = "failed" if any(one.end == "failed" for one in said) else "refused"
            raise Unanswered(state, f"of {len(said)} sampled answers none is one: {said[0].why}")
        return from_samples(["" if one.why else one.text for one in said], request.options)

    async def _ask(
        self,
        prompt: Prompt,
        body: Mapping[str, Any],
        use: Any,  # noqa: ANN401 (a function of the answer)
        *,
        options: Sequence[str] = (),
        more: str | Ids = (),
    ) -> Any:  # noqa: ANN401 (what `use` returns)
        """Send one request and return what `use` makes of it.

        Args:
            prompt: What to continue.
            body: Its other fields, before the server's own names and limits are known.
            use: See `ask`.
            options: The answer should be one of these, which some servers must be told.
            more: Follows the prompt.
        """
        if self._endpoint == "chat":
            create = self._client.chat.completions.create
            fields, more_fields = self._as_messages(prompt, options)
        else:
            create, more_fields = self._client.completions.create, {}
            written = self._written(prompt)
            text = isinstance(written, str)
            fields = {"prompt": f"{written}{more or ''}" if text else [*written, *more]}
        asked = {**body, **more_fields}
        sent: dict[str, Any] = {}

        def send() -> Any:  # noqa: ANN401
            nonlocal sent
            sent = self._body.fitted(asked)
            return create(model=self._settings.path, **fields, extra_body=sent)

        def count_and_use(answer: Any) -> Any:  # noqa: ANN401
            count(self.usage, answer, self._server)
            return use(answer)

        def learn(error: Exception) -> bool:
            return self._body.learn(complaints_of(error), asked, sent)

        async with self._slots:
            used = await ask(send, count_and_use, self._settings, learn, lambda: self._has_answered)
        self._has_answered = True
        return used

    def _written(self, prompt: Prompt) -> Any:  # noqa: ANN401 (text or token ids)
        """Return a prompt as the completions endpoint gets it."""
        if self._chat is not None:
            return prompt_ids(self._chat, prompt)
        turns = to_transcript([_stripped(message) for message in prompt.messages])
        prefill = f" {one_turn(prompt.prefill)}" if prompt.prefill else ""
        return f"{turns}\n\n{prompt.speaker}:{prefill}"

    def _as_messages(
        self, prompt: Prompt, options: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields that say what to answer at the chat endpoint."""
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        if prompt.prefill:
            messages.append({"role": "assistant", "content": prompt.prefill})
        if not self._must_ask_to_go_on:
            goes_on = {"continue_final_message": True, "add_generation_prompt": False}
            return {"messages": messages}, goes_on if prompt.prefill else {}
        if options:
            shown = " or ".join(option.strip() for option in options)
            messages.append({"role": "user", "content": ONE_OF.format(options=shown)})
        elif prompt.prefill:
            messages.append({"role": "user", "content": GO_ON})
        return {"messages": messages}, {}


def _stripped(message: Message) -> Message:
    return message.model_copy(update={"content": message.content.strip()})
