"""Kinds of sources: a reader for each, found by the scheme of a source's path."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from cai.data.prompts.comparisons import comparison_rows
from cai.data.prompts.demonstrations import demonstration_rows
from cai.data.prompts.extraction import layout_name, prompt_row
from cai.data.prompts.files import find_file, read_file
from cai.data.prompts.ratings import rated_rows
from cai.data.prompts.record import LeftOut, Record, read_each, say_what_was_read
from cai.data.prompts.trees import with_threads
from cai.data.records import ComparisonRow, DemonstrationRow, Kind, PromptRow, RatedRow
from cai.errors import CaiError
from cai.settings import SourceSettings

ComparisonPurpose = Literal["helpfulness", "feedback"]
"""Comparisons to train on, or to measure the feedback model's labels on."""
Purpose = Literal[Kind, ComparisonPurpose, "ratings", "demonstrations"]
"""What a source is read for."""


@dataclass(frozen=True)
class Reader(ABC):
    """Reads one source. A kind of source is a subclass of this and an entry in `READERS`.

    A source of records needs `records` and `fingerprint` alone. All methods raise a CaiError when
    the source cannot be read, or has nothing for this purpose.

    Attributes:
        source: The source.
        base_dir: The pipeline file's folder, from which paths are relative.
        own_split: The source brings its own split. Its prompts keep their task and split, and
            near-duplicates of them in other sources get the same; all of its comparisons and
            ratings are for training; `SCHEME:red_team` and `SCHEME:helpful` are prompt sets.
        unseen_stratum: The `stratum` (a tag) of those prompt sets; None for all held-out prompts.
        default_ratings: How many ratings `cai harmfulness` takes; None for all.
    """

    source: SourceSettings
    base_dir: Path
    own_split: ClassVar[bool] = False
    unseen_stratum: ClassVar[str | None] = None
    default_ratings: ClassVar[int | None] = None

    @abstractmethod
    def records(self) -> list[Record]:
        """Read all rows."""

    @abstractmethod
    def fingerprint(self, purpose: Purpose) -> str | None:
        """Name what the source holds, so that a change is noticed; None leaves it out."""

    def prompts(self, kind: Kind, *, seed: int) -> Sequence[PromptRow | LeftOut | None]:  # noqa: ARG002
        """Return the prompts in their order, or why a row has none; None for each blank row.

        With `own_split` these are at most `source.limit`, drawn with the seed. Otherwise they are
        all, under the hash of their messages: `load_prompts` draws the limit, and splits them.
        """
        records = with_threads(self.records())
        source = self.source
        rows = read_each(source.path, records, lambda record: prompt_row(record, source, kind))
        layouts = [layout_name(record, source.column) for record in records]
        say_what_was_read(source.path, records, layouts)
        if not any(isinstance(row, PromptRow) for row in rows):
            what = "left out" if any(rows) else "blank"
            raise CaiError(
                f"{source.path} holds no prompt: all of its {len(rows)} rows are {what}. Fill them."
            )
        return rows

    def comparisons(self, purpose: ComparisonPurpose, *, seed: int) -> list[ComparisonRow]:  # noqa: ARG002
        """Return at most `source.limit` comparisons, as `load_comparisons` describes them."""
        return comparison_rows(self.records(), self.source, seed)

    def ratings(self, *, seed: int) -> list[RatedRow]:
        """Return at most `source.limit` rated conversations, each once."""
        return rated_rows(self.records(), self.source, seed)

    def demonstrations(self, *, seed: int) -> list[DemonstrationRow]:
        """Return at most `source.limit` prompts with answers, each once."""
        return demonstration_rows(self.records(), self.source, seed)


