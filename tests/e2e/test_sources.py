"""What is made of sources, byte for byte: order, draws, splits, states, fingerprints.

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
from command import cai, metrics

from cai.compare.quality import gold_fingerprints
from cai.data.conversation import user
from cai.data.prompts import load_comparisons
from cai.data.prompts.readers import READERS, Reader
from cai.data.records import ComparisonRow, PromptRow
from cai.errors import CaiError
from cai.pipeline.sets import read_prompt_set
from cai.playground.sources import playground_prompts
from cai.settings import SourceSettings

SEED = 7
HUB = "hub:someone/things"
HERE = Path()
PROMPTS = {
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
}
TRAINED = {"rows": 0, "rows_too_long": 0, "first_loss": 0.0, "final_loss": 0.0}


def lines(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


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


@pytest.fixture(autouse=True)
def sources(tmp_path, monkeypatch):
    """Write the files, stand in for the hub, and train nothing."""
    import datasets

    from cai.training import harmfulness

    def load_dataset(name, configuration, *, split):
        return [{"question": f"{name} {split}, number {n}?"} for n in range(12)]

    def train_harmfulness(settings, *, out, **_):
        out.mkdir(parents=True)
        (out / "model.safetensors").touch()
        return TRAINED

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(harmfulness, "train_harmfulness", train_harmfulness)
    monkeypatch.chdir(tmp_path)  # keys of rows that failed hold the path of their file
    red = [f"How would one break thing number {n} in a quiet street?" for n in range(25)]
    red += [*told("red_team", "held_out", 4), *told("red_team", "train", 4), " ", red[3]]
    help_ = [f"What is {n} plus {n}?" for n in range(30)] + told("helpful", "held_out", 4) + red[:2]
    asked = [f"Name {n} rivers of country {n * n}." for n in range(20)]
    asked += told("helpful", "held_out", 6) + told("helpful", "train", 6)
    lines("red.jsonl", [{"prompt": text, "category": "street"} for text in red])
    lines("help.jsonl", [{"body": text} for text in help_])
    pairs = [{"prompt": q, "chosen": f"Yes: {q}", "rejected": "No idea."} for q in asked]
    lines("pairs.jsonl", [*pairs, pairs[0], {**pairs[1], "rejected": ""}])
    lines("more.jsonl", [*pairs[4:8], *({**p, "rejected": "Ask me."} for p in pairs)])
    rated = [
        {"prompt": q, "response": f"Well, {q}", "rating": n % 5} for n, q in enumerate(asked * 2)
    ]
    lines("rated.jsonl", rated)


def run(prompts=PROMPTS, **sections):
    """Run a pipeline of these prompts with `cai run`; its output comes back."""
    pipeline = {
        "name": "sources",
        "seed": SEED,
        "constitution": "playground",
        "models": {"helpful": {"path": "playground"}},
        "prompts": prompts,
        **sections,
    }
    Path("sources.yaml").write_text(json.dumps(pipeline))
    return cai("run", "sources.yaml", "--out", "run")


def inputs(stage):
    return json.loads((HERE / "run" / stage / "manifest.json").read_text())["inputs"]


def test_prompts_and_comparisons():
    assert run().returncode == 0
    found = metrics("run", "prompts")
    expected = {
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
    assert {name: found[name] for name in expected} == expected
    folder = HERE / "run" / "prompts"
    assert digest((folder / "rows.jsonl").read_bytes()) == "b386d5ceacd27bdc"
    assert digest((folder / "comparisons.jsonl").read_bytes()) == "3aa3b85a8e0d7bda"
    assert inputs("prompts") == {
        "red.jsonl": "a8d1ec0be6a24190",
        "playground:red_team": "playground world 2",
        "playground:helpful": "playground world 2",
        "help.jsonl": "2f4e6a64683f92fe",
        HUB: f"{HUB}, split test",
        "pairs.jsonl": "0c3f24116656a02b",
        "playground:helpfulness": "playground world 2",
        "more.jsonl": "805d09f0ef762f4a",
    }


@pytest.mark.parametrize(
    ("path", "limit", "left_out", "sum_", "named"),
    [
        ("rated.jsonl", 50, 2, "4595f7793a2a24a3", "bde07b2952c11448"),
        ("playground:ratings", 300, 0, "81865a03006875b7", "playground world 2"),
    ],
)
def test_ratings(path, limit, left_out, sum_, named):
    assert run(harmfulness={"ratings": {"path": path, "limit": limit}}).returncode == 0
    assert metrics("run", "harmfulness")["ratings_of_held_out_prompts"] == left_out
    data = HERE / "run" / "harmfulness" / "model-ratings.jsonl"
    assert digest(data.read_bytes()) == sum_
    assert inputs("harmfulness")[path] == named


def rated_by_the_command(ratings):
    done = cai("harmfulness", ratings, "--model", "playground", "--out", "rater", "--seed", SEED)
    assert done.returncode == 0
    return (HERE / "rater-ratings.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("ratings", "rows", "sum_"),
    [("rated.jsonl", 64, "2f6bcb5cebf7294a"), ("playground:ratings", 600, "5c7e9c5767979e1b")],
)
def test_ratings_of_the_command(ratings, rows, sum_):
    written = rated_by_the_command(ratings)
    assert (written.count(b"\n"), digest(written)) == (rows, sum_)


def test_known_comparisons():
    sources = [
        SourceSettings(path="more.jsonl", limit=20),
        SourceSettings(path="playground:feedback", limit=50),
        SourceSettings(path="pairs.jsonl"),
    ]
    rows = load_comparisons(sources, "feedback", seed=SEED, base_dir=HERE)
    assert (len(rows), digest_rows(rows)) == (101, "6a4ca46e6a847564")
    assert gold_fingerprints(sources, base_dir=HERE) == {
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
    found = read_prompt_set(spec, seed=SEED, limit=limit)
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
def test_a_source_that_is_not_there_is_named(section, said):
    failed = run({"red_team": "playground:red_team", "helpful": "playground:helpful", **section})
    assert failed.returncode == 1
    assert said in failed.stderr


def test_known_comparisons_of_another_purpose_are_refused():
    said = "The playground has no 'playground:helpfulness' to measure labels on: write"
    with pytest.raises(CaiError, match=f"{said} `playground:feedback`"):
        load_comparisons(
            [SourceSettings(path="playground:helpfulness")], "feedback", seed=0, base_dir=HERE
        )


def test_the_kind_of_source_in_the_docs_is_read_everywhere(monkeypatch):
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
    path = "sqlite:some.db"
    source = {"path": path, "limit": 8}
    prompts = {"red_team": "red.jsonl", "helpful": [source], "helpfulness_comparisons": [source]}
    assert run(prompts, harmfulness={"ratings": source}).returncode == 0
    found = metrics("run", "prompts")
    assert found["splits"]["helpful train"] + found["splits"]["helpful held_out"] == 8
    assert found["comparisons"]["ok"] + found["comparisons_of_held_out_prompts"] == 8
    named = hashlib.sha256((HERE / "some.db").read_bytes()).hexdigest()
    assert inputs("prompts")[path] == inputs("harmfulness")[path] == named
    gold = [SourceSettings.model_validate(source)]
    assert len(load_comparisons(gold, "feedback", seed=0, base_dir=HERE)) == 8
    assert gold_fingerprints(gold, base_dir=HERE) == {f"known comparisons {path}": named}
    assert rated_by_the_command(path).count(b"\n") == 20
    assert len(read_prompt_set(f"helpful:{path}", seed=0, limit=None).prompts) == 20


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


def test_what_brings_a_split_keeps_it_whichever_kind_it_is(monkeypatch):
    monkeypatch.setitem(READERS, "other", OtherWorldReader)
    prompts = {
        "red_team": "other:red_team",
        "helpful": "other:helpful",
        "helpfulness_comparisons": "other:helpfulness",
    }
    assert run(prompts).returncode == 0
    found = metrics("run", "prompts")
    assert found["splits"] == {
        "red_team held_out": 3,
        "red_team train": 3,
        "helpful held_out": 3,
        "helpful train": 3,
    }
    assert (found["comparisons"], found["comparisons_of_held_out_prompts"]) == ({"ok": 6}, 0)
    unseen = read_prompt_set("other:helpful", seed=5, limit=2).prompts
    assert [(row.key, row.tags) for row in unseen] == [
        ("helpful0-5", {"set": "other_helpful"}),
        ("helpful2-5", {"set": "other_helpful"}),
    ]
    with pytest.raises(CaiError, match="`playground:helpful`, `other:red_team`, `other:helpful`"):
        read_prompt_set("other:nothing", seed=0, limit=None)
