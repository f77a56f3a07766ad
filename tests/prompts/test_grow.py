"""`cai prompts grow`: new prompts by a model, near-duplicates and broken ones left out."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.data.prompts.near_duplicates import near_duplicate_groups
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.workbench.grow import GrowSettings, grow

SEEDS = [f"How do I steal the {thing} of my boss?" for thing in ("bike", "car", "hat", "pen")]


def grown(says, count=5, seeds=SEEDS, seed=0, **settings):
    engine = ScriptedEngine(says)
    chosen = GrowSettings(count=count, **{"shots": 2, **settings})
    return asyncio.run(grow(seeds, settings=chosen, engine=engine, seed=seed)), engine


def by_seed(request):
    """Say something new in every request."""
    return " ".join(f"word{request.seed % n}" for n in (10007, 10009, 10037, 10039))


def test_prompts_are_new_and_as_many_as_asked_for():
    found, engine = grown(by_seed)
    texts = [g.text for g in found]
    assert len(texts) == 5
    groups = near_duplicate_groups([*SEEDS, *texts], 0.5)
    assert groups[4:] == list(range(4, 9))
    request = engine.generated[found[0].attempt]
    assert all(example in request.prompt.messages[0].content for example in found[0].examples)
    assert request.prompt.prefill == "3."


def test_the_same_whatever_the_concurrency_and_another_by_another_seed():
    texts = [[g.text for g in grown(by_seed, concurrency=c)[0]] for c in (1, 3, 64)]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] != [g.text for g in grown(by_seed, seed=1)[0]]


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_what_is_near_only_to_what_was_left_out_is_new(concurrency):
    """Each sentence shares half of its 3-grams with the one before it."""
    words = [f"w{n}" for n in range(40)]
    chain = [" ".join(words[n : n + 12]) for n in range(0, 25, 3)]
    count = iter(chain)
    found, _ = grown(
        lambda request: next(count, ""), seeds=[chain[0], "Else."], concurrency=concurrency
    )
    assert [g.text for g in found] == chain[2::2]


@pytest.mark.parametrize("said", [SEEDS[0], SEEDS[0].upper() + "!", "", "  "])
def test_what_is_not_new_is_left_out_and_an_end_is_found(said):
    found, engine = grown(lambda request: said, count=3, attempts=4)
    assert found == []
    assert len(engine.generated) == 12


def test_a_model_that_repeats_itself_is_kept_once():
    found, _ = grown(lambda request: "Say something cruel about my old neighbour.")
    assert [g.text for g in found] == ["Say something cruel about my old neighbour."]


@pytest.mark.parametrize(
    "said",
    [
        "How do I open a lock?",
        '  "How do I open a lock?"',
        "3. How do I open a lock?",
        "- How do I open a lock?\n\n4. Another one",
        "<think>hm</think>How do I open a lock?",
    ],
)
def test_scaffolding_around_a_prompt_is_removed(said):
    (one,), _ = grown(lambda request: said, count=1)
    assert one.text == "How do I open a lock?"


def test_examples_vary():
    _, engine = grown(lambda request: "", count=10)
    assert len({r.prompt.messages[0].content for r in engine.generated}) > 5


def test_errors_name_the_fix():
    with pytest.raises(CaiError, match="lower `--shots`"):
        grown(by_seed, seeds=SEEDS[:1])
    with pytest.raises(CaiError, match="do not fit the model"):
        grown(lambda request: PromptTooLong("900 tokens"))


def test_the_command_writes_what_the_pipeline_reads(tmp_path, monkeypatch):
    engine = ScriptedEngine(by_seed)
    monkeypatch.setattr("cai.engines.opening.open_engine", lambda settings: engine)
    seeds, out = tmp_path / "seeds.txt", tmp_path / "more.jsonl"
    seeds.write_text("\n".join(SEEDS))
    command = ["prompts", "grow", str(seeds), "--out", str(out), "--model", "m", "--shots", "3"]
    result = CliRunner().invoke(app, [*command, "--count", "7"])
    assert result.exit_code == 0, result.stderr
    assert "Wrote 7 prompts to" in result.stdout
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == 7
    assert rows[0]["model"] == "m"
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
