"""`extends`: inheritance, overriding, conflicts and circles."""

import pytest

from cai.constitution import load_constitution
from cai.constitution.findings import ConstitutionError


def write(folder, name, extends=(), few_shot="", **principles):
    """Write a constitution whose principles have the given comparison texts."""
    text = f"schema: 1\nname: {name}\nextends: [{', '.join(extends)}]\nprinciples:\n"
    text += "".join(f"  - id: {name}\n    comparison: {c}\n" for name, c in principles.items())
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("principles:\n", "") if not principles else text)
    if few_shot:
        example = (
            f"{{messages: [{{role: user, content: {few_shot}}}], responses: [a, b], answer: A}}"
        )
        path.write_text(path.read_text() + f"few_shot:\n  comparison: [{example}]\n")
    return path


def texts(constitution):
    return {p.id: p.comparison for p in constitution.principles}


def test_parents_come_first_and_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "grand", g="grand")
    write(tmp_path / "sub", "parent", ["../grand.yaml"], p="parent")
    child = write(tmp_path, "child", ["sub/parent.yaml"], c="child")
    constitution = load_constitution(child)
    assert constitution.name == "child"
    assert list(texts(constitution).items()) == [("g", "grand"), ("p", "parent"), ("c", "child")]


def test_a_principle_overrides_the_inherited_one_of_the_same_id(tmp_path):
    write(tmp_path, "parent", x="old", y="kept")
    child = write(tmp_path, "child", ["parent.yaml"], x="new")
    assert texts(load_constitution(child)) == {"x": "new", "y": "kept"}


def test_a_built_in_one_can_be_extended_by_name(tmp_path):
    child = write(tmp_path, "child", ["helpful"], mine="text")
    ids = {p.id for p in load_constitution(child).principles}
    assert ids == {p.id for p in load_constitution("helpful").principles} | {"mine"}


def test_parents_that_disagree_are_refused_unless_overridden(tmp_path):
    first = write(tmp_path, "first", x="one")
    second = write(tmp_path, "second", x="two")
    child = write(tmp_path, "child", ["first.yaml", "second.yaml"])
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(child)
    assert str(caught.value).startswith(f"{child}:3:23: principle 'x' is defined differently")
    assert f"{first}:5:5" in str(caught.value)
    assert f"{second}:5:5" in str(caught.value)
    settled = write(tmp_path, "child", ["first.yaml", "second.yaml"], x="three")
    assert texts(load_constitution(settled)) == {"x": "three"}


def test_a_common_ancestor_is_no_conflict_and_its_examples_come_once(tmp_path):
    write(tmp_path, "base", few_shot="base", x="same")
    write(tmp_path, "left", ["base.yaml"], few_shot="left", left="l")
    write(tmp_path, "right", ["base.yaml"], few_shot="right", right="r")
    child = write(tmp_path, "child", ["left.yaml", "right.yaml"], few_shot="child")
    constitution = load_constitution(child)
    assert texts(constitution) == {"x": "same", "left": "l", "right": "r"}
    examples = [example.messages[0].content for example in constitution.few_shot.comparison]
    assert examples == ["base", "left", "right", "child"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_circles_are_refused(tmp_path, length):
    for i in range(length):
        write(tmp_path, f"c{i}", [f"c{(i + 1) % length}.yaml"], **{f"p{i}": "text"})
    with pytest.raises(ConstitutionError, match=r"circle \(c0\.yaml → .*c0\.yaml\)"):
        load_constitution(tmp_path / "c0.yaml")


def test_a_broken_parent_is_named(tmp_path):
    parent = tmp_path / "parent.yaml"
    parent.write_text("schema: 1\nname: parent\nprinciples: [{id: x}]\n")
    child = write(tmp_path, "child", ["parent.yaml"], y="text")
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(child)
    assert str(caught.value).startswith(f"{parent}:3:14: principle 'x'")
