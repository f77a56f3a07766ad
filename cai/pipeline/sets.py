"""The inputs of evaluations by name: prompt sets and recorded answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cai.data.prompts.readers import READERS
from cai.data.records import Kind, PromptRow
from cai.data.store import read_rows
from cai.errors import CaiError
from cai.evaluate.recorded import Recorded, read_answers
from cai.evaluate.sets import PROMPT_SETS, QUESTION_SETS, PromptSet, read_set
from cai.pipeline.load import read_resolved
from cai.settings import PromptsSettings, SourceSettings
from cai.settings.paths import user_path

RUN = "run"
ANSWERS = "answers"


def read_prompt_set(spec: str, *, seed: int, limit: int | None) -> PromptSet:
    """Read a prompt set.

    Args:
        spec: `NAME:FILE` with the name of a known set, or `red_team` or `helpful` for any other
            file; `SCHEME:red_team` or `SCHEME:helpful` with a source that has its own split (tasks
            that training never sees); or `run:FOLDER` (the held-out prompts of a run).
        seed: Draws the prompts of such a source.
        limit: The largest number of prompts.

    Raises:
        CaiError: There is no such set, or its file cannot be read.
    """
    name, _, rest = spec.partition(":")
    name = name.replace("-", "_").lower()
    with_split = {scheme: reader for scheme, reader in READERS.items() if reader.own_split}
    if name in with_split and (rest == "red_team" or rest == "helpful"):
        reader = with_split[name](SourceSettings(path=f"{name}:{rest}"), Path())
        rows = [
            row
            for row in reader.prompts(rest, seed=seed)
            if isinstance(row, PromptRow) and row.split == "held_out"
            if reader.unseen_stratum in (None, row.tags.get("stratum"))
        ]
        return PromptSet(spec, prompts=tuple(_named(rows[:limit], f"{name}_{rest}")))
    if name == RUN and rest:
        rows = _prompts_of_run(user_path(rest))
        held_out = [row for row in rows if row.split == "held_out" and row.state == "ok"]
        if not held_out:
            raise CaiError(f"The run {rest} has no held-out prompts. Raise `prompts.held_out`.")
        return PromptSet(spec, prompts=tuple(_named(held_out[:limit], RUN)))
    if rest and (name in PROMPT_SETS or name in QUESTION_SETS):
        return read_set(name, rest, limit=limit)
    known = [f"`{known}:FILE`" for known in (*PROMPT_SETS, *QUESTION_SETS)]
    known += [f"`{scheme}:{kind}`" for scheme in with_split for kind in get_args(Kind)]
    hint = (
        f" For a file of your own, say what is in it: `red_team:{spec}` or `helpful:{spec}`."
        if Path(spec).exists()
        else ""
    )
    raise CaiError(
        f"There is no prompt set `{spec}`.{hint} Use one of {', '.join(known)} or `{RUN}:FOLDER`."
    )


def read_recorded(spec: str) -> Recorded | None:
    """Read `answers:FILE` or `answers:red_team:FILE`; None if it has another form.

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


def _prompts_of_run(folder: Path) -> list[PromptRow]:
    stages = read_resolved(folder).named(PromptsSettings)
    return [row for name in stages for row in read_rows(folder / name / "rows.jsonl", PromptRow)]


def _named(rows: Sequence[PromptRow], name: str) -> list[PromptRow]:
    return [row.model_copy(update={"tags": {**row.tags, "set": name}}) for row in rows]
