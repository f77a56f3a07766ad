"""Models one after the other: who is open when, what stays in the files, how rows are counted."""

import asyncio

import pytest

from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.data.rows import silent
from cai.engines.scripted import ScriptedEngine
from cai.evaluate.asking import Asker, Subject
from cai.evaluate.grading import plain_grader
from cai.evaluate.texts import BenignText
from cai.settings import EvaluateSettings

TEXTS = (BenignText(user("Hello"), "Hi there", "task"),)


class Watched(ScriptedEngine):
    """Gives way to others before each answer, and writes down what becomes of it."""

    def __init__(self, path, events):
        super().__init__(lambda _: f"Said by {path}.", lambda _: [-1.0])
        self.path, self.events = path, events
        self.under_way = self.most = 0

    @property
    def fingerprint(self):
        return self.path

    async def generate(self, request):
        self.events.append(f"ask {self.path}")
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        self.under_way -= 1
        return await super().generate(request)

    async def score(self, request):
        self.events.append(f"score {self.path}")
        return await super().score(request)

    async def close(self):
        self.events.append(f"close {self.path}")


def samples(count=6):
    return [
        (
            PromptRow(
                key=f"p{n}",
                kind="helpful",
                split="held_out",
                messages=user(f"{n}?"),
                source="test",
                task=f"t{n}",
            ),
            0,
        )
        for n in range(count)
    ]


def asker(folder, grader="refusals"):
    settings = EvaluateSettings(concurrency=4)
    return Asker(folder, settings, 1, plain_grader(grader), lambda _what: silent)


def ask(folder, *subjects, **more):
    return asyncio.run(asker(folder).ask(subjects, **more))


def in_a_row(events):
    """Leave one of equal events that follow each other."""
    return [now for before, now in zip([None, *events], events, strict=False) if now != before]


@pytest.fixture
def events():
    return []


def test_a_model_is_done_with_before_the_next_is_asked_and_gets_all_the_room(tmp_path, events):
    one, two, judge = (Watched(name, events) for name in ("one", "two", "judge"))
    subjects = (
        Subject("a", one, samples(), texts=TEXTS),
        Subject("b", two, samples(), texts=TEXTS),
        Subject("c", judge, samples()),
        Subject("again", one, samples(3), file="checkpoints"),
    )
    found = ask(tmp_path, *subjects, keep=judge)
    assert in_a_row(events) == [
        *("ask one", "score one", "ask one", "close one"),
        *("ask two", "score two", "close two", "ask judge"),
    ]
    assert [engine.most for engine in (one, two, judge)] == [4, 4, 4]
    assert [row.response for row in found.answers["checkpoints"].rows] == ["Said by one."] * 3
    assert found.logprobs == {"a": [-1.0], "b": [-1.0], "c": [], "again": []}
    assert found.choices == []
    assert not (tmp_path / "choices.jsonl").exists()


def test_one_file_holds_the_rows_of_all_models_by_key(tmp_path, events):
    one, two = Watched("one", events), Watched("two", events)
    found = ask(tmp_path, Subject("a", one, samples()), Subject("b", two, samples()))
    rows = found.answers["rows"]
    assert [row.key for row in rows.rows] == sorted(row.key for row in rows.rows)
    assert {row.model for row in rows.rows} == {"a", "b"}
    assert (len(rows.rows), rows.states, rows.reused, rows.waited) == (12, {"ok": 12}, set(), 4)
    before = (tmp_path / "rows.jsonl").read_bytes()
    events.clear()
    # Another model in between: the rows of the others are kept, whatever their place.
    three = Watched("three", events)
    more = ask(
        tmp_path,
        *(Subject("a", one, samples()), Subject("c", three, samples(2))),
        Subject("b", two, samples()),
    ).answers["rows"]
    assert in_a_row(events) == ["close one", "ask three", "close three", "close two"]
    assert more.reused == {row.key for row in rows.rows}
    assert (len(more.rows), more.waited) == (14, 0)
    # A model that is no longer asked leaves the file.
    ask(tmp_path, Subject("a", one, samples()), Subject("b", two, samples()))
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_what_the_models_before_a_kill_said_is_not_asked_again(tmp_path, events):
    class Dies(Watched):
        async def generate(self, request):
            if events.count("ask two") == 4:
                raise RuntimeError("killed")
            return await super().generate(request)

    subjects = [Subject(name, Watched(name, events), samples()) for name in ("one", "two")]
    whole = ask(tmp_path / "whole", *subjects)
    events.clear()
    killed = [subjects[0], Subject("two", Dies("two", events), samples())]
    with pytest.raises(RuntimeError, match="killed"):
        ask(tmp_path / "killed", *killed)
    kept = (tmp_path / "killed/rows.partial.jsonl").read_text().splitlines()
    assert sum('"model":"one"' in line for line in kept) >= 6
    events.clear()
    again = ask(tmp_path / "killed", *subjects)
    assert again.answers["rows"].rows == whole.answers["rows"].rows
    assert "ask one" not in events
    assert events.count("ask two") == 12 - len(kept)
    assert not (tmp_path / "killed/rows.partial.jsonl").exists()
