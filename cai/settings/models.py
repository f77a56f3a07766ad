"""`models`: the engine of each model, and the role of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from cai.settings.base import NotNegative, Positive, PositiveFloat, Settings, several

BodyField = Literal[
    "max_tokens", "temperature", "seed", "n", "stop", "stop_token_ids", "logprobs", "top_logprobs"
]
"""Fields that requests to a server have, and that some servers do not take."""


class ServerSettings(Settings, frozen=True):
    """A server with OpenAI's API, and its prices."""

    base_url: Annotated[str, Field(pattern="^https?://")] = "https://api.openai.com/v1"
    """The address of the API, such as `http://localhost:8000/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the key; null for a server without keys."""
    kind: Literal["auto", "openai", "vllm"] = "auto"
    """`vllm` servers have more functions than OpenAI's API; `auto` asks the server for its kind."""
    tokenizer: str | None = None
    """The model's tokenizer (a folder or hub id): prompts are then sent as token ids."""
    scores: Literal["auto", "exact", "echo", "top", "samples"] = "auto"
    """How options get their log-probabilities, see docs/engines.md; `auto`: the best available."""
    samples: Positive = 16
    """Verdicts that are sampled and counted if the server gives no log-probabilities."""
    omit: Annotated[tuple[BodyField, ...], BeforeValidator(several)] = ()
    """Fields of requests that are left out, such as `[seed]`; the server's own value then holds.
    `options` of the model adds fields."""
    rename: dict[BodyField, str] = Field(default={})
    """Fields of requests that have another name here: `{max_tokens: max_completion_tokens}`."""
    concurrency: Positive = 64
    """Requests sent at the same time."""
    retries: Annotated[int, Field(ge=0)] = 6
    """How often a request is sent again after a rate limit, a timeout or a broken answer."""
    timeout: PositiveFloat = 600.0
    """The longest time for one answer, in seconds."""
    price_in: NotNegative = 0.0
    """Per million tokens of prompts that were not cached, in any currency."""
    price_cached: NotNegative | None = None
    """Per million tokens of prompts that were cached; `price_in` if left out."""
    price_out: NotNegative = 0.0
    """Per million tokens sampled."""

    @model_validator(mode="after")
    def _fields_of_requests(self) -> ServerSettings:
        """Refuse names of fields that contradict each other."""
        names = [*self.rename.values()]
        if twice := {*self.omit} & {*self.rename}:
            raise ValueError(f"`omit` and `rename` both name `{min(twice)}`: keep one of them")
        if wrong := [n for n in names if n in get_args(BodyField) or names.count(n) > 1 or not n]:
            raise ValueError(f"`rename` gives the name `{wrong[0]}` to two fields, or it is empty")
        if "logprobs" in self.omit and self.scores not in ("auto", "samples"):
            raise ValueError(f"`scores: {self.scores}` needs `logprobs`, which `omit` leaves out")
        return self


class BestOfSettings(Settings, frozen=True):
    """Each answer is the best of several, by a preference model."""

    n: Annotated[int, Field(ge=2)] = 8
    """Responses sampled for each answer."""
    by: str
    """The model folder of a preference model (`RUN/preference/model`)."""


class ModelSettings(Settings, frozen=True):
    """A model and how it is run."""

    path: str
    """A folder in transformers' format, a hub id, or `playground` for the shipped tiny model; with
    `engine: openai`, the model's name on the server."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    """What runs the model: this process, vLLM, or a server with OpenAI's API."""
    format: Literal["chat", "transcript"] = "chat"
    """`chat`: the tokenizer's own chat template. `transcript`: Human/Assistant (base models)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is float32 on a CPU and bfloat16 on a GPU."""
    max_batch_tokens: Positive = 16384
    """The most tokens that the running rows of the local engine can need in all. Half as many of
    finished rows are kept for requests with the same prefix. Lower it to save memory."""
    server: ServerSettings | None = None
    """With `engine: openai`: the server."""
    adapter: str | None = None
    """With `engine: vllm`: the folder of a LoRA adapter (PEFT) for the model."""
    best_of: BestOfSettings | None = None
    """Sample several responses for each answer, and give the one that a preference model scores
    highest. Such a model cannot be trained."""
    options: dict[str, Any] = Field(default={})
    """Passed on: with `vllm` engine arguments (`tensor_parallel_size`, `data_parallel_size`, …),
    with `openai` fields of every request's body."""

    def __hash__(self) -> int:
        """Hash by content, `options` included."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _settings_of_the_engine(self) -> ModelSettings:
        """Refuse settings that the engine does not read."""
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
    """The role of each model."""

    helpful: ModelSettings
    """The helpful-only model that answers, critiques and revises."""
    reviser: ModelSettings | None = None
    """Another model that critiques and revises the responses; null: the model that gave them."""
    base: ModelSettings | None = None
    """The model that is fine-tuned into SL-CAI; the helpful-only model if left out."""
    feedback: ModelSettings | None = None
    """The model that compares responses; the helpful-only model if left out."""
    fallback: ModelSettings | None = None
    """The model that is asked where the feedback model gives no verdict (`refused`, `unparsed`,
    `too_long` or `failed`), or puts less than `compare.labels.min_mass` on the options; null:
    none."""
