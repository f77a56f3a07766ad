"""Foreign files become constitutions that load and say the same."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Principle, load_constitution
from cai.constitution.check import check_constitution
from cai.constitution.importing import imported_yaml, read_foreign
from cai.constitution.schema import CritiqueExample, FewShot
from cai.constitution.write import to_yaml
from cai.errors import CaiError

REAL = Path(__file__).parents[2] / "../shared/data/constitutions"
INSTRUCTIONS = {
    f"harm{i}": {
        "prompt": [f"\n\nCritiqueRequest: Find fault {i}: all of it.\n\nCritique:"],
        "edit_request": f"\n\nRevisionRequest: Mend fault {i}.\n\nRevision:",
    }
    for i in (10, 2, 0)
}
TRANSCRIPT = (
    "\n\nHuman: Hello\n\nAssistant: Yes?\n\nHuman: Two\n\nparagraphs: here\n\nAssistant: No."
    "\n\nCritiqueRequest: What is wrong?\n\nCritique: It is curt."
    "\n\nRevisionRequest: Be nicer.\n\nRevision: No, thank you."
)
CHAT = [
    ("User", "Hello"),
    ("Assistant", "What?"),
    ("User", "What is wrong?"),
    ("Assistant", "It is curt."),
    ("User", "Be nicer."),
    ("Assistant", "Hello!"),
]


def write(folder, name, data):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def chat(turns):
    return [{"role": role, "content": content} for role, content in turns]


def import_constitution(files, name="imported"):
    return imported_yaml(read_foreign(files), name)


def imported(tmp_path, *files):
    """Import, then load the YAML and refuse errors."""
    path = tmp_path / "imported.yaml"
    path.write_text(import_constitution(files))
    assert not [f for f in check_constitution(path) if f.severity == "error"]
    return load_constitution(path)


def test_instructions_lose_their_scaffolding_and_come_in_numeric_order(tmp_path):
    constitution = imported(tmp_path, write(tmp_path, "i.json", INSTRUCTIONS))
    told = [(p.id, p.critique, p.revision) for p in constitution.principles]
    assert told == [
        (f"harm{i}", f"Find fault {i}: all of it.", f"Mend fault {i}.") for i in (0, 2, 10)
    ]


def test_comparisons_lose_their_scaffolding(tmp_path):
    texts = ["\nWhich is kinder? Options:", "\nOptions matter: choose the safer. Options:"]
    constitution = imported(tmp_path, write(tmp_path, "c.json", texts))
    assert [p.comparison for p in constitution.principles] == [
        "Which is kinder?",
        "Options matter: choose the safer.",
    ]
    assert not constitution.supervised


@pytest.mark.parametrize("dangling", ["", "\n\nHuman:", "\n\nHuman: "])
def test_transcripts_become_worked_examples(tmp_path, dangling):
    files = (
        write(tmp_path, "i.json", INSTRUCTIONS),
        write(tmp_path, "t.json", [TRANSCRIPT + dangling]),
    )
    (example,) = imported(tmp_path, *files).few_shot.critique
    assert [(m.role, m.content) for m in example.messages] == [
        ("user", "Hello"),
        ("assistant", "Yes?"),
        ("user", "Two\n\nparagraphs: here"),
    ]
    assert (example.response, example.critique) == ("No.", "It is curt.")
    assert (example.critique_request, example.revision_request) == ("What is wrong?", "Be nicer.")
    assert example.revision == "No, thank you."


def test_the_recipe_with_chats(tmp_path):
    data = {
        "constitutions": [{"critic": "Is it rude?", "revision": "Be polite."}] * 2,
        "system_chat": [chat(CHAT)],
    }
    constitution = imported(tmp_path, write(tmp_path, "r.json", data))
    assert [(p.id, p.critique, p.revision) for p in constitution.principles] == [
        ("principle-0", "Is it rude?", "Be polite."),
        ("principle-1", "Is it rude?", "Be polite."),
    ]
    assert constitution.few_shot.critique[0].revision == "Hello!"


def test_samples_hold_examples_only(tmp_path):
    samples = write(tmp_path, "s.json", {"samples": [chat([("System", "Be kind."), *CHAT])]})
    with pytest.raises(CaiError, match=r"no principle in .*only worked examples"):
        import_constitution([samples])
    principles = write(tmp_path, "i.json", INSTRUCTIONS)
    (example,) = imported(tmp_path, samples, principles).few_shot.critique
    assert [m.role for m in example.messages] == ["system", "user"]


def test_numbered_text_becomes_comparisons_and_says_so(tmp_path):
    text = "My rules\n\n1. Be kind,\n   always.\n2) Be fair.\nTo all.\n\nThat is it.\n"
    path = write(tmp_path, "rules.txt", text)
    constitution = imported(tmp_path, path)
    assert [(p.id, p.comparison) for p in constitution.principles] == [
        ("comparison-1", "Be kind, always."),
        ("comparison-2", "Be fair. To all."),
    ]
    written = import_constitution([path])
    assert "# rules.txt: 2 numbered lines, read as comparisons" in written
    assert "# rules.txt: left out, for it has no number: My rules That is it." in written


def test_files_merge_and_ids_stay_distinct(tmp_path):
    one = write(tmp_path, "one.json", ["Which is kinder?"])
    two = write(tmp_path, "two.json", ["Which is fairer?"])
    three = write(tmp_path, "three.json", INSTRUCTIONS)
    constitution = imported(tmp_path, one, two, three)
    assert [p.id for p in constitution.principles] == [
        "comparison-0",
        "comparison-0-2",
        "harm0",
        "harm2",
        "harm10",
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"a": 1}, "none of the layouts.*edit_request.*system_chat.*samples.*lines"),
        ([], "none of the layouts"),
        ("no numbers at all\n", "none of the layouts"),
        ("schema: 1\nname: a\n", "needs no import"),
        ('{"a": [1,\n}', "x.json:2:1: the JSON is broken"),
        ("[" * 100_000, "x.json"),
        ({"a": {"prompt": ["x", "y"], "edit_request": "z"}}, "lists 2 texts"),
        ({"a": {"prompt": ["  "], "edit_request": "z"}}, "'a' is not a valid principle, critique"),
        ({"a": {"prompt": ["x"], "edit_request": 3}}, "'a' is not a valid principle, revision"),
        (["\n Options:"], "'comparison-0' is not a valid principle"),
        (["\n\nHuman: a\n\nRevision: b"], "item 0: a worked example is .*has human, revision"),
        ([TRANSCRIPT.replace("Assistant: No.", "Human: No.")], "must be the assistant's"),
        ([TRANSCRIPT.replace("It is curt.", "")], "not a valid worked example, `critique`"),
        ({"samples": [chat(CHAT[:4])]}, "chat 0: a worked example ends with six"),
        ({"samples": [["hello"]]}, "chat 0: it must be a list of"),
        ({"samples": [3]}, "chat 0: it must be a list of"),
        ({"samples": [chat([("Judge", "Hm."), *CHAT])]}, "chat 0.*role"),
        (
            {"constitutions": [{"critic": "a", "revision": "b"}], "system_chat": 3},
            "a list of chats",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused_politely(tmp_path, data, words):
    with pytest.raises(CaiError, match=words):
        import_constitution([write(tmp_path, "x.json", data)])


KEYS = ["prompt", "edit_request", "constitutions", "critic", "revision", "system_chat", "samples"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_is_imported_or_refused_politely(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        text = import_constitution([write(folder, "x.json", data)])
    except CaiError:
        return
    path = folder / "imported.yaml"
    path.write_text(text)
    load_constitution(path)


texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t :#-'\"|>%@\x85\u2028"),
    max_size=200,
).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(texts, min_size=1, max_size=3), texts, texts)
def test_what_is_written_is_read_back_exactly(tmp_path_factory, comparisons, said, comment):
    principles = [
        Principle(id=f"p{i}", comparison=text, description=text, tags=["1", "no"])
        for i, text in enumerate(comparisons)
    ]
    example = CritiqueExample.model_validate(
        {
            "messages": [{"role": "user", "content": said}],
            "response": said,
            "critique_request": said,
            "critique": said,
            "revision_request": said,
            "revision": said,
        }
    )
    few_shot = FewShot(critique=[example])
    path = tmp_path_factory.mktemp("round") / "c.yaml"
    path.write_text(to_yaml("name", said, principles, few_shot, [comment]), encoding="utf-8")
    back = load_constitution(path)
    assert list(back.principles) == principles
    assert back.few_shot == few_shot
    assert back.description == said.strip()


@settings(deadline=None, max_examples=30)
@given(st.text(string.ascii_letters + string.digits + " ._-/é", min_size=1))
def test_any_entry_name_becomes_an_id(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    data = {name: INSTRUCTIONS["harm0"]}
    assert len(imported(folder, write(folder, "i.json", data)).principles) == 1


def test_yaml_is_written_in_blocks_for_people(tmp_path):
    long = "Find every sentence that could hurt somebody, and say for each who and how."
    data = {"a": {"prompt": [long], "edit_request": "Short: mend it."}}
    assert import_constitution([write(tmp_path, "i.json", data)], name="no") == (
        "# Written by `cai constitution import`; from here on this file is yours to edit.\n"
        "# i.json: 1 critiques and revisions\n"
        "schema: 1\n"
        "name: 'no'\n"
        "\n"
        "principles:\n"
        "  - id: a\n"
        "    critique: >-\n"
        "      Find every sentence that could hurt somebody, and say for each who and how.\n"
        "    revision: 'Short: mend it.'\n"
    )


def real(name):
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not here: it is not part of the repository")
    return path


def test_the_papers_files_make_one_constitution(tmp_path):
    names = ("CritiqueRevisionInstructions", "RLMadisonInstructions")
    names += ("CritiqueRevisionFewShotPrompts",)
    files = [real(f"cai-paper/{name}.json") for name in names]
    constitution = imported(tmp_path, *files)
    assert [p.id for p in constitution.supervised] == [f"harmful{i}" for i in range(16)]
    assert len(constitution.comparisons) == 16
    assert len(constitution.few_shot.critique) == 5
    raw = json.loads(files[0].read_text())
    for principle in constitution.supervised:
        assert f"CritiqueRequest: {principle.critique}\n" in raw[principle.id]["prompt"][0]
        assert f"RevisionRequest: {principle.revision}\n" in raw[principle.id]["edit_request"]
    assert not any(
        f.code == "template-residue" for f in check_constitution(tmp_path / "imported.yaml")
    )
    assert all("Human:" not in e.revision for e in constitution.few_shot.critique)


def test_the_open_recipes_file_and_placeholder_samples(tmp_path):
    recipe = real("llm-swarm/constitution_anthropic.json")
    samples = real("nemo-aligner/few_shot_samples_example.json")
    constitution = imported(tmp_path, recipe, samples)
    assert len(constitution.supervised) == 16
    assert len(constitution.few_shot.critique) == 4 + 2 - 1  # the two placeholders are equal
