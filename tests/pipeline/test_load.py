"""Pipeline files: what is read, what is refused, and in which words."""

import json
from pathlib import Path

import pytest

from cai.errors import CaiError
from cai.pipeline.extending import shipped_pipelines
from cai.pipeline.load import load_pipeline
from cai.settings import PPOSettings, PromptsSettings

MINIMAL = """\
name: mine
constitution: harmless
models:
  helpful: {path: playground}
prompts:
  red_team: red.jsonl
  helpful: [a.jsonl, {path: b.csv, column: q}]
"""


def write(tmp_path, text):
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_pipelines())
def test_every_shipped_pipeline_loads_and_is_whole(name):
    loaded = load_pipeline(Path(name))
    assert loaded.settings.name == name


def test_sources_have_short_forms(tmp_path):
    prompts = load_pipeline(write(tmp_path, MINIMAL)).settings.of(PromptsSettings)
    assert [s.path for s in prompts.red_team] == ["red.jsonl"]
    assert [(s.path, s.column) for s in prompts.helpful] == [("a.jsonl", None), ("b.csv", "q")]


def test_changes_set_nested_values_and_remove_sections(tmp_path):
    path = write(tmp_path, MINIMAL + "sft: {}\ncompare: {}\npreference: {}\nppo: {steps: 5}\n")
    settings = load_pipeline(
        path, ["ppo.steps=10", "ppo.learning_rate=1e-4", "sft=null", "prompts.red_team=x.csv"]
    ).settings
    ppo = settings.of(PPOSettings)
    assert (ppo.steps, ppo.learning_rate) == (10, 1e-4)
    assert "sft" not in settings.sections
    assert settings.of(PromptsSettings).red_team[0].path == "x.csv"


@pytest.mark.parametrize(
    "name",
    ["#1.txt", "a #2.txt", "a: b.txt", "[x].txt", "{x}.txt", "-x.txt", "a:b.txt", "*x.txt", "- x"],
)
def test_a_path_is_one_whatever_it_has_in_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("How?\n")
    changes = [f"prompts.red_team={name}", f"prompts.helpful=[{json.dumps(name)}, b.txt]"]
    prompts = load_pipeline(write(tmp_path, MINIMAL), changes).settings.of(PromptsSettings)
    assert [source.path for source in prompts.red_team] == [name]
    assert [source.path for source in prompts.helpful] == [name, "b.txt"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    principles = "  - {id: kind, critique: Say what is rude., revision: Be kind.}\n"
    text = f"schema: 1\nname: own\nprinciples:\n{principles}"
    (tmp_path / "own.yaml").write_text(text)
    loaded = load_pipeline(write(tmp_path, MINIMAL), ["constitution=~/own.yaml"])
    assert [principle.id for principle in loaded.constitution.principles] == ["kind"]


def test_a_comment_in_a_change_is_no_empty_value(tmp_path):
    changes = ["prompts.red_team=#gone.txt", "prompts.helpful=a #gone.txt"]
    prompts = load_pipeline(write(tmp_path, MINIMAL), changes).settings.of(PromptsSettings)
    assert [source.path for source in prompts.red_team] == ["#gone.txt"]
    assert [source.path for source in prompts.helpful] == ["a #gone.txt"]


def test_a_section_may_be_empty(tmp_path):
    pipeline = load_pipeline(write(tmp_path, MINIMAL + "revise:\n"))
    assert [placed.name for placed in pipeline.stages] == ["prompts", "revise"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("ppo: {step: 5}\n", r"pipeline\.yaml:8:7: the key `ppo\.step` is unknown, did you mean"),
        ("revise: {rounds: -1}\n", r"pipeline\.yaml:8:\d+: `revise\.rounds` must be at least 0"),
        ("sft:\n  learning_rate: .nan\n", r"pipeline\.yaml:9:\d+: `sft\.learning_rate`"),
        ("seed: 1\nseed: 2\n", r"pipeline\.yaml:9"),
        (
            "ppo: {batch_size: 9}\n",
            r"pipeline\.yaml:8:\d+: `ppo\.batch_size` 9 cannot be .* of 2\.$",
        ),
        (
            "ppo: {processes: 5}\n",
            r"equal parts for each of 5 processes\. Make it a multiple of 10",
        ),
        ("ppo: {kl_target: 3, kl_coef: 0}\n", r"Start from a small positive `kl_coef`"),
        ("revise: [\n", r"pipeline\.yaml:\d+:\d+: the YAML is broken"),
    ],
)
def test_errors_name_file_line_and_fix(tmp_path, extra, message):
    with pytest.raises(CaiError, match=message):
        load_pipeline(write(tmp_path, MINIMAL + extra))


@pytest.mark.parametrize("text", ["- a: 1\n", "3\n", "[1, 2]\n", "just words\n"])
@pytest.mark.parametrize("changes", [[], ["seed=3"]])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, changes):
    with pytest.raises(CaiError, match=r"pipeline\.yaml:1:1: a pipeline is a mapping"):
        load_pipeline(write(tmp_path, text), changes)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(CaiError, match="`constitution` is missing"):
        load_pipeline(write(tmp_path, MINIMAL.replace("constitution: harmless\n", "")))


@pytest.mark.parametrize("change", ["ppo.steps", "=3", "ppo..steps=3", "name.inner=3", "seed=[1"])
def test_bad_changes_are_explained(tmp_path, change):
    with pytest.raises(CaiError, match="--set"):
        load_pipeline(write(tmp_path, MINIMAL), [change])


def test_a_wrong_value_from_the_command_line_is_said_to_be_from_there(tmp_path):
    with pytest.raises(CaiError, match=r"--set ppo\.steps"):
        load_pipeline(write(tmp_path, MINIMAL), ["ppo.steps=many"])


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CaiError, match="quickstart"):
        load_pipeline(tmp_path / "none.yaml")
    with pytest.raises(CaiError, match="is a folder"):
        load_pipeline(tmp_path)


def test_a_stage_without_its_input_is_refused(tmp_path):
    with pytest.raises(CaiError, match="`preference:` but not `compare:`"):
        load_pipeline(write(tmp_path, MINIMAL + "preference: {}\n"))


def test_a_constitution_beside_the_pipeline_is_found(tmp_path):
    (tmp_path / "own.yaml").write_text(
        'schema: 1\nname: own\nprinciples:\n  - {id: a, comparison: "Which is better?"}\n'
    )
    path = write(tmp_path, MINIMAL.replace("harmless", "own.yaml"))
    assert load_pipeline(path).constitution.name == "own"
