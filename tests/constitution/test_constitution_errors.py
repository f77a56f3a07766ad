"""Broken constitution files: every fault is found, with its place and a fix."""

import contextlib
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.compare import FORMS
from cai.constitution import load_constitution
from cai.constitution.findings import ConstitutionError
from cai.errors import CaiError

HEAD = "schema: 1\nname: test\n"


def findings_of(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(path)
    return caught.value.findings


def assert_one(tmp_path, text, line, column, *words):
    """The file has exactly one error, there, and its message holds these words."""
    findings = findings_of(tmp_path, text)
    assert [(f.place.line, f.place.column) for f in findings] == [(line, column)], findings
    for word in words:
        assert word in findings[0].message


def principle(body):
    lines = "".join(f"    {line}\n" for line in dedent(body).strip().splitlines())
    return f"{HEAD}principles:\n  - id: x\n{lines}"


@pytest.mark.parametrize(
    ("body", "line", "column", "words"),
    [
        ("critique: c", 4, 5, ("principle 'x'", "`critique` without `revision`", "add")),
        ("revision: r", 4, 5, ("`revision` without `critique`",)),
        ("weight: 2", 4, 5, ("is empty", "`comparison`")),
        ("comparison: c\nrevison: r", 6, 5, ("`revison` is unknown", "did you mean `revision`")),
        ("comparison: c\nzzzz: r", 6, 5, ("`zzzz`", "known are", "weight")),
        ("comparison: ''", 5, 17, ("`comparison` is empty",)),
        ("comparison: '  '", 5, 17, ("`comparison` is empty",)),
        ("comparison: 3", 5, 17, ("is not text", "quotes")),
        ("comparison: yes", 5, 17, ("is not text", "quotes")),
        ("comparison: c\nweight: .nan", 6, 13, ("`weight`", "finite")),
        ("comparison: c\nweight: .inf", 6, 13, ("`weight`", "finite")),
        ("comparison: c\nweight: 0", 6, 13, ("`weight`", "above 0")),
        ("comparison: c\nweight: -1", 6, 13, ("`weight`", "above 0")),
        ("comparison: c\nweight: true", 6, 13, ("`weight` is not a number",)),
        ("comparison: c\nweight: 1e-3", 6, 13, ("`weight` is not a number", "exponent")),
        ("comparison: c\nweight: " + "9" * 400, 6, 13, ("`weight`",)),
        ("comparison: c\nweight: " + "9" * 9000, 6, 13, ("int",)),
        ("comparison: c\ntags: harm", 6, 11, ("`tags` must be a list",)),
        ("comparison: c\ntags: [ok, not ok]", 6, 16, ("`tags[1]`", "letters")),
        ("comparison: c\ncomparison: d", 6, 5, ("`comparison`", "line 5")),
        ("comparison: c\ndescription:", 6, 17, ("nothing stands here",)),
        ("comparison: !python/name:os.system c", 5, 17, ("tag",)),
        ('comparison: "\\ud800"', 5, 17, ("surrogate",)),
        ("comparison: c\ntests: [{prompt: p, better: b}]", 6, 13, ("test 1 of principle 'x'",)),
        ("comparison: c\n? [a]\n: b", 6, 7, ("key",)),
        ('comparison: c\n"\\ud800": b', 6, 5, ("key",)),
    ],
)
def test_faults_of_a_principle(tmp_path, body, line, column, words):
    assert_one(tmp_path, principle(body), line, column, *words)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, ("empty", "cai constitution new")),
        ("# only a comment\n", 1, 1, ("empty",)),
        ("just a text\n", 1, 1, ("mapping",)),
        ("- a\n- b\n", 1, 1, ("mapping",)),
        (b"schema: 1\nname: caf\xe9\n", 2, 10, ("0xe9", "UTF-8")),
        (b"\xff\xfes\x00c\x00", 1, 1, ("UTF-8",)),
        (b"schema: 1\nname: a\x00b\n", 2, 8, ("U+0000",)),
        ("schema: 1\nname: [a\n", 3, 1, ("broken", "close the bracket")),
        ("schema: 1\nprinciples: [{id: x, comparison: Why?}]\n", 2, 37, ("broken", "quotes")),
        ("schema: 1\nprinciples:\n\t- id: x\n", 3, 1, ("broken", "spaces", "tabs")),
        ("schema: 1\nname: a\ndescription: who: what\n", 3, 17, ("broken", "quotes")),
        (HEAD + "principles: []\n---\nschema: 1\n", 4, 1, ("one document",)),
        ('schema: 1\nname: "\\UFFFFFFFF"\n', 1, 1, ("escape",)),
        ("[" * 500, 1, 1, ("nested",)),
        ("schema: 2\nname: a\nprinciples: [{id: x, comparison: c}]\n", 1, 9, ("`schema: 1`",)),
        ("schema: '1'\nname: a\nprinciples: [{id: x, comparison: c}]\n", 1, 9, ("`schema: 1`",)),
        ("name: a\nprinciples: [{id: x, comparison: c}]\n", 1, 1, ("`schema: 1`",)),
        ("schema: 1\nprinciples: [{id: x, comparison: c}]\n", 1, 1, ("`name` is missing",)),
        ("schema: 1\nname: no\nprinciples: [{id: x, comparison: c}]\n", 2, 7, ("not text",)),
        ("schema: 1\nname: a b\nprinciples: [{id: x, comparison: c}]\n", 2, 7, ("letters",)),
        (HEAD, 1, 1, ("no principle", "`extends`")),
        (HEAD + "principles: []\n", 1, 1, ("no principle",)),
        (HEAD + "principles: x\n", 3, 13, ("`principles` must be a list",)),
        (HEAD + "principles: [x]\n", 3, 14, ("principle 1 must be a mapping",)),
        (HEAD + "principels: []\n", 3, 1, ("did you mean `principles`",)),
        (HEAD + "extends: harmless\n", 3, 10, ("`extends` must be a list",)),
        (HEAD + "extends: [harmles]\n", 3, 11, ("did you mean harmless", "Built in are")),
        (HEAD + "extends: &a [*a]\n", 3, 10, ("alias",)),
    ],
)
def test_faults_of_a_file(tmp_path, text, line, column, words):
    assert_one(tmp_path, text, line, column, *words)


