"""The built-in constitutions are sound, and keep what their documentation promises."""

import pytest

from cai.constitution import load_constitution, shipped_constitutions
from cai.constitution.check import check_constitution
from cai.constitution.schema import ConstitutionFile

GENERAL = ["harmless", "helpful", "honest", "hhh"]


def test_the_built_in_ones_are_found():
    assert set(GENERAL) <= set(shipped_constitutions())


@pytest.mark.parametrize("name", GENERAL)
def test_nothing_is_found_in_them(name):
    assert check_constitution(name) == []


@pytest.mark.parametrize("name", GENERAL)
def test_each_has_its_files_name_and_a_description(name):
    constitution = load_constitution(name)
    assert constitution.name == name
    assert constitution.description
    assert all(p.description and p.tags for p in constitution.principles)


def test_harmless_has_sixteen_of_each_half_and_five_examples_of_each():
    harmless = load_constitution("harmless")
    assert len(harmless.supervised) == len(harmless.comparisons) == 16
    assert len(harmless.few_shot.critique) == len(harmless.few_shot.comparison) == 5
    assert all(example.reasoning for example in harmless.few_shot.comparison)


def test_hhh_is_the_three_together():
    together = load_constitution("hhh")
    parts = [load_constitution(name) for name in ("harmless", "helpful", "honest")]
    assert together.principles == tuple(p for part in parts for p in part.principles)


@pytest.mark.parametrize("name", GENERAL)
def test_worked_examples_use_the_principles_as_they_stand(name):
    constitution = load_constitution(name)
    halves = {(p.critique, p.revision) for p in constitution.supervised}
    for example in constitution.few_shot.critique:
        assert (example.critique_request, example.revision_request) in halves


@pytest.mark.parametrize("name", GENERAL)
def test_critiques_in_examples_speak_about_the_assistant(name):
    for example in load_constitution(name).few_shot.critique:
        assert "assistant's" in example.critique
        assert "assistant" not in example.revision.lower()


def test_better_responses_in_examples_are_not_told_by_letter_or_length():
    examples = load_constitution("harmless").few_shot.comparison
    answers = [example.answer for example in examples]
    better_is_longer = [
        (len(e.responses[0]) > len(e.responses[1])) == (e.answer == "A") for e in examples
    ]
    assert 2 <= answers.count("A") <= 3
    assert 2 <= sum(better_is_longer) <= 3


def test_every_field_of_the_format_is_described():
    schema = ConstitutionFile.model_json_schema()
    ours = [schema, *(d for name, d in schema["$defs"].items() if name != "Message")]
    undescribed = [
        (part["title"], name)
        for part in ours
        for name, field in part["properties"].items()
        if "description" not in field
    ]
    assert undescribed == []
