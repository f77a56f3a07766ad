"""Texts change in place: comments, order and layout of the user's file stay."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import load_constitution
from cai.constitution.editing import replace_texts
from cai.errors import CaiError

FILE = """\
# mine, with care
schema: 1
name: mine   # short
principles:

  - id: plain       # keep me
    critique: Say what is wrong.   # and me
    revision: 'Don''t: rewrite.'
    comparison: "Which is \\"better\\"?"
  # between two
  - id: blocks
    critique: >-
      Folded text that goes on
      over two lines.

    # after a block
    revision: |
      First line.
      Second line.
    comparison: &shared
      Over two
      plain lines
    weight: 2
  - {id: flow, critique: Say it., revision: Do it.}
  - id: last
    comparison: *shared
    tags: [a, b]
"""
HALVES = [
    (0, "critique"),
    (0, "revision"),
    (0, "comparison"),
    (1, "critique"),
    (1, "revision"),
    (2, "critique"),
]
LONG = "Say at length what is wrong with the response. " * 5


def at(number, half):
    return "principles", number, half


def lines_kept(old: str, new: str) -> list[str]:
    return [line for line in old.splitlines() if line in new.splitlines()]


@pytest.mark.parametrize(("number", "half"), HALVES)
@pytest.mark.parametrize(
    "text",
    ["New.", LONG, "a: b # no comment", "one\n\n  two\nthree", "- 'x' \"y\"", "no", "😀\u202e"],
)
def test_one_text_changes_and_nothing_else(number, half, text):
    changed = replace_texts(FILE, {at(number, half): text})
    wanted = yaml.safe_load(FILE)
    wanted["principles"][number][half] = text.strip()
    found = yaml.safe_load(changed)
    found["principles"][number][half] = found["principles"][number][half].strip()
    assert found == wanted
    for comment in ("mine, with care", "short", "keep me", "between two", "after a block"):
        assert f"# {comment}" in changed
    untouched = [n for n in range(4) if n != number]
    blocks = FILE.split("  - ")[1:]
    assert all(blocks[n] in changed for n in untouched)


def test_a_text_keeps_its_style():
    edits = {at(0, "critique"): "New.", at(0, "revision"): "Don't.", at(1, "critique"): "Short."}
    changed = replace_texts(FILE, edits)
    assert "    critique: New.   # and me\n    revision: 'Don''t.'\n" in changed
    assert "    critique: >-\n      Short.\n\n    # after a block\n" in changed
    literal = replace_texts(FILE, {at(1, "revision"): "One.\nTwo.\nThree."})
    assert "    revision: |\n      One.\n      Two.\n      Three.\n    comparison" in literal
    assert lines_kept(FILE, changed) == [
        line for line in FILE.splitlines() if line.strip() not in {
            "critique: Say what is wrong.   # and me",
            "revision: 'Don''t: rewrite.'",
            "Folded text that goes on",
            "over two lines.",
        }
    ]  # fmt: skip


def test_long_text_is_folded_and_short_text_is_left_on_its_line():
    changed = replace_texts("a:\n  critique: Short.\n", {("a", "critique"): LONG})
    assert changed.startswith("a:\n  critique: >-\n    Say at length")
    assert max(map(len, changed.splitlines())) <= 100


def test_line_ends_of_other_systems_stay():
    changed = replace_texts(FILE.replace("\n", "\r\n"), {at(1, "critique"): LONG})
    assert changed.count("\r\n") == changed.count("\n")
    assert yaml.safe_load(changed)["principles"][1]["critique"] == LONG.strip()


@pytest.mark.parametrize("place", [at(1, "comparison"), at(3, "comparison")])
def test_a_text_that_an_alias_repeats_is_left_alone(place):
    with pytest.raises(CaiError, match="edit the file by hand"):
        replace_texts(FILE, {place: "New."})


@pytest.mark.parametrize("place", [at(2, "comparison"), at(9, "critique"), ("principles",)])
def test_a_text_that_is_not_there_is_not_made(place):
    with pytest.raises(CaiError, match="add it by hand"):
        replace_texts(FILE, {place: "New."})


def test_a_file_without_a_last_line_end():
    assert replace_texts("a: >-\n  b", {("a",): "c"}) == "a: >-\n  c"


@settings(deadline=None, max_examples=40)
@given(
    st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: t.strip()),
    st.sampled_from(HALVES),
)
def test_any_text_is_read_back(text, place):
    changed = replace_texts(FILE, {at(*place): text})
    number, half = place
    assert yaml.safe_load(changed)["principles"][number][half].strip() == text.strip()


def test_every_text_of_the_shipped_constitutions_can_be_edited(tmp_path: Path):
    path = Path(__file__).parents[2] / "constitutions" / "playground.yaml"
    source = path.read_text()
    written = yaml.safe_load(source)["principles"]
    edits = {
        at(n, half): f"{principle[half]} And say why."
        for n, principle in enumerate(written)
        for half in ("critique", "revision", "comparison")
    }
    copy = tmp_path / "mine.yaml"
    copy.write_text(replace_texts(source, edits))
    before, after = load_constitution(path), load_constitution(copy)
    assert [p.critique for p in after.principles] == [
        f"{p.critique} And say why." for p in before.principles
    ]
    assert [p.tests for p in after.principles] == [p.tests for p in before.principles]
    assert copy.read_text().splitlines()[:3] == source.splitlines()[:3]