def test_faults_of_worked_examples(tmp_path):
    findings = findings_of(
        tmp_path,
        """\
        schema: 1
        name: a
        principles: [{id: x, comparison: c}]
        few_shot:
          comparison:
            - messages: [{role: human, content: hi}]
              responses: [one]
              answer: C
            - messages: [{role: assistant, content: hi}]
              responses: [one, two]
              answer: A
        """,
    )
    told = [(f.place.line, f.message) for f in findings]
    assert [line for line, _ in told] == [6, 7, 8, 9]
    assert "message 1 of comparison example 1: `role`" in told[0][1]
    assert "`responses[1]` is missing" in told[1][1]
    assert "`answer` must be 'A' or 'B'" in told[2][1]
    assert "comparison example 2: `messages` must end with" in told[3][1]


def test_all_faults_are_listed_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        HEAD
        + "principles:\n"
        + "  - id: x\n    critique: c\n"
        + "  - id: y\n    comparison: ''\n"
        + "  - id: x\n    comparison: c\n"
    )
    with pytest.raises(CaiError) as caught:
        load_constitution(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}:4:5: principle 'x' has `critique` without `revision`")
    assert lines[1].startswith(f"{path}:7:17: principle 'y': `comparison` is empty")
    assert lines[2].startswith(f"{path}:8:9: the id 'x' stands here and in line 4")
    assert len(lines) == 3


def test_a_missing_file_names_the_built_in_ones_and_what_is_close(tmp_path):
    (tmp_path / "mine.yaml").write_text(HEAD)
    with pytest.raises(
        CaiError, match=r"did you mean .*mine\.yaml.*Built in are harmless, helpful"
    ):
        load_constitution(tmp_path / "mime.yaml")
    with pytest.raises(CaiError, match="did you mean harmless"):
        load_constitution("harmlss")
    with pytest.raises(CaiError, match=r"is a folder.*mine\.yaml"):
        load_constitution(tmp_path)


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path):
    path = tmp_path / "c.yaml"
    text = (HEAD + "principles:\n  - id: x\n    comparison: |\n      one\n").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_constitution(path).principles[0].comparison == "one"


def test_how_a_yaml_block_ends_does_not_change_the_text(tmp_path):
    texts = set()
    hashes = set()
    for style in ("|", "|-", "|+", ">", ">-"):
        path = tmp_path / "c.yaml"
        path.write_text(
            HEAD + f"principles:\n  - id: x\n    comparison: {style}\n      one two\n\n"
        )
        principle = load_constitution(path).principles[0]
        texts.add(principle.comparison)
        hashes.add(FORMS["comparison"].text_hash(principle))
    assert texts == {"one two"}
    assert len(hashes) == 1


def test_a_text_may_be_repeated_by_an_alias(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        HEAD + "principles: [{id: x, comparison: &t the text}, {id: y, comparison: *t}]\n"
    )
    assert [p.comparison for p in load_constitution(path).principles] == ["the text"] * 2


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_politely(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConstitutionError, match=r"c\.yaml:\d+:\d+: "):
        load_constitution(path)


YAML_PIECES = [
    *("schema: 1\n", "name: a\n", "principles:\n", "id: x\n", "comparison: c\n", "tests: "),
    *(
        "few_shot:\n",
        "critique: ",
        "messages: ",
        "extends: ",
        "weight: ",
        "- ",
        "  ",
        "{",
        "}",
        "[",
    ),
    *(
        "]",
        ": ",
        "&a ",
        "*a ",
        "!!int ",
        "? ",
        "|\n",
        "null\n",
        "2024-99-99\n",
        "\t",
        "'",
        '"',
        "\\x",
    ),
    *("<<: ", "1_0:60\n", "% "),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(YAML_PIECES), max_size=25).map("".join))
def test_any_yaml_is_read_or_refused_politely(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    path.write_text(text)
    with contextlib.suppress(ConstitutionError):
        load_constitution(path)
