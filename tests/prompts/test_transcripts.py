"""Transcripts to messages: markers, paragraphs, and the habits of published transcripts."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.data.conversation import Message, to_transcript
from cai.data.prompts.transcripts import is_transcript, parse_transcript, split_turns
from cai.errors import CaiError


def turns(text):
    return [(turn.role, turn.content) for turn in parse_transcript(text)]


def test_blank_lines_inside_a_turn_do_not_end_it():
    text = (
        "\n\nHuman: One.\n\nTwo.\n\nAssistant: First:\n\n- a\n\nHuman is a word: yes.\n\nHuman: Ok"
    )
    assert turns(text) == [
        ("user", "One.\n\nTwo."),
        ("assistant", "First:\n\n- a\n\nHuman is a word: yes."),
        ("user", "Ok"),
    ]


def test_a_speaker_in_the_middle_of_a_line_or_after_one_line_break_is_text():
    text = "Human: He said. Assistant: no.\nAssistant: not me\n\nAssistant: I see"
    assert turns(text) == [
        ("user", "He said. Assistant: no.\nAssistant: not me"),
        ("assistant", "I see"),
    ]


def test_neighbouring_turns_of_one_speaker_are_joined_on_request():
    text = "\n\nHuman: Go\n\nAssistant: Well:\n\nAssistant:  Done"
    assert turns(text) == [("user", "Go"), ("assistant", "Well:\n\nDone")]
    assert [turn.content for turn in split_turns(text)] == ["Go", "Well:", "Done"]


def test_a_swallowed_marker_is_removed_and_the_turn_keeps_its_speaker():
    text = "\n\nHuman: Hi\n\nAssistant: Human:  Hello.\n\nHuman: Bye"
    assert turns(text) == [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")]


def test_an_empty_last_turn_is_kept():
    assert turns("\n\nHuman: Hi\n\nAssistant: ")[-1] == ("assistant", "")
    assert turns("\n\nHuman: Hi\n\nAssistant:")[-1] == ("assistant", "")


def test_system_turns_curly_quotes_and_windows_line_ends():
    text = "System: Be “kind”.\r\n\r\nHuman: It’s me\r\n\r\nAssistant: Hm"
    assert turns(text) == [("system", "Be “kind”."), ("user", "It’s me"), ("assistant", "Hm")]


def test_extra_id_markup():
    text = "<extra_id_0>System\n\n<extra_id_1>User\nWhy?\n\nReally.\n<extra_id_1>Assistant\n"
    assert turns(text) == [("user", "Why?\n\nReally."), ("assistant", "")]
    text = "<extra_id_0>System\nBe brief.\n<extra_id_1>User\nWhy?\n<extra_id_1>Assistant\nSo.\n"
    assert turns(f"{text}<extra_id_1>") == [
        ("system", "Be brief."),
        ("user", "Why?"),
        ("assistant", "So."),
    ]


@pytest.mark.parametrize("text", ["Plain words", "", "Note: Human: x", "A\n\nHuman: x"])
def test_text_that_opens_with_no_speaker_is_refused(text):
    assert not is_transcript(text)
    with pytest.raises(CaiError, match="not a transcript"):
        parse_transcript(text)


def test_a_prompt_that_opens_like_a_transcript_is_one_only_if_a_human_speaks():
    assert is_transcript("Human: hello")
    assert is_transcript("System: be kind\n\nHuman: hello")
    assert not is_transcript("System: out of memory. What does it mean?")
    assert not is_transcript("Assistant: a job description, please")


CONTENT = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not re.search(r"(Human|Assistant|System):|<extra_id", text))
)


@given(st.lists(CONTENT, min_size=1, max_size=7), st.none() | CONTENT)
def test_parsing_undoes_writing(contents, system):
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=text) for i, text in enumerate(contents)]
    if system:
        messages.insert(0, Message(role="system", content=system))
    assert parse_transcript(to_transcript(messages)) == tuple(messages)


@given(st.text())
def test_any_text_is_a_transcript_or_refused(text):
    conversation = parse_transcript(f"Human: {text}")
    assert conversation[0].role == "user"
    assert all(a.role != b.role for a, b in pairwise(conversation))
