"""`models`: what runs each model, and who plays which role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cai.settings.base import NotNegative, Positive, PositiveFloat, Settings


class ServerSettings(Settings, frozen=True):
    """A server that speaks OpenAI's API, and what it costs to ask it."""

    base_url: Annotated[str, Field(pattern="^https?://")] = "https://api.openai.com/v1"
    """Where its API is, such as `http://localhost:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key; null for a server that wants none."""
    kind: Literal["auto", "openai", "vllm"] = "auto"
    """`vllm` servers can do more than OpenAI's API says; `auto` asks the server what it is."""
    tokenizer: str | None = None
    """The model's own tokenizer (a folder or hub id): prompts are then sent as token ids."""
    scores: Literal["auto", "exact", "echo", "top", "samples"] = "auto"
    """How options get their log-probabilities, see docs/engines.md; `auto` is the best there is."""
    samples: Positive = 16
    """Verdicts that are sampled and counted where the server gives no log-probabilities."""
    concurrency: Positive = 64
    """Requests under way at once."""
    retries: Annotated[int, Field(ge=0)] = 6
    """How often a request is sent again after a rate limit, a timeout or a broken answer."""
    timeout: PositiveFloat = 600.0
    """Seconds that one answer may take."""
    price_in: NotNegative = 0.0
    """Per million tokens of prompts that were not cached, in any currency."""
    price_cached: NotNegative | None = None
    """Per million tokens of prompts that were cached; `price_in` if left out."""
    price_out: NotNegative = 0.0
    """Per million tokens sampled."""


class ModelSettings(Settings, frozen=True):
    """A model and how to speak with it."""

    path: str
    """A folder in transformers' format, a hub id, or `playground` for the shipped tiny model; with
    `engine: openai`, the model's name on the server."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    """What runs the model: this process, vLLM, or a server that speaks OpenAI's API."""
    format: Literal["chat", "transcript"] = "chat"
    """`chat`: the tokenizer's own chat template. `transcript`: Human/Assistant (base models)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is float32 on a CPU and bfloat16 on a GPU."""
    max_batch_tokens: Positive = 16384
    """Tokens of all pages that the rows under way may come to need in the local engine; half as
    many of finished rows are kept for requests that begin alike. Lower it to save memory."""
    server: ServerSettings | None = None
    """With `engine: openai`: where the server is."""
    adapter: str | None = None
    """With `engine: vllm`: the folder of a LoRA adapter (PEFT) that is put on the model."""
    options: dict[str, Any] = Field(default={})
    """Passed on: with `vllm` engine arguments (`tensor_parallel_size`, `data_parallel_size`, …),
    with `openai` fields of every request's body."""

    def __hash__(self) -> int:
        """Hash by content, `options` included."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _settings_of_the_engine(self) -> ModelSettings:
        """Refuse settings that the engine would not read."""
        if (self.server is not None) != (self.engine == "openai"):
            raise ValueError(
                "`engine: openai` and a `server:` section (`server: {base_url: URL}`) go together"
            )
        if self.adapter is not None and self.engine != "vllm":
            raise ValueError("`adapter` needs `engine: vllm`; merge it into the model otherwise")
        if self.options and self.engine == "transformers":
            raise ValueError("`options` can only be set with `engine: vllm` or `openai`")
        return self


class ModelsSettings(Settings, frozen=True):
    """Who plays which role."""

    helpful: ModelSettings
    """The helpful-only model that answers, critiques and revises."""
    base: ModelSettings | None = None
    """The model that is fine-tuned into SL-CAI; the helpful-only model if left out."""
    feedback: ModelSettings | None = None
    """The model that compares responses; the helpful-only model if left out."""
    fallback: ModelSettings | None = None
    """The model that is asked again where the feedback model refuses, rambles, fails or puts less
    than `compare.labels.min_mass` on the options; null asks no one."""
