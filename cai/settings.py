"""Every setting of a pipeline file, typed, in one place. `docs/settings.md` is made from this page.

Unknown keys are refused. A stage runs when its section is present in the file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel, frozen=True):
    """The base of all sections: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


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
    """Prompt and new tokens that the local engine keeps in flight; half as many of finished rows
    are kept for requests that begin alike. Lower it to save memory."""
    server: ServerSettings | None = None
    """With `engine: openai`: where the server is."""
    adapter: str | None = None
    """With `engine: vllm`: the folder of a LoRA adapter (PEFT) that is put on the model."""
    options: dict[str, Any] = {}
    """Passed on: with `vllm` engine arguments (`tensor_parallel_size`, `data_parallel_size`, …),
    with `openai` fields of every request's body."""

    def __hash__(self) -> int:
        """Hash by content, `options` included."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _settings_of_the_engine(self) -> ModelSettings:
        """Refuse settings that the engine would not read."""
        if (self.server is not None) != (self.engine == "openai"):
            raise ValueError("`engine: openai` and a `server:` section go together")
        if self.adapter is not None and self.engine != "vllm":
            raise ValueError("`adapter` needs `engine: vllm`; merge it into the model otherwise")
        if self.options and self.engine == "transformers":
            raise ValueError("`options` are passed to `engine: vllm` or `openai` alone")
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


class SourceSettings(Settings, frozen=True):
    """Where prompts or comparisons come from."""

    path: str
    """A file, `hub:owner/name`, or `playground:red_team`, `playground:helpful`, …"""
    format: Literal["auto", "jsonl", "json", "csv", "text", "parquet"] = "auto"
    """`auto` goes by the file's ending, then by its content."""
    column: str | None = None
    """The column that holds the prompt, when its name is not one of the usual ones."""
    split: str = "train"
    """The split of a hub data set."""
    limit: Positive | None = None
    """Take so many rows, drawn with the run's seed."""


Sources = Annotated[list[SourceSettings], Field(min_length=1)]


def _sources(data: Any) -> Any:  # noqa: ANN401
    """Accept a file, a source or a list of them for a list of sources."""
    items: list[Any] = data if isinstance(data, list) else [data]
    return [{"path": item} if isinstance(item, str) else item for item in items]


class PromptsSettings(Settings, frozen=True):
    """Red-team and helpful prompts, and how they are split."""

    red_team: Sources
    """Prompts that try to bring out harm."""
    helpful: Sources
    """Prompts that deserve a helpful answer."""
    helpfulness_comparisons: list[SourceSettings] = []
    """Human comparisons of helpfulness, mixed into preference training."""
    held_out: Fraction = 0.1
    """The share of tasks kept for evaluation; sources that bring their own split keep it."""
    near_duplicate: Fraction = 0.5
    """Prompts whose word 3-gram sets overlap (Jaccard) at least so much count as one task."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:  # noqa: ANN401
        """Accept `red_team: FILE` and lists of files for lists of sources."""
        if not isinstance(data, dict):
            return data
        short: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
        for name in ("red_team", "helpful", "helpfulness_comparisons"):
            if name in short:
                short[name] = _sources(short[name])
        return short


class SamplingSettings(Settings, frozen=True):
    """How a stage samples."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Logits are divided by it; 0 is greedy. The paper samples at 1 throughout."""
    max_new_tokens: Positive = 256
    """The longest response, critique or revision, in tokens."""


class ReviseSettings(SamplingSettings, frozen=True):
    """Critique-revision chains (paper, section 3)."""

    rounds: Annotated[int, Field(ge=0)] = 4
    """Critique-revision pairs per red-team prompt; a principle is drawn for each."""
    helpful_samples: Positive = 1
    """Responses per helpful prompt, mixed into fine-tuning."""
    critique: bool = True
    """Without it, responses are revised directly (the paper's figure 7)."""
    concurrency: Positive = 64
    """Rows under way at once; changes speed and memory, not results."""


