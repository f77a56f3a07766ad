"""`extends` and `without`: what a pipeline takes over from another file, and what is refused."""

from pathlib import Path

import pytest

from cai.errors import CaiError
from cai.pipeline.load import load_pipeline, pipeline_settings
from cai.settings import CompareSettings, PPOSettings, SftSettings

BASE = """\
name: base
constitution: harmless
models:
  helpful: {path: playground}
prompts:
  red_team: [red.jsonl, more.jsonl]
  helpful: a.jsonl
revise: {rounds: 3}
sft:
  learning_rate: 1.0e-4
  epochs: 2
compare: {}
preference: {}
ppo: {steps: 5, guard: {every: 7}}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="own.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
        return Path(name)

    write(BASE, "base.yaml")
    return write


def test_own_keys_win_and_the_rest_is_as_in_the_base(write):
    own = write(
        "extends: base.yaml\nname: own\nprompts: {red_team: [mine.jsonl]}\n"
        "sft: {epochs: 4}\ncompare:\nppo: {guard: {prompts: 9}}\n"
    )
    settings = load_pipeline(own).settings
    written = BASE.replace("name: base", "name: own").replace(
        "[red.jsonl, more.jsonl]", "mine.jsonl"
    )
    written = written.replace("epochs: 2", "epochs: 4").replace("every: 7", "every: 7, prompts: 9")
    assert settings == load_pipeline(write(written, "whole.yaml")).settings
    assert settings.of(SftSettings).learning_rate == 1e-4
    assert settings.of(PPOSettings).guard.every == 7


def test_sections_of_the_base_are_left_out(write):
    own = write("extends: base.yaml\nwithout: [preference, ppo]\nname: own\ndpo: {}\n")
    assert [*load_pipeline(own).settings.sections] == ["prompts", "revise", "sft", "compare", "dpo"]


def test_without_then_a_new_section_of_that_name_has_nothing_of_the_base(write):
    own = write("extends: base.yaml\nwithout: ppo\nname: own\nppo: {epochs: 1}\n")
    assert load_pipeline(own).settings.of(PPOSettings) == PPOSettings(epochs=1)


def test_a_file_extends_one_that_extends_another_in_its_own_folder(write):
    write("extends: ../base.yaml\nname: middle\nsft: {epochs: 7}\n", "sub/middle.yaml")
    own = write("extends: middle.yaml\nname: own\n", "sub/own.yaml")
    assert load_pipeline(own).settings.of(SftSettings).epochs == 7


def test_shipped_pipelines_are_extended_by_name(write):
    own = write("extends: quickstart\nname: own\ncompare: {principles: 1}\n")
    compare = load_pipeline(own).settings.of(CompareSettings)
    assert (compare.principles, compare.against_helpful) == (1, 0.5)


def test_changes_of_the_command_line_come_last(write):
    own = write("extends: base.yaml\nname: own\nsft: {epochs: 4}\n")
    settings = load_pipeline(own, ["sft.epochs=9", "ppo=null"]).settings
    assert settings.of(SftSettings).epochs == 9
    assert "ppo" not in settings.sections


def test_a_resolved_run_does_not_depend_on_the_base(write):
    settings = load_pipeline(write("extends: base.yaml\nname: own\n")).settings
    assert pipeline_settings(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("extends: base.yaml\n", "own.yaml:1:1: `name` is missing"),
        ("extends: bse.yaml\nname: own\n", "own.yaml:1:10: The pipeline bse.yaml does not exist"),
        ("extends: own.yaml\nname: own\n", "own.yaml:1:10: `extends` goes in a circle"),
        ("extends: [base.yaml]\nname: own\n", "own.yaml:1:10: `extends` is one pipeline"),
        ("extends:\nname: own\n", "own.yaml:1:9: `extends` is one pipeline"),
        ("without: ppo\nname: own\n", "`without` needs it"),
        (
            "extends: base.yaml\nwithout: [pop]\nname: own\n",
            "own.yaml:2:11: base.yaml has no `pop`",
        ),
        ("extends: base.yaml\nwithout: {ppo: 1}\nname: own\n", "own.yaml:2:10: `without` lists"),
        ("extends: base.yaml\nname: own\nsft: {epochs: 0}\n", "own.yaml:3:15: `sft.epochs`"),
        ("extends: base.yaml\nname: own\nsft: {epoch: 1}\n", "own.yaml:3:7: the key `sft.epoch`"),
        ("extends: wrong.yaml\nname: own\n", "wrong.yaml:11:11: `sft.epochs`"),
        ("extends: wrong.yaml\nname: own\nsft: 3\n", "own.yaml:3:6: `sft`"),
        ("extends: list.yaml\nname: own\n", "list.yaml is not a pipeline"),
        (
            "extends: base.yaml\nname: own\nwithout: {stage: sft}\n",
            "own.yaml:3:10: `without` lists",
        ),
    ],
)
def test_errors_are_told_where_they_are_written(write, own, said):
    write(BASE.replace("epochs: 2", "epochs: 0"), "wrong.yaml")
    write("- a\n", "list.yaml")
    with pytest.raises(CaiError) as refused:
        load_pipeline(write(own))
    assert said in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_a_circle_of_several_files_is_told_with_its_steps(write):
    write("extends: two.yaml\nname: one\n", "one.yaml")
    two = write("extends: one.yaml\nname: two\n", "two.yaml")
    with pytest.raises(CaiError, match=r"circle \(two.yaml -> one.yaml -> two.yaml\)"):
        load_pipeline(two)