class FileReader(Reader):
    """Reads a file of any format that `cai.data.prompts.files` knows."""

    def records(self) -> list[Record]:
        """Read all rows."""
        return read_file(find_file(self.source.path, self.base_dir), self.source.format)

    def fingerprint(self, purpose: Purpose) -> str:  # noqa: ARG002
        """Hash the file."""
        with find_file(self.source.path, self.base_dir).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class HubReader(Reader):
    """Reads `hub:owner/name` or `hub:owner/name/configuration`."""

    def records(self) -> list[Record]:
        """Load the data set."""
        from datasets import load_dataset

        path, split = self.source.path, self.source.split
        parts = path.removeprefix("hub:").split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise CaiError(
                f"`{path}` names no data set. Write `hub:owner/name` or "
                "`hub:owner/name/configuration`."
            )
        name, configuration = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
        try:
            rows = load_dataset(name, configuration, split=split)
        except (OSError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise CaiError(
                f"The hub data set {name} (split `{split}`) cannot be loaded: {reason}. Check its "
                "name, its `split` and the network; without network, download it elsewhere and "
                "give the file's path."
            ) from error
        return [Record.of(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]

    def fingerprint(self, purpose: Purpose) -> str:  # noqa: ARG002
        """Name the data set and its split."""
        return f"{self.source.path}, split {self.source.split}"


class PlaygroundReader(Reader):
    """Reads `playground:PURPOSE`, made by the shipped small world (docs/playground.md)."""

    own_split = True
    unseen_stratum = "task"
    default_ratings = 600

    def records(self) -> list[Record]:
        """Refuse: its rows were never records."""
        raise CaiError(f"{self.source.path} cannot be read here. Name a file or `hub:owner/name`.")

    def fingerprint(self, purpose: Purpose) -> str | None:
        """Name the world's version; manifests have never had it for known comparisons."""
        from cai.playground.world import VERSION

        self._part(purpose)
        return None if purpose == "feedback" else f"playground world {VERSION}"

    def prompts(self, kind: Kind, *, seed: int) -> list[PromptRow]:
        """Return requests; the path may name the other kind."""
        from cai.playground.sources import playground_prompts

        return playground_prompts(self._part(kind), seed=seed, limit=self.source.limit)

    def comparisons(self, purpose: ComparisonPurpose, *, seed: int) -> list[ComparisonRow]:
        """Return simulated comparisons."""
        from cai.playground.sources import feedback_comparisons, playground_comparisons

        self._part(purpose)
        make = feedback_comparisons if purpose == "feedback" else playground_comparisons
        return make(seed=seed, limit=self.source.limit)

    def ratings(self, *, seed: int) -> list[RatedRow]:
        """Return simulated ratings."""
        from cai.playground.sources import playground_ratings

        self._part("ratings")
        return playground_ratings(seed=seed, limit=self.source.limit)

    def _part(self, purpose: Purpose) -> Any:  # noqa: ANN401
        part = self.source.path.removeprefix("playground:")
        known = get_args(Kind) if purpose in get_args(Kind) else (purpose,)
        if part in known:
            return part
        if purpose == "feedback":
            raise CaiError(
                f"The playground has no {self.source.path!r} to measure labels on: write "
                "`playground:feedback`."
            )
        raise CaiError(
            f"The playground has no {part!r} here. Use "
            f"{' or '.join(f'`playground:{name}`' for name in known)}."
        )


READERS: dict[str, type[Reader]] = {
    "file": FileReader,
    "hub": HubReader,
    "playground": PlaygroundReader,
}
"""Readers by the scheme of a path, `SCHEME:…`. A path with none of these is a file's."""


def reader_of(source: SourceSettings, base_dir: Path) -> Reader:
    """Return the reader of a source; relative paths start at `base_dir`."""
    scheme = next((name for name in READERS if source.path.startswith(f"{name}:")), "file")
    return READERS[scheme](source, base_dir)


def read_records(path: str) -> list[Record]:
    """Read all rows of a file, relative to the current folder, or of a hub data set.

    Raises:
        CaiError: It cannot be found or read, or it holds no rows.
    """
    return with_threads(reader_of(SourceSettings(path=path), Path()).records())


def fingerprints(
    sources: Iterable[SourceSettings], purpose: Purpose, base_dir: Path
) -> dict[str, str]:
    """Name what sources hold, by their paths.

    Raises:
        CaiError: A file cannot be found, or a source has nothing for this purpose.
    """
    named = {source.path: reader_of(source, base_dir).fingerprint(purpose) for source in sources}
    return {path: name for path, name in named.items() if name is not None}
