"""`extends`: inheritance, overriding, conflicts and circles."""

import pytest

from cai.constitution import load_constitution
from cai.constitution.findings import ConstitutionError
from cai.constitution.schema import file_schema


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


TAGGED = """\
schema: 1
name: tagged
principles:
  - {id: x, comparison: one, tags: [red, warm], weight: 2}
  - {id: y, comparison: two, tags: [blue]}
  - {id: z, comparison: three}
few_shot:
  comparison: [{messages: [{role: user, content: u}], responses: [a, b], answer: A}]
"""


def extend(tmp_path, *items, rest=""):
    (tmp_path / "tagged.yaml").write_text(TAGGED)
    path = tmp_path / "child.yaml"
    path.write_text(f"schema: 1\nname: child\nextends: [{', '.join(items)}]\n{rest}")
    return path


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("{from: tagged.yaml}", {"x": 2, "y": 1, "z": 1}),
        ("{from: tagged.yaml, tags: [red]}", {"x": 2}),
        ("{from: tagged.yaml, tags: [warm, blue]}", {"x": 2, "y": 1}),
        ("{from: tagged.yaml, exclude: [x]}", {"y": 1, "z": 1}),
        ("{from: tagged.yaml, tags: [red, blue], exclude: [x]}", {"y": 1}),
        ("{from: tagged.yaml, weight: 0.5}", {"x": 1, "y": 0.5, "z": 0.5}),
    ],
)
def test_a_part_can_be_taken_and_reweighted(tmp_path, item, expected):
    constitution = load_constitution(extend(tmp_path, item))
    assert {p.id: p.weight for p in constitution.principles} == expected
    assert len(constitution.few_shot.comparison) == 1


def test_parts_of_one_parent_can_weigh_differently(tmp_path):
    red = "{from: tagged.yaml, tags: [red], weight: 3}"
    constitution = load_constitution(extend(tmp_path, red, "{from: tagged.yaml, exclude: [x]}"))
    assert {p.id: p.weight for p in constitution.principles} == {"x": 6, "y": 1, "z": 1}
    with pytest.raises(ConstitutionError, match="defined differently"):
        load_constitution(extend(tmp_path, red, "tagged.yaml"))


@pytest.mark.parametrize(
    ("item", "column", "words"),
    [
        ("{from: tagged.yaml, tags: [read]}", 38, "has the tag `read`: did you mean `red`"),
        ("{from: tagged.yaml, exclude: [w]}", 41, "has the id `w`: known are x, y, z"),
        ("{from: tagged.yaml, tags: [red], exclude: [x]}", 11, "nothing of 'tagged' is left"),
        ("{from: nowhere.yaml}", 18, "no constitution 'nowhere.yaml'"),
        ("{from: tagged.yaml, tag: [red]}", 31, "did you mean `tags`"),
        ("{from: tagged.yaml, tags: []}", 37, "`tags` is empty or too short"),
        ("{from: tagged.yaml, weight: 0}", 39, "item 1 of `extends`: `weight` must be above 0"),
        ("{tags: [red]}", 11, "item 1 of `extends`: `from` is missing"),
        ("''", 11, "`from` is empty"),
        ("3", 11, "item 1 of `extends` must be a name or a path, or a mapping with `from`"),
    ],
)
def test_parts_that_are_not_there_are_refused(tmp_path, item, column, words):
    path = extend(tmp_path, item)
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(path)
    (finding,) = caught.value.findings
    assert words in finding.message
    assert (finding.place.line, finding.place.column) == (3, column)


def test_the_schema_allows_both_forms():
    schema = file_schema()
    text, mapping = schema["properties"]["extends"]["items"]["anyOf"]
    assert text == {"type": "string", "minLength": 1}
    assert mapping == {"$ref": "#/$defs/Extension"}
    assert schema["$defs"]["Extension"]["required"] == ["from"]
