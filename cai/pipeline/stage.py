"""What a stage of the method is: what it reads, what it makes for others, and how it works.

The stages themselves are in `cai/pipeline/stages`, a module each, and `cai.pipeline.method` lists
them. A stage names no other stage: it says which kinds of thing it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cai.settings import StageSettings

if TYPE_CHECKING:
    from cai.pipeline.context import Context

S = TypeVar("S", bound=StageSettings)

PROMPTS = "prompts"
"""A folder with `rows.jsonl` (`PromptRow`) and `comparisons.jsonl` (`ComparisonRow`)."""
REVISIONS = "revisions"
"""A folder with `rows.jsonl` (`RevisionRow`) and `train.parquet`."""
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
    """What a stage makes for others.

    Attributes:
        name: Its name where the section is called after the stage (`sl-cai`); under another name
            both have that one.
        kind: One of the kinds above, or a new one.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Need:
    """One thing that a stage reads.

    Attributes:
        kind: Of which kind it is.
        default: Outputs by name; the first that this pipeline has is taken unless `from` names
            another.
        optional: The stage can do without.
    """

    kind: str
    default: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Every:
    """All that the pipeline has of a kind; of any kind, if that is None."""

    kind: str | None = None


@dataclass(frozen=True)
class Stage(Generic[S]):
    """One step of the method.

    Attributes:
        name: Its name, which is its section's and its folder's unless a section says otherwise.
        settings: The class of its section.
        run: Makes the files; returns the metrics of this execution.
        outputs: Files and folders that make up its result.
        makes: What other stages may read of it.
        needs: What it reads.
        inputs: Hashes of what it reads from outside the run folder, besides models to start from.
        check: Raises a CaiError for what can be known to go wrong before any stage has run.
        trains: It trains the policy that it starts from, so that one cannot be behind a server.
        version: Raised when the code changes what the stage makes from the same inputs.
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
    version: int = 1


@dataclass(frozen=True)
class Source:
    """Something that a stage reads.

    Attributes:
        name: What it is called (`sl-cai`).
        stage: The name of the stage that makes it; None for a model that is given.
    """

    name: str
    stage: str | None


@dataclass(frozen=True)
class Placed:
    """A stage at its place in a pipeline.

    Attributes:
        name: Its name there, and its folder's.
        stage: What it is.
        settings: Its section.
        sources: What it reads, by kind.
    """

    name: str
    stage: Stage[Any]
    settings: StageSettings
    sources: Mapping[str, tuple[Source, ...]]

    @property
    def output(self) -> Output | None:
        """What it makes for others, under its name in this pipeline."""
        made = self.stage.makes
        return made and (made if self.name == self.stage.name else Output(self.name, made.kind))

    @property
    def upstream(self) -> tuple[str, ...]:
        """The stages whose files it reads."""
        sources = (source for found in self.sources.values() for source in found)
        return tuple(dict.fromkeys(source.stage for source in sources if source.stage))