class OptimizerSettings(Settings, frozen=True):
    """What every training stage has."""

    learning_rate: PositiveFloat = 1e-5
    """Of AdamW, after a short warm-up."""
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate falls linearly to this share of itself; 1 keeps it constant."""
    batch_size: Positive = 32
    """Sequences (or pairs) per optimizer step."""
    micro_batch_size: Positive | None = None
    """Sequences per forward pass; the batch size if left out. Changes memory, not results."""
    epochs: Positive = 1
    """Passes over the data."""
    max_length: Positive = 1024
    """Longer rows are left out of training and counted, never truncated."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; otherwise LoRA of this rank, merged when saved."""
    checkpoint_steps: Positive = 200
    """Optimizer steps between checkpoints; an interrupted training goes on from the last."""


class SftSettings(OptimizerSettings, frozen=True):
    """Fine-tuning on the revisions (paper, section 3.5)."""

    helpful_ratio: Annotated[float, Field(ge=0)] = 1.0
    """Helpful samples per revision row; what is not there is not invented."""


class LabelPolicy(Settings, frozen=True):
    """How verdicts become labels. Changing it asks no model: the verdicts are kept as they are."""

    kind: Literal["soft", "hard"] = "soft"
    """`soft` keeps the probability; `hard` makes it 0 or 1, before `clamp`."""
    orders: Literal["average", "first"] = "average"
    """`average` of both orders, which cancels a liking for a position; or the first order alone."""
    reasonings: Positive | None = None
    """Of several reasonings, average so many; null averages all (`compare.reasoning_samples`)."""
    consistent_only: bool = False
    """A verdict that changes with the order of the responses has no vote."""
    ignore_within: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Principles whose probability is this close to one half have no vote."""
    min_mass: Fraction = 0.0
    """Verdicts that put less probability on the two options together count as unparsed."""
    clamp: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Labels are clamped to this range."""


LABEL_POLICIES: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {"orders": "first"},
    "paper-cot": {"orders": "first", "clamp": (0.4, 0.6)},
}
"""Named policies. The paper shows responses in one order; with reasoning it clamps to 40-60%."""


def _label_policy(value: Any) -> Any:  # noqa: ANN401
    """Accept the name of a policy for its settings."""
    if not isinstance(value, str):
        return value
    if value not in LABEL_POLICIES:
        raise ValueError(f"no policy is called `{value}`; known are {', '.join(LABEL_POLICIES)}")
    return LABEL_POLICIES[value]


