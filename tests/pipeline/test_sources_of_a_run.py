"""What a run makes of its sources, byte for byte: order, draws, splits, states, fingerprints.

The sums were recorded before sources had readers. A sum that changes means that runs which are
there already would not be made again as they were.
"""

import hashlib
import json
import re
import sqlite3
from functools import cache
from pathlib import Path
from string import ascii_lowercase

import pytest
from rich.console import Console

from cai.cli import harmfulness as command
from cai.constitution import load_constitution
from cai.conversation import user
from cai.errors import CaiError
from cai.label_quality import gold_comparisons, gold_fingerprints
from cai.pipeline import sets
from cai.pipeline.progress import Progress
from cai.pipeline.stage import Context
from cai.pipeline.stages import STAGES, harmfulness
from cai.playground.sources import playground_prompts
from cai.prompts.readers import READERS, Reader
from cai.records import ComparisonRow, PromptRow
from cai.settings import OptimizerSettings, PipelineSettings, PromptsSettings, SourceSettings

SEED = 7
HUB = "hub:someone/things"


def lines(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def digest(value):
    return hashlib.sha256(value).hexdigest()[:16]


def digest_rows(rows):
    return digest("\n".join(row.model_dump_json(exclude_none=True) for row in rows).encode())


@cache
def told(kind, split, count):
    """Return prompts of the small world, as texts, some of one split."""
    rows = sorted(playground_prompts(kind, seed=SEED, limit=120), key=lambda row: row.key)
    return [
        row.messages[-1].content for row in rows if row.split == split and len(row.messages) == 1
    ][:count]


@pytest.fixture
def context(tmp_path, monkeypatch):
    import datasets

    def load_dataset(name, configuration, *, split):
        return [{"question": f"{name} {split}, number {n}?"} for n in range(12)]

    monkeypatch.chdir(tmp_path)  # keys of rows that failed hold their file's path: make it short
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    red = [f"How would one break thing number {n} in a quiet street?" for n in range(25)]
    red += [*told("red_team", "held_out", 4), *told("red_team", "train", 4), " ", red[3]]
    help_ = [f"What is {n} plus {n}?" for n in range(30)] + told("helpful", "held_out", 4) + red[:2]
    asked = [f"Name {n} rivers of country {n * n}." for n in range(20)]
    asked += told("helpful", "held_out", 6) + told("helpful", "train", 6)
    lines(tmp_path, "red.jsonl", [{"prompt": text, "category": "street"} for text in red])
    lines(tmp_path, "help.jsonl", [{"body": text} for text in help_])
    pairs = [{"prompt": q, "chosen": f"Yes: {q}", "rejected": "No idea."} for q in asked]
    lines(tmp_path, "pairs.jsonl", [*pairs, pairs[0], {**pairs[1], "rejected": ""}])
    lines(tmp_path, "more.jsonl", [*pairs[4:8], *({**p, "rejected": "Ask me."} for p in pairs)])
    rated = [
        {"prompt": q, "response": f"Well, {q}", "rating": n % 5} for n, q in enumerate(asked * 2)
    ]
    lines(tmp_path, "rated.jsonl", rated)
    settings = PipelineSettings.model_validate(
        {
            "name": "sources",
            "seed": SEED,
            "constitution": "playground",
            "models": {"helpful": {"path": "playground"}},
            "prompts": {
                "red_team": [
                    {"path": "red.jsonl", "limit": 28},
                    {"path": "playground:red_team", "limit": 60},
                ],
                "helpful": [
                    {"path": "playground:helpful", "limit": 50},
                    {"path": "help.jsonl", "column": "body"},
                    {"path": HUB, "split": "test", "limit": 9},
                ],
                "helpfulness_comparisons": [
                    {"path": "pairs.jsonl", "limit": 24},
                    {"path": "playground:helpfulness", "limit": 40},
                    "more.jsonl",
                ],
                "held_out": 0.3,
            },
            "harmfulness": {"ratings": {"path": "rated.jsonl"}},
        }
    )
    return Context(
        settings,
        Path("run"),
        Path(),
        load_constitution("playground"),
        Progress(Console(quiet=True)),
    )


@pytest.fixture
def after_prompts(context):
    (context.folder / "prompts").mkdir(parents=True)
    return context, STAGES["prompts"].run(context)


def with_ratings(context, **source):
    section = context.settings.harmfulness.model_copy(update={"ratings": SourceSettings(**source)})
    context.settings = context.settings.model_copy(update={"harmfulness": section})
    return context


def test_prompts_and_comparisons(after_prompts):
    context, metrics = after_prompts
    del metrics["seconds"]
    assert metrics == {
        "rows": 180,
        "rows_reused": 0,
        "states": {"ok": 180},
        "splits": {
            "red_team train": 55,
            "red_team held_out": 32,
            "helpful train": 54,
            "helpful held_out": 39,
        },
        "comparisons": {"ok": 93, "unparsed": 1},
        "comparisons_of_held_out_prompts": 4,
        "read": 83,
        "empty": 1,
        "duplicates": 9,
        "beyond_limit": 3,
        "prompts": 70,
        "tasks": 38,
    }
    folder = context.folder / "prompts"
    assert {path.name: digest(path.read_bytes()) for path in folder.iterdir()} == {
        "comparisons.jsonl": "3aa3b85a8e0d7bda",
        "rows.jsonl": "b386d5ceacd27bdc",
    }


def test_fingerprints_of_prompts_and_comparisons(context):
    assert list(STAGES["prompts"].inputs(context).items()) == [
        ("red.jsonl", "a8d1ec0be6a24190"),
        ("playground:red_team", "playground world 2"),
        ("playground:helpful", "playground world 2"),
        ("help.jsonl", "2f4e6a64683f92fe"),
        (HUB, f"{HUB}, split test"),
        ("pairs.jsonl", "0c3f24116656a02b"),
        ("playground:helpfulness", "playground world 2"),
        ("more.jsonl", "805d09f0ef762f4a"),
    ]


@pytest.mark.parametrize(
    ("path", "limit", "left_out", "sum_"),
    [
        ("rated.jsonl", 50, 2, "4595f7793a2a24a3"),
        ("playground:ratings", 300, 0, "81865a03006875b7"),
        ("playground:ratings", None, 0, "d14c29a8b212bb13"),
    ],
)
def test_ratings(after_prompts, monkeypatch, path, limit, left_out, sum_):
    context = with_ratings(after_prompts[0], path=path, limit=limit)
    (context.folder / "harmfulness").mkdir()
    monkeypatch.setattr(harmfulness, "train_model", lambda *_: {})
    found = harmfulness.STAGE.run(context)["ratings_of_held_out_prompts"]
    data = context.folder / "harmfulness" / "model-ratings.jsonl"
    assert (found, digest(data.read_bytes())) == (left_out, sum_)


@pytest.mark.parametrize(
    ("path", "named"),
    [("rated.jsonl", "bde07b2952c11448"), ("playground:ratings", "playground world 2")],
)
def test_fingerprints_of_ratings(context, path, named):
    assert harmfulness.STAGE.inputs(with_ratings(context, path=path))[path] == named


@pytest.mark.parametrize(
    ("ratings", "rows", "sum_"),
    [("rated.jsonl", 64, "2f6bcb5cebf7294a"), ("playground:ratings", 600, "5c7e9c5767979e1b")],
)
def test_ratings_of_the_command(context, monkeypatch, ratings, rows, sum_):
    written = ratings_of_the_command(context, monkeypatch, ratings)
    assert (written.count(b"\n"), digest(written)) == (rows, sum_)


def ratings_of_the_command(context, monkeypatch, ratings):
    monkeypatch.setattr(command, "validated", lambda *_: OptimizerSettings())
    monkeypatch.setattr(
        command,
        "run_training",
        lambda *_, **__: {"rows": 0, "rows_too_long": 0, "first_loss": 0.0, "final_loss": 0.0},
    )
    model = context.settings.models.helpful
    command.harmfulness_command(ratings, base=model, out=Path("out/rater"), changes=[], seed=SEED)
    return Path("out/rater-ratings.jsonl").read_bytes()


def test_known_comparisons(context):
    sources = [
        SourceSettings(path="more.jsonl", limit=20),
        SourceSettings(path="playground:feedback", limit=50),
        SourceSettings(path="pairs.jsonl"),
    ]
    rows = gold_comparisons(sources, seed=SEED, base_dir=context.base_dir)
    assert (len(rows), digest_rows(rows)) == (101, "6a4ca46e6a847564")
    assert gold_fingerprints(sources, base_dir=context.base_dir) == {
        "known comparisons more.jsonl": "805d09f0ef762f4a",
        "known comparisons pairs.jsonl": "0c3f24116656a02b",
    }


@pytest.mark.parametrize(
    ("spec", "limit", "name", "sum_"),
    [
        ("playground:red_team", None, "playground_red_team", "c4e42a93fddab448"),
        ("Playground:helpful", 40, "playground_helpful", "85275f51f1659ca9"),
    ],
)
def test_prompt_sets(spec, limit, name, sum_):
    found = sets.read_prompt_set(spec, seed=SEED, limit=limit)
    assert found.name == spec
    assert {row.tags["set"] for row in found.prompts} == {name}
    assert digest_rows(found.prompts) == sum_


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"red_team": "playground:attacks"},
            "The playground has no 'attacks' here. Use `playground:red_team` or "
            "`playground:helpful`.",
        ),
        (
            {"helpfulness_comparisons": "playground:feedback"},
            "The playground has no 'feedback' here. Use `playground:helpfulness`.",
        ),
        ({"red_team": "no.jsonl"}, "The file no.jsonl does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(context, section, said):
    prompts = {"red_team": "playground:red_team", "helpful": "playground:helpful", **section}
    prompts = PromptsSettings.model_validate(prompts)
    context.settings = context.settings.model_copy(update={"prompts": prompts})
    with pytest.raises(CaiError, match=re.escape(said)):
        STAGES["prompts"].run(context)


def test_known_comparisons_of_another_purpose_are_refused(tmp_path):
    said = "The playground has no 'playground:helpfulness' to measure labels on: write"
    with pytest.raises(CaiError, match=f"{said} `playground:feedback`"):
        gold_comparisons([SourceSettings(path="playground:helpfulness")], seed=0, base_dir=tmp_path)


def test_the_kind_of_source_in_the_docs_is_read_everywhere(context, monkeypatch):
    """A fourth kind is one class and one entry; docs/prompts.md has an example."""
    monkeypatch.setitem(READERS, "sqlite", Reader)  # so that the example's is taken out again
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    names = ("prompt", "chosen", "rejected", "response", "rating")
    with sqlite3.connect("some.db") as database:
        database.execute(f"CREATE TABLE rows ({', '.join(names)})")
        rows = [(f"{letter}?", letter.upper(), "no", letter, 1) for letter in ascii_lowercase[:20]]
        database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    source = SourceSettings(path="sqlite:some.db", limit=8)
    prompts = PromptsSettings(
        red_team=["playground:red_team"], helpful=[source], helpfulness_comparisons=[source]
    )
    context.settings = context.settings.model_copy(update={"prompts": prompts})
    named = hashlib.sha256(Path("some.db").read_bytes()).hexdigest()
    assert STAGES["prompts"].inputs(context)["sqlite:some.db"] == named
    found = STAGES["prompts"].run(context)
    assert (found["read"], found["prompts"], found["beyond_limit"]) == (20, 8, 12)
    assert found["comparisons"]["ok"] + found["comparisons_of_held_out_prompts"] == 8
    assert len(gold_comparisons([source], seed=0, base_dir=Path())) == 8
    assert gold_fingerprints([source], base_dir=Path()) == {
        "known comparisons sqlite:some.db": named
    }
    assert ratings_of_the_command(context, monkeypatch, "sqlite:some.db").count(b"\n") == 20
    context = with_ratings(context, path="sqlite:some.db")
    assert harmfulness.STAGE.inputs(context)["sqlite:some.db"] == named
    assert len(sets.read_prompt_set("helpful:sqlite:some.db", seed=0, limit=None).prompts) == 20


class OtherWorldReader(Reader):
    """Makes prompts with a split of their own: `other:red_team` and `other:helpful`."""

    own_split = True

    def records(self):
        raise NotImplementedError

    def fingerprint(self, purpose):
        return "other world"

    def prompts(self, kind, *, seed):
        return [
            PromptRow(
                key=f"{kind}{n}-{seed}",
                kind=kind,
                split="train" if n % 2 else "held_out",
                messages=user(f"{kind} {n}?"),
                source=self.source.path,
                task=f"{kind}{n}",
            )
            for n in range(6)
        ]

    def comparisons(self, purpose, *, seed):
        return [
            ComparisonRow(
                key=f"{purpose}{n}-{seed}",
                kind="helpful",
                source="human",
                messages=user(f"helpful {n}?"),
                task=f"helpful{n}",
                responses=("a", "b"),
                label=1.0,
            )
            for n in range(6)
        ]


def test_what_brings_a_split_keeps_it_whichever_kind_it_is(context, monkeypatch):
    monkeypatch.setitem(READERS, "other", OtherWorldReader)
    prompts = PromptsSettings(
        red_team=["other:red_team"],
        helpful=["other:helpful"],
        helpfulness_comparisons=["other:helpfulness"],
    )
    context.settings = context.settings.model_copy(update={"prompts": prompts})
    found = STAGES["prompts"].run(context)
    assert found["splits"] == {
        "red_team held_out": 3,
        "red_team train": 3,
        "helpful held_out": 3,
        "helpful train": 3,
    }
    assert (found["comparisons"], found["comparisons_of_held_out_prompts"]) == ({"ok": 6}, 0)
    unseen = sets.read_prompt_set("other:helpful", seed=5, limit=2).prompts
    assert [(row.key, row.tags) for row in unseen] == [
        ("helpful0-5", {"set": "other_helpful"}),
        ("helpful2-5", {"set": "other_helpful"}),
    ]
    with pytest.raises(CaiError, match="`playground:helpful`, `other:red_team`, `other:helpful`"):
        sets.read_prompt_set("other:nothing", seed=0, limit=None)
