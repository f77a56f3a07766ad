"""A stage of the method: its inputs, its output for other stages, and its functions.

The stages themselves are in `cai/pipeline/stages`. A stage does not name other stages, only the
kinds of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cai.settings import ModelSettings, StageSettings

if TYPE_CHECKING:
    from cai.pipeline.context import Context

S = TypeVar("S", bound=StageSettings)

PROMPTS = "prompts"
"""A folder with `rows.jsonl` (`PromptRow`) and `comparisons.jsonl` (`ComparisonRow`)."""
REVISIONS = "revisions"
"""A folder with `rows.jsonl` (`RevisionRow`) and `train.parquet`."""
COMPLETIONS = "completions"
"""A folder with `train.parquet`: prompts, and completions to fine-tune on."""
SAMPLES = "samples"
"""A folder with `rows.jsonl` (`SamplesRow`)."""
COMPARISONS = "comparisons"
"""A folder with `rows.jsonl` (`ComparisonRow`) and `train.parquet`."""
POLICY = "policy"
"""A folder with `model`, a language model, and perhaps `snapshots/step-N` of its training."""
PREFERENCE_MODEL = "preference model"
"""A folder with `model`, which scores responses."""
HARMFULNESS_MODEL = "harmfulness model"
"""A folder with `model`, which rates harm."""
ANY = "any"
"""Whatever other stages make."""

HELPFUL, BASE, FEEDBACK = "helpful-only", "base", "feedback"
GIVEN = {HELPFUL: "helpful model", BASE: "base model", FEEDBACK: "feedback model"}
"""The policies that no stage makes: those of the section `models`, and what manifests call them."""


@dataclass(frozen=True)
class Output:
    """The output of a stage for other stages.

    Attributes:
        name: Its name if the section has the stage's name (`sl-cai`); otherwise it has the name of
            the section.
        kind: One of the kinds above, or a new one.
        also: A second kind that it can be read as.
    """

    name: str
    kind: str
    also: str | None = None


@dataclass(frozen=True)
class Need:
    """One input of a stage.

    Attributes:
        kind: Its kind.
        default: Names of outputs; the first one in this pipeline is used, unless `from` names
            another.
        optional: Whether the stage can run without it.
        wanted: Whether these settings ask for it; otherwise the default is not read.
        instead: What to set so that it is not wanted; `{}` is the name of the section.
    """

    kind: str
    default: tuple[str, ...]
    optional: bool = False
    wanted: Callable[[Any], bool] = lambda _: True
    instead: str = "remove `{}:`"


@dataclass(frozen=True)
class Every:
    """All outputs of a kind in the pipeline; of all kinds if it is None."""

    kind: str | None = None


def trained_model(placed: Placed, run: Path, start: ModelSettings) -> ModelSettings:
    """Return the model that a stage of a run has trained from another one."""
    path = str(run / placed.name / "model")
    # The tokenizer of a model that a stage has trained carries its chat template.
    new = {"path": path, "format": "chat", "adapter": None}
    return start.model_copy(update=new)


@dataclass(frozen=True)
class Stage(Generic[S]):
    """One step of the method.

    Attributes:
        name: Its name; by default also the name of its section and its folder.
        settings: The class of its section.
        run: Makes the files; returns the metrics of this execution.
        outputs: The files and folders of its result.
        makes: Its output for other stages.
        needs: Its inputs.
        inputs: Hashes of its inputs from outside the run folder, except models to start from.
        check: Raises a CaiError for errors that can be detected before any stage runs.
        trains: Whether it trains the policy that it starts from, which then cannot be on a server.
        model: The model that it makes, if that is a policy, from its folder and the model that it
            starts from.
        version: Increased when the code changes the output for the same inputs.
    """

    name: str
    settings: type[S]
    run: Callable[[Context[S]], dict[str, Any]]
    outputs: tuple[str, ...]
    makes: Output | None = None
    needs: tuple[Need | Every, ...] = ()
    inputs: Callable[[Context[S]], dict[str, str]] = lambda _: {}
    check: Callable[[Context[S]], None] = lambda _: None
    trains: bool = False
    model: Callable[[Placed, Path, ModelSettings], ModelSettings] = trained_model
    version: int = 1


@dataclass(frozen=True)
class Source:
    """An input of a stage in a pipeline.

    Attributes:
        name: Its name (`sl-cai`).
        stage: The name of the stage that makes it; None for a given model.
    """

    name: str
    stage: str | None


@dataclass(frozen=True)
class Placed:
    """A stage at its place in a pipeline.

    Attributes:
        name: Its name there, also of its folder.
        stage: The stage of the method.
        settings: Its section.
        sources: Its inputs, by kind.
    """

    name: str
    stage: Stage[Any]
    settings: StageSettings
    sources: Mapping[str, tuple[Source, ...]]

    @property
    def output(self) -> Output | None:
        """Its output for other stages, with its name in this pipeline."""
        made = self.stage.makes
        return made and (made if self.name == self.stage.name else replace(made, name=self.name))

    @property
    def upstream(self) -> tuple[str, ...]:
        """The stages whose files it reads."""
        sources = (source for found in self.sources.values() for source in found)
        return tuple(dict.fromkeys(source.stage for source in sources if source.stage))