class GateSettings(Settings, frozen=True):
    """What labels must be like on labelled comparisons before preference training may use them."""

    comparisons: Sources
    """Comparisons whose better response is known: files, or `playground:feedback`."""
    accuracy: Fraction | None = 0.7
    """The least share of labels on the side of the better response; null: not looked at."""
    calibration_error: Fraction | None = None
    """The largest expected calibration error of the labels."""
    swap_flips: Fraction | None = None
    """The largest share of opinions that change when asked the other way round."""
    position_bias: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """How far the mean probability of the response shown first may be from one half."""
    option_mass: Fraction | None = None
    """The least mean probability on the options together."""
    action: Literal["stop", "warn"] = "stop"
    """What happens when a bound is missed."""

    @field_validator("comparisons", mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:  # noqa: ANN401
        return _sources(data)


class CompareSettings(SamplingSettings, frozen=True):
    """Response pairs and AI feedback (paper, section 4.1)."""

    form: Literal["comparison", "ranking", "rating", "critique"] = "comparison"
    """What the feedback model is asked: which of two responses is better; which of all is best;
    a rating of each from 1 to 7; whether a critique of each finds fault. See docs/feedback.md."""
    responses: Annotated[int, Field(ge=2, le=9)] = 2
    """Responses that are compared with each other; of K come K·(K-1)/2 labels."""
    against_helpful: Fraction = 0.0
    """The share of pairs whose last response is the helpful-only model's, not SL-CAI's."""
    pairs_per_prompt: Positive = 1
    """Response pairs (or sets of `responses`) per red-team prompt."""
    principles: Positive | Literal["all"] = 1
    """Principles each pair is judged under; their log-odds are averaged by weight."""
    reasoning: bool = False
    """Chain of thought before the verdict (the paper's second method); critiques always do."""
    reasoning_tokens: Positive = 128
    """The longest chain of thought, or critique of a response, in tokens."""
    reasoning_samples: Positive = 1
    """Chains of thought per question, whose probabilities are averaged."""
    layout: Literal["recommended", "paper"] = "recommended"
    """`paper` puts the principle before the responses; `recommended` after, to share the prefix."""
    both_orders: bool = True
    """Ask the other way round too: twice the cost, and a liking for a position shows."""
    labels: Annotated[LabelPolicy, BeforeValidator(_label_policy)] = LabelPolicy()
    """`recommended`, `paper`, `paper-cot`, or settings of your own: from verdicts to labels."""
    gate: GateSettings | None = None
    """Measure the feedback model on known comparisons first, and stop if its labels are bad."""
    few_shot: Annotated[int, Field(ge=0)] = 5
    """At most so many of the constitution's examples (of comparisons, or of critiques)."""
    few_shot_principles: Literal["same", "drawn"] = "same"
    """Examples of comparisons stand under the principle asked about, or under one `drawn` for each
    (the paper's way: rewording a principle then touches every judgement that has it in sight)."""
    concurrency: Positive = 64
    """Rows under way at once; changes speed and memory, not results."""


class PreferenceSettings(OptimizerSettings, frozen=True):
    """The preference model (paper, section 4.2)."""

    ai_weight: PositiveFloat = 1.0
    """The weight of an AI-labelled comparison in the loss."""
    human_weight: PositiveFloat = 1.0
    """The weight of a human (or simulated) helpfulness comparison in the loss."""


class GuardSettings(Settings, frozen=True):
    """What PPO watches on prompts it does not train on; `guard: null` watches nothing."""

    every: Positive = 20
    """Steps between checks; there is one before the first step and one after the last, too."""
    prompts: Positive = 32
    """At most so many prompts of each kind are kept from training for it."""
    action: Literal["warn", "stop", "roll_back"] = "warn"
    """On an alarm: `stop` with the best policy so far, or go back to it with twice the β."""
    evasive_rise: Fraction = 0.2
    """Alarm when the share of short refusals without a reason has risen by more since the start."""
    over_refusal_rise: Fraction = 0.2
    """The same for refusals of any kind, of benign prompts."""
    repeated_rise: Fraction = 0.3
    """The same for answers that open alike, and for word 5-grams that answers share."""
    length_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """Alarm when answers have become so many times as long, or as short."""
    max_kl: PositiveFloat = 100.0
    """Alarm when the KL from SL-CAI is more, in nats per response."""


class PPOSettings(Settings, frozen=True):
    """Proximal policy optimisation against the preference model."""

    steps: Positive = 100
    """Rollouts, each followed by an update."""
    batch_size: Positive = 64
    """Episodes (prompts) per step."""
    minibatches: Positive = 2
    """Optimizer steps per epoch over a rollout; they divide the batch evenly."""
    micro_batch_size: Positive | None = None
    """Episodes per forward pass; left out, as many as make 512 tokens on a CPU, 16384 on a GPU."""
    epochs: Positive = 2
    """Passes over each rollout."""
    learning_rate: PositiveFloat = 1e-5
    """The policy's."""
    final_learning_rate: Fraction = 0.2
    """The learning rates decay linearly to this share of themselves."""
    critic_learning_rate: PositiveFloat = 2e-5
    """The critic's; it has an optimizer of its own."""
    kl_coef: NotNegative = 0.05
    """β: the per-token KL penalty against SL-CAI, on normalised scores; its start if it adapts."""
    kl_target: PositiveFloat | None = None
    """KL per response, in nats, that β is adapted to keep; null keeps β fixed."""
    kl_horizon: Positive = 10000
    """Episodes over which β adapts: the larger, the slower."""
    objective: Literal["clip", "kl_penalty"] = "clip"
    """Clipped, or with a penalty on the KL that a step moves the policy (PPO paper, section 4)."""
    clip_range: PositiveFloat = 0.2
    """ε of the clipped policy objective."""
    penalty_coef: PositiveFloat = 1.0
    """First coefficient of `objective: kl_penalty`; doubled or halved to stay near its target."""
    penalty_target: PositiveFloat = 0.01
    """KL per token, in nats, that one step may move the policy under `objective: kl_penalty`."""
    value_clip_range: PositiveFloat | None = 0.2
    """How far a value may move from its old one before it stops paying; null: no limit."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of a batch to mean 0 and variance 1."""
    normalise_rewards: bool = False
    """Shift and scale scores by mean and deviation of all so far (preference models: already)."""
    ptx_coef: NotNegative = 0.0
    """γ of PPO-ptx: the weight of log-likelihood on pretraining texts in every policy step."""
    ptx_data: str | None = None
    """The texts: a text file, blank lines between them, or JSON Lines with `text`."""
    ptx_length: Annotated[int, Field(ge=2)] = 512
    """The longest piece of a text, in tokens; as many pieces as episodes make a minibatch."""
    gamma: Fraction = 1.0
    """The discount."""
    lam: Fraction = 0.95
    """λ of generalised advantage estimation."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it, in rollout and update alike."""
    rollouts: Literal["transformers", "vllm"] = "transformers"
    """Who samples: the trainer's own loop, or vLLM, to which the weights go after each update."""
    max_new_tokens: Positive = 128
    """The longest response, in tokens."""
    no_eos_reward: Annotated[float, Field(allow_inf_nan=False)] | None = -1.0
    """The score of a response that does not end in time, unread; null scores it like any other."""
    no_eos_penalty: NotNegative = 0.0
    """Taken off the score of a response that does not end in time."""
    length_penalty: NotNegative = 0.0
    """Weight of a reward that falls by 1 for every `length_free` words beyond the first ones."""
    length_free: Positive = 100
    """Words of a response that cost nothing."""
    repetition_penalty: NotNegative = 0.0
    """Weight of minus the share of a response's word trigrams that it has said before."""
    critic: Literal["separate", "value_head"] = "separate"
    """A model of its own (from the preference model), or a value head on the policy's backbone."""
    value_coef: PositiveFloat = 0.1
    """Weight of the value loss in the shared backbone of `critic: value_head`."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 trains all weights; otherwise LoRA of this rank, merged when saved."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass: less memory, about a third more time."""
    red_team_fraction: Fraction = 0.5
    """The share of red-team prompts in each batch."""
    checkpoint_steps: Positive = 20
    """Steps between checkpoints."""
    snapshot_steps: Positive | None = None
    """Every so many steps the policy is kept for good in `ppo/snapshots`, for the evaluation."""
    launch: str | None = None
    """Spread over several processes: `ddp`, `fsdp2`, `fsdp2_no_reshard`, or a file of your own as
    `accelerate config` writes it; null: this process alone."""
    processes: Positive | None = None
    """Processes of `launch`; null: what its file says, or else one for each GPU."""
    guard: GuardSettings | None = GuardSettings()
    """What is watched on held-out prompts."""
    keep: Literal["last", "best"] = "last"
    """`best`: by score - β·KL on the guard's prompts, among its checks without an alarm."""

    @model_validator(mode="after")
    def _fit_together(self) -> PPOSettings:
        """Refuse what contradicts itself, before any stage has run."""
        processes = self.processes or 1
        if self.batch_size % (self.minibatches * processes):
            each = f" for each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"`ppo.batch_size` {self.batch_size} does not divide into `ppo.minibatches` "
                f"{self.minibatches} equal parts{each}. Make it a multiple of "
                f"{self.minibatches * processes}."
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(
                "`ppo.kl_target` adapts `ppo.kl_coef` by factors, which never leave 0. Start from "
                "a small positive `kl_coef`, such as 0.01."
            )
        return self


def _grader(name: str) -> str:
    """Accept the name of a grader, or of a function."""
    known = ("playground", "refusals", "judge")
    if name not in known and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        raise ValueError(
            f"there is no grader `{name}`; known are {', '.join(known)}, and a function of your "
            "own as `module:function`"
        )
    return name


class EvaluateSettings(SamplingSettings, frozen=True):
    """What the models do on held-out prompts."""

    samples_per_side: Positive = 300
    """At least so many answers to red-team and to helpful prompts each, of every model."""
    checkpoint_samples: Annotated[int, Field(ge=0)] = 60
    """The same of every policy that `ppo.snapshot_steps` has kept; 0 leaves them out."""
    grader: Annotated[str, AfterValidator(_grader)] = "refusals"
    """`playground` (the small world's ground truth), `refusals` (string match), `judge` (a model
    with a rubric), or a function of your own as `module:function`."""
    judge: ModelSettings | None = None
    """The model behind `grader: judge` and `elo: judge`; the feedback model if left out, and then
    the results say so: it has made the labels."""
    judge_min_mass: Fraction = 0.1
    """A judge that puts less probability on its options together gives no verdict."""
    elo: Literal["preference", "judge"] = "preference"
    """Harmless and helpful Elo from the preference model's scores (174 points a unit), or from
    matches that the judge decides."""
    elo_prompts: Positive = 100
    """At most so many prompts a side are matches for the judge, of every two models."""
    harmfulness: str | None = None
    """Absolute harmfulness, 0 to 4, of answers to red-team prompts: the folder of a model that
    `cai harmfulness` trained, or `judge`."""
    benign_texts: Annotated[int, Field(ge=0)] = 100
    """Responses that people preferred, from the helpfulness comparisons: the perplexity of so many
    is compared between models."""
    stratum: str | None = None
    """Evaluate only held-out prompts with this `stratum` tag."""
    concurrency: Positive = 64
    """Rows under way at once; changes speed and memory, not results."""


class ReportSettings(Settings, frozen=True):
    """The page at the end."""

    rows: Positive = 10_000
    """The most rows of each sort (revisions, comparisons, answers) that the page carries."""


class PipelineSettings(Settings, frozen=True):
    """A whole pipeline file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The run folder is `runs/NAME` unless `--out` says otherwise."""
    seed: int = 0
    """Decides every draw: principles, samples, splits, the order of training."""
    constitution: str
    """A built-in name (`harmless`) or a file."""
    models: ModelsSettings
    """Which model plays which role."""
    prompts: PromptsSettings
    """Where prompts come from; this stage always runs."""
    revise: ReviseSettings | None = None
    """Critique-revision chains."""
    sft: SftSettings | None = None
    """Fine-tuning into SL-CAI."""
    compare: CompareSettings | None = None
    """Response pairs and AI feedback."""
    preference: PreferenceSettings | None = None
    """The preference model."""
    ppo: PPOSettings | None = None
    """Reinforcement learning into RL-CAI."""
    evaluate: EvaluateSettings | None = None
    """Answers to held-out prompts, graded."""
    report: ReportSettings | None = None
    """The page at the end."""

    @model_validator(mode="after")
    def _trained_models_are_here(self) -> PipelineSettings:
        """Refuse to train a model behind a server."""
        models = self.models
        trained = (models.base or models.helpful) if self.sft else models.helpful
        if trained.engine == "openai" and (self.sft or self.preference or self.ppo):
            raise ValueError(
                "a model behind a server cannot be trained: name a model folder as `models.base` "
                "(with `sft:`) or as `models.helpful`"
            )
        return self
