"""What evaluations are told to read: prompt sets, recorded answers and ratings by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cai.errors import CaiError
from cai.evaluate.recorded import Recorded, read_answers
from cai.evaluate.sets import PROMPT_SETS, QUESTION_SETS, PromptSet, read_set
from cai.prompts import source_fingerprint
from cai.records import Kind, PromptRow, RatedRow
from cai.settings import SourceSettings
from cai.store import read_rows

PLAYGROUND = "playground"
RUN = "run"
ANSWERS = "answers"
RATINGS = f"{PLAYGROUND}:ratings"


def read_prompt_set(spec: str, *, seed: int, limit: int | None) -> PromptSet:
    """Read a set by its spelling.

    Args:
        spec: `NAME:FILE` with a known set's name, or `red_team` or `helpful` for a file of one's
            own; `playground:red_team`, `playground:helpful` (tasks that training never sees); or
            `run:FOLDER` (a run's held-out prompts).
        seed: Draws the playground's prompts.
        limit: Take so many.

    Raises:
        CaiError: There is no such set, or its file cannot be read.
    """
    name, _, rest = spec.partition(":")
    name = name.replace("-", "_").lower()
    if name == PLAYGROUND and (rest == "red_team" or rest == "helpful"):
        return PromptSet(spec, prompts=tuple(_playground(rest, seed)[:limit]))
    if name == RUN and rest:
        rows = read_rows(Path(rest) / "prompts" / "rows.jsonl", PromptRow)
        held_out = [row for row in rows if row.split == "held_out" and row.state == "ok"]
        if not held_out:
            raise CaiError(f"The run {rest} has no held-out prompts. Raise `prompts.held_out`.")
        return PromptSet(spec, prompts=tuple(_named(held_out[:limit], RUN)))
    if rest and (name in PROMPT_SETS or name in QUESTION_SETS):
        return read_set(name, rest, limit=limit)
    known = [f"`{known}:FILE`" for known in (*PROMPT_SETS, *QUESTION_SETS)]
    hint = (
        f" For a file of your own, say what is in it: `red_team:{spec}` or `helpful:{spec}`."
        if Path(spec).exists()
        else ""
    )
    raise CaiError(
        f"There is no prompt set `{spec}`.{hint} Known are {', '.join(known)}, "
        f"`{PLAYGROUND}:red_team`, `{PLAYGROUND}:helpful` and `{RUN}:FOLDER`."
    )


def read_recorded(spec: str) -> Recorded | None:
    """Read `answers:FILE`, or `answers:red_team:FILE`; None if the spelling is not of this form.

    Raises:
        CaiError: The file cannot be read, or has no answers.
    """
    name, _, path = spec.partition(":")
    if name != ANSWERS or not path:
        return None
    first, _, rest = path.partition(":")
    if first == "red_team" or first == "helpful":
        return read_answers(rest, first)
    return read_answers(path)


def read_rated(source: SourceSettings, *, seed: int, base_dir: Path) -> list[RatedRow]:
    """Read rated conversations: a file's, or `playground:ratings`.

    Raises:
        CaiError: The file cannot be read, or a row has no conversation or no rating.
    """
    if source.path == RATINGS:
        from cai.playground.sources import playground_ratings

        return playground_ratings(seed=seed, limit=source.limit)
    from cai.prompts.ratings import read_ratings

    return read_ratings(source, seed=seed, base_dir=base_dir)


def rated_fingerprint(source: SourceSettings, *, base_dir: Path) -> str:
    """Name what a source of ratings holds."""
    if source.path == RATINGS:
        from cai.playground.world import VERSION

        return f"playground world {VERSION}"
    return source_fingerprint(source, base_dir)


def _playground(kind: Kind, seed: int) -> list[PromptRow]:
    from cai.playground.sources import playground_prompts

    rows = playground_prompts(kind, seed=seed)
    return _named([row for row in rows if row.tags["stratum"] == "task"], f"{PLAYGROUND}_{kind}")


def _named(rows: Sequence[PromptRow], name: str) -> list[PromptRow]:
    return [row.model_copy(update={"tags": {**row.tags, "set": name}}) for row in rows]
