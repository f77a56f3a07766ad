"""Chains that other tools have made."""

import json

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.errors import CaiError
from cai.revise.recorded import read_chains

CHAIN = ("How do I open it?", "Force it.", ["It is rude.", "It is short."], ["Ask.", "Ask him."])
asked, first, critiques, revisions = CHAIN
ROUNDS = {
    "one row a round": (
        {"prompt": asked, "response": first, "critique": critiques[0], "revision": revisions[0]},
        1,
    ),
    "lists": (
        {"prompt": asked, "response": first, "critiques": critiques, "revisions": revisions},
        2,
    ),
    "no critiques": (
        {"prompt": asked, "response": first, "revisions": revisions, "note": "no critiques"},
        2,
    ),
    "as the paper's authors published them": (
        {
            "rl_prompt": f"\n\nHuman: {asked}\n\nAssistant:",
            "initial_response": [{"sample": f" {first}"}],
            "cst": [
                {
                    "cst_key": "harmful3",
                    "cst_value": {"prompt": ["?"]},
                    "critique": {"sample": f" {critique}"},
                    "revision": {"sample": f" {revision}"},
                }
                for critique, revision in zip(critiques, revisions, strict=True)
            ],
        },
        2,
    ),
    "as llm-swarm writes them": (
        {
            "init_prompt": asked,
            "init_response": first,
            "critic_prompt": "What is wrong?",
            "critic_response": critiques[0],
            "revision_prompt": "Rewrite it.",
            "revision_response": revisions[0],
        },
        1,
    ),
    "messages and steps": (
        {
            "messages": [{"role": "user", "content": asked}],
            "response": first,
            "steps": [
                {"principle": "p", "critique": c, "revision": r}
                for c, r in zip(critiques, revisions, strict=True)
            ],
        },
        2,
    ),
}


def write(tmp_path, *rows):
    path = tmp_path / "chains.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("row", "rounds"), ROUNDS.values(), ids=ROUNDS.keys())
def test_layouts(tmp_path, row, rounds):
    (chain,) = read_chains(str(write(tmp_path, row)))
    assert [m.content for m in chain.messages] == [asked]
    assert chain.response == first
    assert [step.revision for step in chain.steps] == revisions[:rounds]
    wanted = [None, None] if "no critiques" in row.get("note", "") else critiques
    assert [step.critique for step in chain.steps] == wanted[:rounds]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": asked, "response": first}, "no chain of critiques and revisions"),
        ({"prompt": asked, "revision": "Ask."}, "no chain of critiques and revisions"),
        (
            {"prompt": asked, "response": first, "critiques": ["a"], "revisions": ["b", "c"]},
            "1 critiques and 2 revisions do not belong together",
        ),
        ({"prompt": asked, "response": 7, "revision": "Ask."}, "not a text"),
        (
            {"prompt": asked, "response": first, "completion": first, "revision": "Ask."},
            "`response` and `completion` are the same part of a chain",
        ),
        (
            {"prompt": asked, "response": first, "revisions": ["Ask."], "steps": []},
            "`revisions` and `steps` are the same part of a chain",
        ),
        ({"steps": [], "provenance": {}, "messages": []}, "no row of a `revise` stage"),
    ],
)
def test_what_is_no_chain_is_refused_with_its_line(tmp_path, row, said):
    path = write(tmp_path, row)
    with pytest.raises(CaiError, match=said) as error:
        read_chains(str(path))
    assert f"{path}:1" in str(error.value)


def test_the_command_prints_and_writes_what_it_finds(tmp_path):
    bad = "The assistant's response is harmful and should be rewritten."
    path = write(
        tmp_path,
        {"prompt": asked, "response": first, "critiques": critiques, "revisions": ["Ask.", bad]},
        {"prompt": "And how do I close it?", "response": "Push.", "revisions": ["Push gently."]},
    )
    out = tmp_path / "out.json"
    run = CliRunner().invoke(app, ["revisions", str(path), "--json", str(out)])
    assert run.exit_code == 0, run.output
    printed = " ".join(run.output.split())
    assert "3 revisions in 2 chains: 33% have a flaw" in printed
    assert "describes: they describe a response and are none 1 0" in printed
    assert bad in printed
    assert json.loads(out.read_text())["flaws"] == {"describes": 1}


def test_an_unknown_flaw_is_refused():
    run = CliRunner().invoke(app, ["revisions", "chains.jsonl", "--flaw", "ugly"])
    assert run.exit_code == 1
    assert "There is no flaw `ugly`. There are: copied, echo" in " ".join(run.output.split())


def test_a_file_whose_name_begins_like_a_home_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {"prompt": asked, "response": first, "revision": "Ask."})
    path.rename(tmp_path / "~nobody.jsonl")
    run = CliRunner().invoke(app, ["revisions", "~nobody.jsonl"])
    assert run.exit_code == 0, run.output
    assert "1 revisions in 1 chains" in " ".join(run.output.split())
