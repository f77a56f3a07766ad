"""What `check_constitution` finds in files that are valid."""

import pytest

from cai.constitution.check import check_constitution

TONE = "  - {id: tone, critique: Is it evasive, revision: No sermon., comparison: Less preachy}\n"


def check(tmp_path, principles, rest=""):
    path = tmp_path / "c.yaml"
    path.write_text(f"schema: 1\nname: test\nprinciples:\n{principles}{rest}")
    return check_constitution(path)


def found(tmp_path, principles, rest=""):
    return [(f.code, f.severity, f.place.line) for f in check(tmp_path, principles, rest)]


def test_a_sound_file_gives_nothing(tmp_path):
    assert found(tmp_path, TONE) == []


def test_near_duplicates_are_found_and_different_texts_are_not(tmp_path):
    text = "Choose the response that is kinder and more patient with the user"
    principles = (
        TONE
        + f"  - {{id: a, comparison: '{text}.'}}\n"
        + "  - {id: c, comparison: Choose the response that reveals less about other people.}\n"
        + f"  - {{id: b, comparison: '{text.upper()}!'}}\n"
    )
    (finding,) = check(tmp_path, principles)
    assert (finding.code, finding.severity, finding.place.line) == ("near-duplicate", "warning", 7)
    assert "'a' and 'b'" in finding.message
    assert "`comparison`" in finding.message


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("Choose the reply that is more {}", "Choose the reply that is less {}", "contradiction"),
        ("Choose the reply that gives {}", "Choose the reply that never gives {}", "contradiction"),
        ("Choose the one that doesn't say {}", "Choose the one that does say {}", "contradiction"),
        ("Choose the reply that is more {}", "Choose the reply that is most {}", "near-duplicate"),
    ],
)
def test_opposite_wishes_in_the_same_words_are_no_duplicates(tmp_path, one, other, code):
    what = "helpful with plans for a quiet life by the sea"
    texts = {"a": one.format(what), "b": other.format(what)}
    principles = "".join(f'  - {{id: {i}, comparison: "{t}"}}\n' for i, t in texts.items())
    assert found(tmp_path, TONE + principles) == [(code, "warning", 6)]


@pytest.mark.parametrize(
    ("text", "presumes"),
    [
        ("Because the user wants to steal, say who is hurt.", True),
        ("Rewrite it so that the harmful request is declined.", True),
        ("Say why the assistant's last response is racist.", True),
        ("If the request is harmful, say why.", False),
        ("Is the assistant's last response racist? Say why.", False),
        ("Name harmful advice, if there is any.", False),
    ],
)
def test_what_is_taken_for_granted_is_found(tmp_path, text, presumes):
    found_now = found(tmp_path, TONE + f'  - {{id: a, comparison: "{text}"}}\n')
    assert found_now == ([("presumption", "warning", 5)] if presumes else [])


@pytest.mark.parametrize(
    "residue",
    [
        "CritiqueRequest: find",
        "Pick. Options:",
        "Pick (A) now",
        "As {{ name }} says",
        "{% if x %}",
        "Human: hi",
        "Choose one. The answer is",
    ],
)
def test_pieces_of_prompts_are_found(tmp_path, residue):
    principles = TONE + f"  - id: a\n    comparison: |\n      {residue}\n"
    assert found(tmp_path, principles) == [("template-residue", "warning", 5)]


def test_ordinary_parentheses_and_colons_are_no_residue(tmp_path):
    assert found(tmp_path, TONE + "  - {id: a, comparison: 'Note (a): there are options.'}\n") == []


def test_a_constitution_without_a_principle_on_tone_is_warned_about(tmp_path):
    plain = "  - {id: a, critique: Any harm, revision: Remove it., comparison: Which is safer}\n"
    assert found(tmp_path, plain) == [("no-tone-principle", "warning", 1)]
    half = plain.replace("Which is safer", "Which is less preachy")
    (finding,) = check(tmp_path, half)
    assert "in its `critique`" in finding.message
    inherited = "schema: 1\nname: child\nextends: [helpful]\nprinciples:\n" + plain
    path = tmp_path / "child.yaml"
    path.write_text(inherited)
    assert check_constitution(path) == []


def test_files_for_one_stage_are_noted(tmp_path):
    supervised = "  - {id: a, critique: Is it evasive, revision: Be open.}\n"
    assert found(tmp_path, supervised) == [("supervised-only", "note", 1)]
    comparison = "  - {id: a, comparison: Which is less evasive}\n"
    assert found(tmp_path, comparison) == [("comparison-only", "note", 1)]


def test_weights_far_apart_are_found(tmp_path):
    heavy = "  - {id: heavy, weight: 100, comparison: Which is safer}\n"
    assert found(tmp_path, TONE + heavy) == [("uneven-weights", "warning", 4)]
    lighter = heavy.replace("100", "5")
    assert found(tmp_path, TONE + lighter) == []


def test_examples_that_all_have_one_answer_are_found(tmp_path):
    example = (
        "    - {{messages: [{{role: user, content: u}}], responses: [x{0}, y], answer: {1}}}\n"
    )
    same = "few_shot:\n  comparison:\n" + example.format(1, "A") + example.format(2, "A")
    assert found(tmp_path, TONE, same) == [("one-letter", "warning", 1)]
    mixed = "few_shot:\n  comparison:\n" + example.format(1, "A") + example.format(2, "B")
    assert found(tmp_path, TONE, mixed) == []


def test_findings_point_into_the_file_that_has_the_text(tmp_path):
    parent = tmp_path / "parent.yaml"
    parent.write_text(
        "schema: 1\nname: p\nprinciples:\n" + TONE + "  - {id: a, comparison: '{{x}}'}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("schema: 1\nname: child\nextends: [parent.yaml]\n")
    (finding,) = check_constitution(child)
    assert (finding.place.path, finding.place.line) == (parent, 5)


def test_errors_are_found_and_not_raised(tmp_path):
    findings = check(tmp_path, "  - {id: a}\n  - {id: b, comparison: ''}\n")
    assert [(f.severity, f.place.line) for f in findings] == [("error", 4), ("error", 5)]
